//! CPython's own test suite, one module per container.
//!
//! Debian's interpreter has fixed addresses, and `-m test` runs all tests of a module in its own process: threads
//! and forks of it are in the vkernel, what it executes is native.

use super::{Outcomes, Pace, Program, Suite};

/// Modules with the pace they have; the order is that of the report.
const MODULES: &[(&str, Pace)] = &[
    ("test_os", Pace::Quick),
    ("test_posix", Pace::Quick),
    ("test_subprocess", Pace::Slow),
    ("test_signal", Pace::Slow),
    ("test_threading", Pace::Slow),
    ("test_thread", Pace::Slow),
    ("test_socket", Pace::Slow),
    ("test_socketserver", Pace::Slow),
    ("test_selectors", Pace::Slow),
    ("test_select", Pace::Slow),
    ("test_poll", Pace::Slow),
    ("test_epoll", Pace::Quick),
    ("test_asyncio", Pace::Slow),
    ("test_mmap", Pace::Quick),
    ("test_multiprocessing_fork", Pace::Slow),
    ("test_multiprocessing_spawn", Pace::Slow),
    ("test_multiprocessing_forkserver", Pace::Slow),
    ("test_concurrent_futures", Pace::Slow),
    ("test_fcntl", Pace::Quick),
    ("test_ioctl", Pace::Slow),
    ("test_pty", Pace::Slow),
    ("test_openpty", Pace::Quick),
    ("test_tempfile", Pace::Quick),
    ("test_io", Pace::Slow),
    ("test_largefile", Pace::Slow),
    ("test_pathlib", Pace::Quick),
    ("test_shutil", Pace::Slow),
    ("test_ssl", Pace::Slow),
    ("test_sqlite3", Pace::Slow),
    ("test_faulthandler", Pace::Slow),
    ("test_resource", Pace::Quick),
    ("test_time", Pace::Slow),
    ("test_eintr", Pace::Slow),
    ("test_fork1", Pace::Slow),
    ("test_wait3", Pace::Slow),
    ("test_wait4", Pace::Slow),
    ("test_popen", Pace::Quick),
    ("test_queue", Pace::Slow),
    ("test_ctypes", Pace::Slow),
    ("test_gc", Pace::Slow),
    ("test_sys", Pace::Slow),
    ("test_httpservers", Pace::Slow),
    ("test_ftplib", Pace::Slow),
    ("test_urllib2_localnet", Pace::Slow),
];

/// A module that takes this long has hung: the interpreter prints where, and ends.
const HANG_LIMIT_S: &str = "400";
const MODULE_LIMIT_S: u64 = 450;

pub struct Python;

impl Suite for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn title(&self) -> &'static str {
        "CPython 3.11's test suite"
    }

    fn programs(&self) -> Vec<Program> {
        let module = |(name, pace): &(&str, Pace)| {
            let command = [
                "python3",
                "-m",
                "test",
                "-v",
                "--timeout",
                HANG_LIMIT_S,
                name,
            ];
            let mut program = Program::new(name, &command, MODULE_LIMIT_S);
            program.pace = *pace;
            program
        };
        MODULES.iter().map(module).collect()
    }

    fn outcomes(&self, stdout: &str) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut current: Option<String> = None;
        for line in stdout.lines() {
            let rest = match begin(line) {
                Some((test, rest)) => {
                    if let Some(unfinished) = current.replace(test) {
                        outcomes.add(&unfinished, "no end");
                    }
                    rest
                }
                None => line,
            };
            if current.is_some()
                && let Some(word) = end(rest)
                && let Some(test) = current.take()
            {
                outcomes.add(&test, word);
            }
        }
        if let Some(unfinished) = current {
            outcomes.add(&unfinished, "no end");
        }
        outcomes
    }
}

/// `test_a (test.test_x.Class.test_a) ... ok`: the name, and what follows it. The summary of failures at the end has
/// another beginning.
fn begin(line: &str) -> Option<(String, &str)> {
    let (method, rest) = line.split_once(" (")?;
    let (path, rest) = rest.split_once(')')?;
    let is_name = |text: &str| {
        text.chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '.')
    };
    let is_test = is_name(method)
        && is_name(path)
        && path
            .strip_suffix(method)
            .is_some_and(|class| class.ends_with('.'));
    let name = path.strip_prefix("test.").unwrap_or(path);
    is_test.then(|| (name.to_owned(), rest))
}

/// The outcome at the end of a line. What the test itself printed may come before it.
fn end(line: &str) -> Option<String> {
    const WORDS: [&str; 5] = [
        "ok",
        "FAIL",
        "ERROR",
        "expected failure",
        "unexpected success",
    ];
    if let Some((_, reason)) = line.split_once("... skipped ") {
        return Some(format!("skipped {reason}"));
    }
    let is_alone = |before: &str| before.is_empty() || before.ends_with(char::is_whitespace);
    let word = WORDS
        .into_iter()
        .find(|word| line.strip_suffix(word).is_some_and(is_alone))?;
    Some(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
== cwd: /tmp
test_a (test.test_x.One.test_a) ... ok
test_b (test.test_x.One.test_b)
What it is for ... skipped 'needs a reason'
test_c (test.test_x.One.test_c) ... noise
more (noise) here
FAIL
test_d (test.test_x.One.test_d) ... Fatal Python error
test_e (__main__.Two.test_e) ... expected failure
======
FAIL: test_c (test.test_x.One.test_c)
----
test_f (test.test_x.One.test_f) ... ";

    #[test]
    fn reads_one_outcome_for_each_method() {
        let outcomes = Python.outcomes(OUTPUT);
        let expected = [
            ("test_x.One.test_a", "ok"),
            ("test_x.One.test_b", "skipped 'needs a reason'"),
            ("test_x.One.test_c", "FAIL"),
            ("test_x.One.test_d", "no end"),
            ("__main__.Two.test_e", "expected failure"),
            ("test_x.One.test_f", "no end"),
        ];
        for (test, outcome) in expected {
            assert_eq!(outcomes.get(test), Some(outcome), "{test}");
        }
        assert_eq!(outcomes.len(), expected.len());
    }
}
