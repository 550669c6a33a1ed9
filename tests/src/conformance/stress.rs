//! stress-ng with `--verify`, one stressor per container, bounded by operations and by time.

use super::{Outcomes, Program, Suite};

/// By what they exercise. Those that need privileges, devices or a network of their own are left out.
const STRESSORS: &[(&str, &[&str])] = &[
    (
        "processes",
        &[
            "clone",
            "daemon",
            "dnotify",
            "exec",
            "exit-group",
            "fork",
            "forkheavy",
            "kcmp",
            "pidfd",
            "procfs",
            "ptrace",
            "rlimit",
            "session",
            "spawn",
            "vfork",
            "vforkmany",
            "wait",
            "zombie",
        ],
    ),
    (
        "signals",
        &[
            "alarm",
            "itimer",
            "kill",
            "sigabrt",
            "sigchld",
            "sigfd",
            "sigfpe",
            "sigio",
            "signal",
            "signest",
            "sigpending",
            "sigpipe",
            "sigq",
            "sigrt",
            "sigsegv",
            "sigsuspend",
            "sigtrap",
            "sigxcpu",
            "timer",
            "timerfd",
        ],
    ),
    (
        "memory",
        &[
            "brk",
            "fault",
            "madvise",
            "malloc",
            "membarrier",
            "memfd",
            "mincore",
            "mlock",
            "mmap",
            "mmapaddr",
            "mmapfixed",
            "mmapfork",
            "mmapmany",
            "mprotect",
            "mremap",
            "msync",
            "munmap",
            "remap",
            "shm",
            "shm-sysv",
            "stack",
            "stackmmap",
            "vm",
            "vm-addr",
            "vm-splice",
        ],
    ),
    (
        "scheduler",
        &[
            "affinity",
            "context",
            "cyclic",
            "nanosleep",
            "poll",
            "prctl",
            "pthread",
            "schedpolicy",
            "sleep",
            "switch",
            "yield",
        ],
    ),
    (
        "waits",
        &[
            "epoll", "eventfd", "fifo", "futex", "mq", "msg", "pipe", "pipeherd", "poll", "sem",
            "sem-sysv", "splice", "tee",
        ],
    ),
    (
        "sockets",
        &[
            "sock",
            "sockabuse",
            "sockdiag",
            "sockfd",
            "sockmany",
            "sockpair",
            "udp",
        ],
    ),
    (
        "files",
        &[
            "access",
            "chdir",
            "chmod",
            "close",
            "copy-file",
            "dentry",
            "dir",
            "dup",
            "fallocate",
            "fcntl",
            "file-ioctl",
            "filename",
            "flock",
            "fstat",
            "getdent",
            "hdd",
            "inotify",
            "io",
            "lease",
            "link",
            "locka",
            "lockf",
            "lockofd",
            "metamix",
            "open",
            "readahead",
            "rename",
            "seek",
            "sendfile",
            "symlink",
            "sync-file",
            "utime",
            "xattr",
        ],
    ),
    (
        "cpu",
        &[
            "cpu",
            "getrandom",
            "get",
            "rdrand",
            "set",
            "syscall",
            "sysinfo",
            "tsc",
            "vdso",
            "x86syscall",
        ],
    ),
];

pub struct Stress;

impl Suite for Stress {
    fn name(&self) -> &'static str {
        "stress-ng"
    }

    fn title(&self) -> &'static str {
        "stress-ng --verify"
    }

    fn programs(&self) -> Vec<Program> {
        let families = STRESSORS.iter();
        let all = families.flat_map(|(_, stressors)| stressors.iter());
        let mut names: Vec<&str> = all.copied().collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(program).collect()
    }

    /// stress-ng says `pass`, `fail` and `skip` in its own words; how it ends comes with its status.
    fn outcomes(&self, stdout: &str) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for line in stdout.lines() {
            let Some((_, said)) = line.split_once("] ") else {
                continue;
            };
            if line.contains(" fail: ") {
                outcomes.add("verification", without_numbers(said));
            } else if said.contains("skipping stressor") || said.contains("skipped:") {
                outcomes.add("run", "skipped");
            }
        }
        outcomes
    }
}

fn program(stressor: &str) -> Program {
    let (count, operations) = (format!("--{stressor}"), format!("--{stressor}-ops"));
    let command = [
        "stress-ng",
        "--verify",
        "--stdout",
        "--timeout",
        "3",
        "--temp-path",
        "/tmp",
        &count,
        "1",
        &operations,
        "200",
    ];
    // What it fills is memory of its own, not the disk of others.
    Program::new(stressor, &command, 60).options(&["--tmpfs=/tmp:exec,size=1g"])
}

/// Pids, addresses and counts differ between any two runs.
fn without_numbers(text: &str) -> String {
    let words = text.split_whitespace();
    let plain = words.map(|word| {
        if word.contains(|c: char| c.is_ascii_digit()) {
            "N"
        } else {
            word
        }
    });
    plain.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_failures_and_skips() {
        let output = "\
stress-ng: info:  [1] dispatching hogs: 1 kill
stress-ng: fail:  [7] kill: handler got 3 signals
stress-ng: info:  [9] sockdiag: skipping stressor, not permitted
stress-ng: info:  [1] successful run completed in 1.00s";
        let outcomes = Stress.outcomes(output);
        assert_eq!(
            outcomes.get("verification"),
            Some("kill: handler got N signals")
        );
        assert_eq!(outcomes.get("run"), Some("skipped"));
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn names_each_stressor_once() {
        let names: Vec<String> = Stress.programs().into_iter().map(|p| p.name).collect();
        let mut unique = names.clone();
        unique.dedup();
        assert_eq!(names, unique);
    }
}
