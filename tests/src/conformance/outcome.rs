//! What the tests of one program came to, and where two runs of it differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// From a test's name to what it came to, in the suite's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<String, String>);

/// One test that did not come to the same in both runs; `None` where it was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub test: String,
    pub expected: Option<String>,
    pub found: Option<String>,
}

impl Outcomes {
    /// A name that comes again (parametrized tests) is counted on.
    pub fn add(&mut self, test: &str, outcome: impl Into<String>) {
        let mut name = test.to_owned();
        let mut count = 1;
        while self.0.contains_key(&name) {
            count += 1;
            name = format!("{test} #{count}");
        }
        self.0.insert(name, outcome.into());
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, test: &str) -> Option<&str> {
        self.0.get(test).map(String::as_str)
    }

    /// Every test of either run that is not the same in both.
    pub fn differences(&self, found: &Self) -> Vec<Difference> {
        let tests: BTreeSet<&String> = self.0.keys().chain(found.0.keys()).collect();
        let both = tests
            .into_iter()
            .map(|test| (test, self.0.get(test), found.0.get(test)));
        both.filter(|(_, expected, found)| expected != found)
            .map(|(test, expected, found)| Difference {
                test: test.clone(),
                expected: expected.cloned(),
                found: found.cloned(),
            })
            .collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |outcome: &Option<String>| outcome.clone().unwrap_or_else(|| "not run".into());
        write!(
            f,
            "{}: {}, not {}",
            self.test,
            word(&self.found),
            word(&self.expected)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(pairs: &[(&str, &str)]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for (test, outcome) in pairs {
            outcomes.add(test, *outcome);
        }
        outcomes
    }

    #[test]
    fn finds_what_differs_and_what_is_missing() {
        let expected = outcomes(&[("a", "ok"), ("b", "ok"), ("c", "ok")]);
        let found = outcomes(&[("a", "ok"), ("b", "FAIL"), ("d", "ok")]);
        let shown: Vec<String> = expected
            .differences(&found)
            .iter()
            .map(Difference::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "b: FAIL, not ok",
                "c: not run, not ok",
                "d: ok, not not run"
            ]
        );
        assert!(expected.differences(&expected).is_empty());
    }

    #[test]
    fn a_name_that_comes_again_is_another_test() {
        let twice = outcomes(&[("a", "ok"), ("a", "FAIL")]);
        assert_eq!(twice.len(), 2);
        assert_eq!(twice.get("a #2"), Some("FAIL"));
    }
}
