//! The differences that are known: each has a reason, and each must still be there.

use anyhow::{Context as _, Result, ensure};

const LIST: &str = include_str!("reasons.txt");

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// `own`, `shared`, or `*` for both.
    placement: String,
    /// `suite program test`; a `*` at the end of a part stands for any rest.
    suite: String,
    program: String,
    test: String,
    pub reason: String,
}

impl Known {
    fn parse(line: &str) -> Result<Self> {
        let (what, reason) = line
            .split_once(" | ")
            .with_context(|| format!("no reason in {line:?}"))?;
        let words: Vec<&str> = what.split_whitespace().collect();
        ensure!(
            words.len() >= 4,
            "not PLACEMENT SUITE PROGRAM TEST in {line:?}"
        );
        Ok(Self {
            placement: words[0].to_owned(),
            suite: words[1].to_owned(),
            program: words[2].to_owned(),
            test: words[3..].join(" "),
            reason: reason.trim().to_owned(),
        })
    }

    /// Whether this entry speaks of `program` in `placement` at all.
    pub fn is_about(&self, placement: &str, suite: &str, program: &str) -> bool {
        matches(&self.placement, placement)
            && matches(&self.suite, suite)
            && matches(&self.program, program)
    }

    pub fn covers(&self, test: &str) -> bool {
        matches(&self.test, test)
    }

    /// As in the list, without the reason.
    pub fn name(&self) -> String {
        format!(
            "{} {} {} {}",
            self.placement, self.suite, self.program, self.test
        )
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == text, |start| text.starts_with(start))
}

/// The checked-in list.
pub fn known() -> Result<Vec<Known>> {
    parse(LIST)
}

fn parse(list: &str) -> Result<Vec<Known>> {
    let lines = list.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(Known::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_read() {
        assert!(known().is_ok());
    }

    #[test]
    fn an_entry_covers_what_it_names() {
        let list =
            parse("# comment\n\nshared python test_x Class.test_* | because\n").unwrap_or_default();
        assert_eq!(list.len(), 1);
        let entry = &list[0];
        assert!(entry.is_about("shared", "python", "test_x"));
        assert!(!entry.is_about("own", "python", "test_x"));
        assert!(entry.covers("Class.test_a") && !entry.covers("Other.test_a"));
        assert_eq!(entry.reason, "because");
        assert!(parse("own python test_x | too short").is_err());
        assert!(parse("own python test_x test_y no reason").is_err());
    }
}
