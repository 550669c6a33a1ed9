//! Whether a container's seccomp policy leaves the vkernel what it needs.

use libcontainer::oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

/// A call of the vkernel: its name and, where they are known beforehand, its first arguments.
struct Need {
    name: &'static str,
    arguments: &'static [u64],
}

const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
const ARCH_SET_FS: u64 = 0x1002;
/// Of a thread: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID.
const CLONE_THREAD_FLAGS: u64 = 0x3d_0f00;

const fn need(name: &'static str) -> Need {
    Need {
        name,
        arguments: &[],
    }
}

/// What the vkernel calls in every process, whatever the program does.
const NEEDS: [Need; 15] = [
    Need {
        name: "prctl",
        arguments: &[PR_SET_SYSCALL_USER_DISPATCH],
    },
    Need {
        name: "arch_prctl",
        arguments: &[ARCH_SET_FS],
    },
    Need {
        name: "clone",
        arguments: &[CLONE_THREAD_FLAGS],
    },
    need("mmap"),
    need("mprotect"),
    need("munmap"),
    need("madvise"),
    need("rt_sigaction"),
    need("rt_sigprocmask"),
    need("rt_sigreturn"),
    need("sigaltstack"),
    need("futex"),
    need("gettid"),
    need("openat"),
    need("pread64"),
];

/// What it calls besides where there are TCP sockets.
const NEEDS_OF_SOCKETS: [Need; 18] = [
    need("ppoll"),
    need("poll"),
    need("epoll_ctl"),
    need("epoll_wait"),
    need("epoll_pwait"),
    need("sendto"),
    need("sendmsg"),
    need("recvfrom"),
    need("recvmsg"),
    need("shutdown"),
    need("getsockname"),
    need("getpeername"),
    need("getsockopt"),
    need("setsockopt"),
    need("sched_yield"),
    need("sched_getaffinity"),
    need("nanosleep"),
    need("clock_gettime"),
];

/// What it calls there to learn of the end of other processes. It does with an error, but not with being killed for it.
const ATTEMPTS_OF_SOCKETS: [&str; 2] = ["kill", "pidfd_open"];

/// The first call that the policy does not certainly allow, or punishes.
pub fn first_forbidden(policy: &LinuxSeccomp) -> Option<&'static str> {
    let has_sockets = may_be_allowed(policy, "socket");
    let of_sockets = NEEDS_OF_SOCKETS.iter().filter(|_| has_sockets);
    NEEDS
        .iter()
        .chain(of_sockets)
        .find(|need| !is_allowed(policy, need))
        .map(|need| need.name)
        .or_else(|| {
            let mut attempts = ATTEMPTS_OF_SOCKETS.into_iter().filter(|_| has_sockets);
            attempts.find(|call| punishes(policy, call))
        })
}

/// Whether the call may be the end of its process.
fn punishes(policy: &LinuxSeccomp, call: &'static str) -> bool {
    use LinuxSeccompAction::{ScmpActKill, ScmpActKillProcess, ScmpActKillThread, ScmpActTrap};
    const ENDS: [LinuxSeccompAction; 4] = [
        ScmpActKill,
        ScmpActKillProcess,
        ScmpActKillThread,
        ScmpActTrap,
    ];
    let rules = policy.syscalls().iter().flatten();
    let mut rules = rules.filter(|rule| rule.names().iter().any(|name| name == call));
    rules.any(|rule| ENDS.contains(&rule.action()))
        || !allows(policy, call) && ENDS.contains(&policy.default_action())
}

/// Whether the policy allows the call with some arguments.
fn may_be_allowed(policy: &LinuxSeccomp, call: &str) -> bool {
    let rules = policy.syscalls().iter().flatten();
    let mut rules = rules.filter(|rule| rule.names().iter().any(|name| name == call));
    rules.any(|rule| lets_pass(rule.action())) || lets_pass(policy.default_action())
}

/// Whether the policy certainly allows the call, whatever its arguments.
pub fn allows(policy: &LinuxSeccomp, call: &'static str) -> bool {
    is_allowed(policy, &need(call))
}

/// Rules whose arguments are not known beforehand are taken to decide against the vkernel.
fn is_allowed(policy: &LinuxSeccomp, need: &Need) -> bool {
    let rules = policy.syscalls().iter().flatten();
    let mut allowed = lets_pass(policy.default_action());
    for rule in rules.filter(|rule| rule.names().iter().any(|name| name == need.name)) {
        match (lets_pass(rule.action()), matches(rule, need.arguments)) {
            (true, Some(true)) => allowed = true,
            (false, Some(true) | None) => return false,
            (true, Some(false) | None) | (false, Some(false)) => {}
        }
    }
    allowed
}

fn lets_pass(action: LinuxSeccompAction) -> bool {
    matches!(
        action,
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
    )
}

/// Whether all conditions of a rule hold; `None` if one of them cannot be told.
fn matches(rule: &LinuxSyscall, arguments: &[u64]) -> Option<bool> {
    let mut outcome = Some(true);
    for condition in rule.args().iter().flatten() {
        match arguments
            .get(condition.index())
            .map(|value| holds(condition, *value))
        {
            Some(true) => {}
            Some(false) => return Some(false),
            None => outcome = None,
        }
    }
    outcome
}

fn holds(condition: &LinuxSeccompArg, value: u64) -> bool {
    let expected = condition.value();
    match condition.op() {
        LinuxSeccompOperator::ScmpCmpNe => value != expected,
        LinuxSeccompOperator::ScmpCmpLt => value < expected,
        LinuxSeccompOperator::ScmpCmpLe => value <= expected,
        LinuxSeccompOperator::ScmpCmpEq => value == expected,
        LinuxSeccompOperator::ScmpCmpGe => value >= expected,
        LinuxSeccompOperator::ScmpCmpGt => value > expected,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            value & expected == condition.value_two().unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    fn allowing(names: &[&str], extra: &str) -> LinuxSeccomp {
        let names = serde_json::to_string(names).unwrap();
        policy(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
                {{"names":{names},"action":"SCMP_ACT_ALLOW"}}{extra}]}}"#
        ))
    }

    fn all_but(name: &str) -> Vec<&'static str> {
        NEEDS
            .iter()
            .map(|need| need.name)
            .filter(|needed| *needed != name)
            .collect()
    }

    #[test]
    fn every_need_is_looked_for() {
        assert_eq!(first_forbidden(&allowing(&all_but(""), "")), None);
        for need in &NEEDS {
            assert_eq!(
                first_forbidden(&allowing(&all_but(need.name), "")),
                Some(need.name)
            );
        }
    }

    #[test]
    fn sockets_need_more() {
        let with_sockets = |but: &str| {
            let names: Vec<&str> = NEEDS
                .iter()
                .chain(&NEEDS_OF_SOCKETS)
                .map(|need| need.name)
                .filter(|name| *name != but)
                .chain(["socket"])
                .collect();
            allowing(&names, "")
        };
        assert_eq!(first_forbidden(&with_sockets("")), None);
        for need in &NEEDS_OF_SOCKETS {
            assert_eq!(first_forbidden(&with_sockets(need.name)), Some(need.name));
        }
    }

    #[test]
    fn an_attempt_may_fail_and_must_not_kill() {
        let found = |more: &[&'static str]| {
            let needs = NEEDS.iter().chain(&NEEDS_OF_SOCKETS);
            let needs = needs.map(|need| need.name);
            let names: Vec<_> = needs.chain(more.iter().copied()).collect();
            let names = serde_json::to_string(&names).unwrap();
            first_forbidden(&policy(&format!(
                r#"{{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[
                    {{"names":{names},"action":"SCMP_ACT_ALLOW"}}]}}"#
            )))
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&["socket"]), Some("kill"));
        assert_eq!(found(&["socket", "kill"]), Some("pidfd_open"));
        assert_eq!(found(&["socket", "kill", "pidfd_open"]), None);
    }

    #[test]
    fn an_open_policy_may_still_deny() {
        let deny = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["futex"],"action":"SCMP_ACT_ERRNO"}]}"#;
        assert_eq!(first_forbidden(&policy(deny)), Some("futex"));
        assert_eq!(
            first_forbidden(&policy(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)),
            None
        );
    }

    #[test]
    fn conditions_are_evaluated() {
        // Docker's rule: clone is allowed unless it makes namespaces.
        let rule = |value_two: u64| {
            format!(
                r#",{{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,
                "value":2114060288,"valueTwo":{value_two},"op":"SCMP_CMP_MASKED_EQ"}}]}}"#
            )
        };
        assert_eq!(
            first_forbidden(&allowing(&all_but("clone"), &rule(0))),
            None
        );
        assert_eq!(
            first_forbidden(&allowing(&all_but("clone"), &rule(1))),
            Some("clone")
        );
        // What is not known beforehand decides against.
        let unknown = r#",{"names":["mmap"],"action":"SCMP_ACT_ERRNO","args":[
            {"index":2,"value":7,"op":"SCMP_CMP_EQ"}]}"#;
        assert_eq!(
            first_forbidden(&allowing(&all_but(""), unknown)),
            Some("mmap")
        );
    }
}
