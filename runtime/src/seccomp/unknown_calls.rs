//! Calls that are younger than a policy.
//!
//! A policy that lists what it allows answers EPERM to a call that its author could not know, and
//! programs that would fall back after ENOSYS give up. So runc answers ENOSYS to every call with a
//! number above all those that the policy names, before the policy has its say; so do we.

use super::arch;
use libcontainer::oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};
use libseccomp::{ScmpArch, ScmpSyscall};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
/// Set in the numbers of x32 calls, which come with the architecture of x86-64.
const X32_BIT: u32 = 1 << 30;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const RETURN_ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// Instructions to go before the policy's own; none where it need not be helped.
pub fn prologue(policy: &LinuxSeccomp) -> Vec<u64> {
    let answers_enosys = policy.default_errno_ret() == Some(libc::ENOSYS as u32);
    let allows = matches!(
        policy.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
    );
    if answers_enosys || allows {
        return Vec::new();
    }
    let listed = policy
        .architectures()
        .as_deref()
        .unwrap_or(&[Arch::ScmpArchNative]);
    let last = |wanted: &[ScmpArch]| {
        let mut known = listed.iter().map(|listed| arch(*listed));
        known
            .find(|arch| wanted.contains(arch))
            .and_then(|arch| last_call(policy, arch))
    };
    program(
        last(&[ScmpArch::X8664, ScmpArch::Native]),
        last(&[ScmpArch::X32]),
        last(&[ScmpArch::X86]),
    )
}

/// The highest number among the calls that the policy names.
fn last_call(policy: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = policy
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names());
    let numbers = names.filter_map(|name| {
        // Calls that the architecture does not have are given negative numbers.
        let call = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
        u32::try_from(i32::from(call)).ok()
    });
    numbers.max()
}

/// One section per architecture, each ending in a jump to the policy or falling into ENOSYS's.
fn program(x86_64: Option<u32>, x32: Option<u32>, i386: Option<u32>) -> Vec<u64> {
    let mut sections = Vec::new();
    match (x86_64, x32) {
        (Some(last), Some(last_x32)) => sections.push((
            AUDIT_ARCH_X86_64,
            vec![
                Step::Load(NUMBER),
                Step::SkipUnlessSet(X32_BIT, 1),
                Step::UnknownAboveElsePolicy(last_x32),
                Step::UnknownAboveElsePolicy(last),
            ],
        )),
        (Some(last), None) => sections.push((
            AUDIT_ARCH_X86_64,
            vec![Step::Load(NUMBER), Step::UnknownAboveElsePolicy(last)],
        )),
        (None, _) => {}
    }
    if let Some(last) = i386 {
        sections.push((
            AUDIT_ARCH_I386,
            vec![Step::Load(NUMBER), Step::UnknownAboveElsePolicy(last)],
        ));
    }
    if sections.is_empty() {
        return Vec::new();
    }
    assemble(&sections)
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Load(u32),
    /// Continues with the next step if the bits are set, else skips as many steps.
    SkipUnlessSet(u32, u8),
    /// Ends the section.
    UnknownAboveElsePolicy(u32),
}

fn assemble(sections: &[(u32, Vec<Step>)]) -> Vec<u64> {
    let body_len: usize = sections.iter().map(|(_, steps)| steps.len()).sum();
    // Load, one comparison per section, the jump for other architectures; then the sections; then
    // the answer; then the policy.
    let tables_len = 1 + sections.len() + 1;
    let answer = tables_len + body_len;
    let policy = answer + 1;
    let mut code = vec![instruction(LOAD_WORD, 0, 0, ARCHITECTURE)];
    let mut start = tables_len;
    for (architecture, steps) in sections {
        let skip = distance(code.len(), start);
        code.push(instruction(JUMP_IF_EQUAL, skip, 0, *architecture));
        start += steps.len();
    }
    code.push(instruction(
        JUMP,
        0,
        0,
        u32::from(distance(code.len(), policy)),
    ));
    for step in sections.iter().flat_map(|(_, steps)| steps) {
        let here = code.len();
        code.push(match *step {
            Step::Load(offset) => instruction(LOAD_WORD, 0, 0, offset),
            Step::SkipUnlessSet(bits, skip) => instruction(JUMP_IF_SET, 0, skip, bits),
            Step::UnknownAboveElsePolicy(last) => {
                let (unknown, known) = (distance(here, answer), distance(here, policy));
                instruction(JUMP_IF_GREATER, unknown, known, last)
            }
        });
    }
    code.push(instruction(RETURN, 0, 0, RETURN_ENOSYS));
    code
}

/// What a jump at `from` has to skip. The program has about a dozen instructions.
fn distance(from: usize, to: usize) -> u8 {
    u8::try_from(to - from - 1).unwrap_or(u8::MAX)
}

/// `struct sock_filter` as it lies in memory.
fn instruction(code: u16, if_true: u8, if_false: u8, operand: u32) -> u64 {
    u64::from(code)
        | u64::from(if_true) << 16
        | u64::from(if_false) << 24
        | u64::from(operand) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers: `None` leaves it to the policy.
    fn run(program: &[u64], architecture: u32, number: u32) -> Option<u32> {
        let (mut at, mut word) = (0, 0);
        while let Some(instruction) = program.get(at) {
            let code = *instruction as u16;
            let (if_true, if_false) = ((instruction >> 16) as u8, (instruction >> 24) as u8);
            let operand = (instruction >> 32) as u32;
            let holds = match code {
                LOAD_WORD => {
                    word = if operand == ARCHITECTURE {
                        architecture
                    } else {
                        number
                    };
                    false
                }
                JUMP => {
                    at += operand as usize;
                    false
                }
                JUMP_IF_EQUAL => word == operand,
                JUMP_IF_GREATER => word > operand,
                JUMP_IF_SET => word & operand != 0,
                RETURN => return Some(operand),
                other => panic!("instruction {other:#x}"),
            };
            if !matches!(code, LOAD_WORD | JUMP) {
                at += usize::from(if holds { if_true } else { if_false });
            }
            at += 1;
        }
        assert_eq!(at, program.len());
        None
    }

    #[test]
    fn numbers_above_the_last_one_are_unknown() {
        let program = program(Some(400), Some(X32_BIT | 300), Some(450));
        let answer = |architecture, number| run(&program, architecture, number);
        assert_eq!(answer(AUDIT_ARCH_X86_64, 400), None);
        assert_eq!(answer(AUDIT_ARCH_X86_64, 401), Some(RETURN_ENOSYS));
        assert_eq!(answer(AUDIT_ARCH_X86_64, X32_BIT - 1), Some(RETURN_ENOSYS));
        assert_eq!(answer(AUDIT_ARCH_X86_64, X32_BIT | 300), None);
        assert_eq!(
            answer(AUDIT_ARCH_X86_64, X32_BIT | 301),
            Some(RETURN_ENOSYS)
        );
        assert_eq!(answer(AUDIT_ARCH_X86_64, u32::MAX), Some(RETURN_ENOSYS));
        assert_eq!(answer(AUDIT_ARCH_I386, 450), None);
        assert_eq!(answer(AUDIT_ARCH_I386, 451), Some(RETURN_ENOSYS));
        assert_eq!(answer(0x1234, 9999), None);
    }

    #[test]
    fn only_policies_that_deny_by_default_are_helped() {
        let policy = |default: &str| {
            let text = format!(
                r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86_64"],
                    "syscalls":[{{"names":["read","statx","nosuchcall"],"action":"SCMP_ACT_ALLOW"}}]}}"#
            );
            serde_json::from_str::<LinuxSeccomp>(&text).unwrap()
        };
        let program = prologue(&policy("SCMP_ACT_ERRNO"));
        let statx = libc::SYS_statx as u32;
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, statx), None);
        assert_eq!(
            run(&program, AUDIT_ARCH_X86_64, statx + 1),
            Some(RETURN_ENOSYS)
        );
        assert!(prologue(&policy("SCMP_ACT_ALLOW")).is_empty());
    }
}
