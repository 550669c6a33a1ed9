//! The tests of Go's standard library, built outside, run inside next to their sources.
//!
//! Go's programs are static with fixed addresses, have no libc, and make their system calls and threads themselves.

use super::{Outcomes, Program, Suite};
use std::path::PathBuf;

/// Packages whose tests are about the system.
pub const PACKAGES: &[&str] = &[
    "os",
    "os/exec",
    "os/signal",
    "net",
    "net/http",
    "syscall",
    "runtime",
    "sync",
    "sync/atomic",
    "time",
    "io/fs",
    "bufio",
    "context",
    "path/filepath",
    "internal/poll",
    "os/user",
];
/// Where the sources are, outside and inside.
pub const GOROOT: &str = "/usr/share/go-1.19";
/// The Go command: some tests ask where it is. Others would build programs if they found it, for minutes.
const TOOLS: &str = "/usr/lib/go-1.19";
const NEED_GO: &[&str] = &["os"];
const INSIDE: &str = "/opt/go-tests";

#[derive(Debug)]
pub struct Go {
    /// Where the test programs have been built.
    pub tests: PathBuf,
}

/// The file with the tests of `package`.
pub fn file_name(package: &str) -> String {
    format!("{}.test", package.replace('/', "-"))
}

impl Suite for Go {
    fn name(&self) -> &'static str {
        "go"
    }

    fn title(&self) -> &'static str {
        "Go 1.19's standard library"
    }

    fn programs(&self) -> Vec<Program> {
        let program = |package: &&str| {
            let file = format!("{INSIDE}/{}", file_name(package));
            let source = format!("--workdir={GOROOT}/src/{package}");
            let tests = format!("--volume={}:{INSIDE}:ro", self.tests.display());
            let sources = format!("--volume={GOROOT}:{GOROOT}:ro");
            // A hang ends with a trace of all goroutines.
            let command = [
                file.as_str(),
                "-test.v",
                "-test.short",
                "-test.timeout=150s",
            ];
            let goroot = format!("--env=GOROOT={GOROOT}");
            let mut options = vec![source, tests, sources, goroot];
            if NEED_GO.contains(package) {
                options.push(format!("--volume={TOOLS}:{TOOLS}:ro"));
                options.push(format!(
                    "--env=PATH={TOOLS}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
                ));
            }
            let mut program = Program::new(package, &command, 200);
            program.options = options;
            program
        };
        PACKAGES.iter().map(program).collect()
    }

    /// `--- PASS: TestName (0.00s)`, indented for a subtest.
    fn outcomes(&self, stdout: &str) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let mut running: Vec<&str> = Vec::new();
        for line in stdout.lines() {
            if let Some(test) = line.strip_prefix("=== RUN   ") {
                running.push(test);
                continue;
            }
            // What a test has printed may be in front.
            let Some((_, said)) = line.split_once("--- ") else {
                continue;
            };
            let Some((word, rest)) = said.split_once(": ") else {
                continue;
            };
            let Some((test, _)) = rest.rsplit_once(" (") else {
                continue;
            };
            if ["PASS", "FAIL", "SKIP"].contains(&word) {
                running.retain(|name| *name != test);
                outcomes.add(test, word);
            }
        }
        for test in running {
            outcomes.add(test, "no end");
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_outcomes_of_tests_and_subtests() {
        let output = "\
=== RUN   TestA
=== RUN   TestA/sub
--- FAIL: TestA (0.00s)
    --- SKIP: TestA/sub (0.00s)
=== RUN   TestB
printed--- PASS: TestB (0.10s)
=== RUN   TestC
panic: test timed out";
        let go = Go {
            tests: PathBuf::new(),
        };
        let outcomes = go.outcomes(output);
        let expected = [
            ("TestA", "FAIL"),
            ("TestA/sub", "SKIP"),
            ("TestB", "PASS"),
            ("TestC", "no end"),
        ];
        for (test, outcome) in expected {
            assert_eq!(outcomes.get(test), Some(outcome), "{test}");
        }
        assert_eq!(outcomes.len(), expected.len());
    }
}
