//! seccomp(2) and prctl(2) PR_SET_SECCOMP: filters that a program installs for itself.
//!
//! Such a filter knows the calls of the program, and may kill for any other. Some calls the vkernel cannot do without:
//! to return from a dispatch trap, to block signals for a moment, to arm a new thread. So the filter gets a few
//! instructions in front that let those pass, if they come from the vkernel's own code and are not made for the
//! program. All of them are harmless, because the program can jump there, too; everything else stays the filter's to
//! judge.

use crate::entry::Call;
use crate::socket::returning;
use crate::syscall::table::{forward, forward_as};
use crate::usermem::UserPtr;
use alloc::vec::Vec;
use pegasus_abi::prctl::{PR_SET_MM, PR_SET_SYSCALL_USER_DISPATCH, SECCOMP_SET_MODE_FILTER};
use pegasus_abi::{Result, nr};
use pegasus_arch::gate;
use pegasus_contract::layout::{IMAGE_BASE, IMAGE_LEN_MAX};

/// What PR_SET_SECCOMP takes for a filter.
const SECCOMP_MODE_FILTER: usize = 2;
/// `BPF_MAXINSNS`.
const FILTER_LEN_MAX: usize = 4096;

const LOAD_WORD: u64 = 0x20;
const LOAD_CONSTANT: u64 = 0x00;
const JUMP_EQUAL: u64 = 0x15;
const JUMP_GREATER_EQUAL: u64 = 0x35;
const RETURN: u64 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;

/// Offsets in `struct seccomp_data`.
const NR_AT: u32 = 0;
const INSTRUCTION_POINTER_AT: u32 = 8;
const FIRST_ARG_AT: u32 = 16;

/// Calls of the vkernel's own.
const NEEDED: [usize; 8] = [
    nr::RT_SIGRETURN,
    nr::RT_SIGPROCMASK,
    nr::SIGALTSTACK,
    nr::ARCH_PRCTL,
    nr::FUTEX,
    nr::GETTID,
    nr::GETPID,
    nr::GETPPID,
];
/// Options of prctl(2) likewise.
const NEEDED_OPTIONS: [usize; 2] = [PR_SET_SYSCALL_USER_DISPATCH, PR_SET_MM];

pub fn seccomp(call: &Call) -> Result {
    const SECCOMP_SET_MODE_STRICT: usize = 0;
    const SET_MODES: core::ops::RangeInclusive<usize> =
        SECCOMP_SET_MODE_STRICT..=SECCOMP_SET_MODE_FILTER;
    let [operation, _, program, ..] = call.args;
    let is_filter = operation == SECCOMP_SET_MODE_FILTER;
    if SET_MODES.contains(&operation) {
        // Rings need calls of the vkernel's own, which the filter may forbid.
        returning::keep_all(call.thread);
    }
    if operation == SECCOMP_SET_MODE_STRICT {
        before_strict_mode(call);
    }
    let done = install(call, is_filter.then_some(program))?;
    if SET_MODES.contains(&operation) {
        call.thread.process().note_filter();
    }
    Ok(done)
}

/// In strict mode nobody could be woken to wait in Linux instead.
fn before_strict_mode(call: &Call) {
    let process = call.thread.process();
    if !process.is_borrower() {
        process.futexes.retire();
    }
}

/// prctl(2) PR_SET_SECCOMP.
pub fn set_seccomp(call: &Call) -> Result {
    let [_, mode, program, ..] = call.args;
    let is_filter = mode == SECCOMP_MODE_FILTER;
    returning::keep_all(call.thread);
    if !is_filter {
        before_strict_mode(call);
    }
    let done = install(call, is_filter.then_some(program))?;
    call.thread.process().note_filter();
    Ok(done)
}

/// Forwards the call, with the filter at address `filter`, its third argument, extended.
fn install(call: &Call, filter: Option<usize>) -> Result {
    let Some(program) = filter.and_then(extend) else {
        return forward(call);
    };
    // `struct sock_fprog`: a 16-bit length and a pointer.
    let header = [program.len() as u64, program.as_ptr() as u64];
    let mut args = call.args;
    args[2] = header.as_ptr() as usize;
    forward_as(call.nr, &args)
}

/// The filter at `program` with [`prologue`] in front. `None` for one that Linux refuses, or that has no room.
fn extend(program: usize) -> Option<Vec<u64>> {
    let [len, instructions] = UserPtr(program).read::<[u64; 2]>().ok()?;
    let len = len as u16 as usize;
    let mut extended = prologue();
    if len == 0 || extended.len() + len > FILTER_LEN_MAX {
        return None;
    }
    let start = extended.len();
    extended.resize(start + len, 0);
    for (at, instruction) in extended[start..].iter_mut().enumerate() {
        let from = UserPtr(instructions as usize).offset(at * size_of::<u64>());
        *instruction = from.ok()?.read().ok()?;
    }
    Some(extended)
}

/// `struct sock_filter`.
fn instruction(code: u64, on_true: usize, on_false: usize, k: u32) -> u64 {
    code | (on_true as u64) << 16 | (on_false as u64) << 24 | u64::from(k) << 32
}

/// Allows [`NEEDED`] from the vkernel's image, and falls through for everything else with the registers as they were.
fn prologue() -> Vec<u64> {
    /// A jump to be aimed once the length is known.
    enum Step {
        Load(u32),
        /// Falls through to the filter itself unless equal.
        Require(u32),
        LeaveIfAtLeast(u32),
        LeaveIf(u32),
        AllowIf(u32),
    }
    use Step::{AllowIf, LeaveIf, LeaveIfAtLeast, Load, Require};
    let low = |address: usize| address as u32;
    let mut steps = alloc::vec![
        Load(INSTRUCTION_POINTER_AT + 4),
        Require((IMAGE_BASE >> 32) as u32),
        Load(INSTRUCTION_POINTER_AT),
        LeaveIfAtLeast(low(IMAGE_BASE + IMAGE_LEN_MAX)),
    ];
    steps.extend(gate::forwarded_calls().map(|at| LeaveIf(low(at))));
    steps.push(Load(NR_AT));
    steps.extend(NEEDED.map(|number| AllowIf(number as u32)));
    steps.push(Require(nr::PRCTL as u32));
    steps.push(Load(FIRST_ARG_AT));
    steps.extend(NEEDED_OPTIONS.map(|option| AllowIf(option as u32)));
    // After these: a jump to the way out, the way to allow, and the way out, which makes the accumulator 0 again.
    let leave = steps.len() + 2;
    let allow = steps.len() + 1;
    let mut code: Vec<u64> = steps
        .iter()
        .enumerate()
        .map(|(at, step)| {
            let to = |target: usize| target - at - 1;
            match *step {
                Load(offset) => instruction(LOAD_WORD, 0, 0, offset),
                Require(k) => instruction(JUMP_EQUAL, 0, to(leave), k),
                LeaveIfAtLeast(k) => instruction(JUMP_GREATER_EQUAL, to(leave), 0, k),
                LeaveIf(k) => instruction(JUMP_EQUAL, to(leave), 0, k),
                AllowIf(k) => instruction(JUMP_EQUAL, to(allow), 0, k),
            }
        })
        .collect();
    code.push(instruction(JUMP_GREATER_EQUAL, 1, 1, 0));
    code.push(instruction(RETURN, 0, 0, RET_ALLOW));
    code.push(instruction(LOAD_CONSTANT, 0, 0, 0));
    code
}
