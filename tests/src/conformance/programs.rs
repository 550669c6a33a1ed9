//! Real programs, each doing a piece of its usual work and printing `what: result` lines.
//!
//! The script comes on standard input; a shell writes it to a file and executes the interpreter in its place, so that
//! the program is the container's first process and its threads and forks are in the vkernel.

use super::{Outcomes, Program, Suite};

/// Name, the command that runs /tmp/script, the script, and the exit status that says that it came to its end.
const PROGRAMS: &[(&str, &str, &str, i32)] = &[
    (
        "perl",
        "exec perl /tmp/script",
        include_str!("scripts/work.pl"),
        5,
    ),
    (
        "ruby",
        "exec ruby /tmp/script",
        include_str!("scripts/work.rb"),
        6,
    ),
    (
        "php",
        "exec php /tmp/script",
        include_str!("scripts/work.php"),
        6,
    ),
    (
        "node",
        "exec node /tmp/script",
        include_str!("scripts/work.js"),
        6,
    ),
    (
        "java",
        "mv /tmp/script /tmp/Work.java; exec java /tmp/Work.java",
        include_str!("scripts/Work.java"),
        6,
    ),
    (
        "sqlite",
        "exec sqlite3 /tmp/data < /tmp/script",
        include_str!("scripts/work.sql"),
        6,
    ),
    (
        "git",
        "exec sh /tmp/script",
        include_str!("scripts/git.sh"),
        0,
    ),
    (
        "gcc",
        "exec sh /tmp/script",
        include_str!("scripts/gcc.sh"),
        6,
    ),
    (
        "postgresql",
        "exec bash /tmp/script",
        include_str!("scripts/postgresql.sh"),
        0,
    ),
];

pub struct Programs;

impl Suite for Programs {
    fn name(&self) -> &'static str {
        "programs"
    }

    fn title(&self) -> &'static str {
        "Real programs"
    }

    fn programs(&self) -> Vec<Program> {
        let program = |(name, run, script, status): &(&str, &str, &str, i32)| {
            let line = format!("cat > /tmp/script; {run}");
            let mut program = Program::new(name, &["/bin/sh", "-c", &line], 180);
            (*script).clone_into(&mut program.input);
            program.status = Some(*status);
            program
        };
        PROGRAMS.iter().map(program).collect()
    }

    fn outcomes(&self, stdout: &str) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for line in stdout.lines() {
            let (what, result) = line.split_once(": ").unwrap_or(("printed", line));
            outcomes.add(what, result);
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_an_outcome() {
        let outcomes = Programs.outcomes("sum: 3\nplain\nplain again\n");
        assert_eq!(outcomes.get("sum"), Some("3"));
        assert_eq!(outcomes.get("printed"), Some("plain"));
        assert_eq!(outcomes.get("printed #2"), Some("plain again"));
    }
}
