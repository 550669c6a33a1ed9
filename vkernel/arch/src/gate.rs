//! The gate: the only way from container code into the vkernel and back.
//!
//! A trampoline of a rewritten site jumps to `pegasus_gate`, the signal handler of a dispatch trap
//! to `pegasus_gate_trapped`, both with the registers as at the `syscall` instruction, except
//!
//! ```text
//! RCX  address after the `syscall`, which the program sees there on return as well
//! R11  address to go on at (RCX, or the moved instruction in a trampoline)
//! ```
//!
//! ```text
//! vkernel stack, growing down                 GS: Area
//! stack_top ─► ┌──────────────────┐           stack_top, pending, shard, xmm …
//!              │ rsp resume flags │
//!              │ rip nr rax       │  Regs
//!              │ rdi … r9         │
//!       rsp ─► │ rbx rbp r12–r15  │
//!              └──────────────────┘
//! ```
//!
//! A call that the vkernel has no better answer for is made right here, with every register still
//! in place. All others go to Rust, with XMM0–15 saved around it. Nothing is pushed to the container's
//! stack, so its red zone is safe.
//!
//! [`area::Area::served`] has for each call 0 (forward at once), [`SERVED`] or [`SERVED_BY_DESCRIPTOR`].
//! The crate above defines, unmangled: `pegasus_syscall(&mut Regs)` (the slow path), `pegasus_go_home()` (called before a forwarded
//! call of a thread that runs on a worker; afterwards it runs on its home task) and `pegasus_exit_hook(&mut Regs)` (`pending` is not 0 on the
//! way out).
//!
//! **Signals.** The vkernel's handler may interrupt any instruction here. [`position`] tells where:
//! before or at a forwarded `syscall` (then the call is given up and restarted after the handler, as
//! Linux does), after it, or on the way out, past the last look at `pending` (then the way out is begun
//! again: it only reads the saved registers).

use crate::area;
use crate::regs::{REGS_LEN, Regs};
use core::arch::global_asm;
use core::mem::offset_of;
use pegasus_abi::nr::NR_LEN;
use pegasus_contract::layout::DESCRIPTORS_MAX;
use pegasus_contract::record::{CALLS_COUNTED, CounterShard};

const _: () = assert!(NR_LEN == CALLS_COUNTED);

/// In [`area::Area::served`]: every such call takes the slow path.
pub const SERVED: u8 = 1;
/// In [`area::Area::served`]: calls take the slow path whose first argument is a descriptor with an entry in the table that
/// [`area::Area::descriptors`] points to.
pub const SERVED_BY_DESCRIPTOR: u8 = 2;

/// Bits of RFLAGS that are not what they nearly always are: the arithmetic ones aside, and bit 1 and IF, which are always set.
const FLAGS_UNUSUAL: u32 = 0x003f_7500;
const _: () = assert!(FLAGS_UNUSUAL & 0x8d5 == 0);

unsafe extern "C" {
    static pegasus_gate: u8;
    static pegasus_gate_trapped: u8;
    static pegasus_gate_saved: u8;
    static pegasus_fast_check: u8;
    static pegasus_fast_call: u8;
    static pegasus_fast_restart: u8;
    static pegasus_exit_check: u8;
    static pegasus_exit_restore: u8;
    static pegasus_exit_end: u8;
    static pegasus_exit_work: u8;
    static pegasus_exit_work_saved: u8;
    static pegasus_forward_check: u8;
    static pegasus_forward_call: u8;
    static pegasus_forward_restart: u8;
    static pegasus_sigreturn_check: u8;
    static pegasus_sigreturn_call: u8;
    static pegasus_sigreturn_abort: u8;
    fn pegasus_forward(args: *const [usize; 6], nr: usize) -> usize;
}

global_asm!(
    ".pushsection .text.gate, \"ax\", @progbits",
    ".balign 64",
    ".macro PEGASUS_ENTER path",
    "    mov gs:[{USER_RSP}], rsp",
    "    mov rsp, gs:[{STACK_TOP}]",
    "    push qword ptr gs:[{USER_RSP}]",
    "    push r11",
    "    pushfq",
    "    push rcx",
    "    push rax",
    "    push rax",
    "    push rdi",
    "    push rsi",
    "    push rdx",
    "    push r10",
    "    push r8",
    "    push r9",
    "    push rbx",
    "    push rbp",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    mov gs:[{RESUME}], r11",
    "    mov dword ptr gs:[{PATH}], \\path",
    ".endm",
    ".macro PEGASUS_XMM_SAVE",
    "    mov r11, gs:[0]",
    "    .irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "    movaps [r11 + {XMM} + 16*\\i], xmm\\i",
    "    .endr",
    ".endm",
    ".macro PEGASUS_XMM_RESTORE",
    "    mov r11, gs:[0]",
    "    .irp i, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "    movaps xmm\\i, [r11 + {XMM} + 16*\\i]",
    "    .endr",
    ".endm",
    // DF, AC and the like are the container's: they are neither for Rust code nor for another thread.
    ".macro PEGASUS_PLAIN_FLAGS",
    "    test dword ptr [rsp + {FLAGS}], {FLAGS_UNUSUAL}",
    "    je 8f",
    "    push 2",
    "    popfq",
    "8:",
    ".endm",
    // A trap has cost a signal already: no need to be quick, and the site may want rewriting.
    ".globl pegasus_gate_trapped",
    "pegasus_gate_trapped:",
    "    PEGASUS_ENTER 1",
    "    jmp 2f",
    ".balign 64",
    ".globl pegasus_gate",
    "pegasus_gate:",
    "    PEGASUS_ENTER 0",
    "    mov eax, eax",
    "    cmp eax, {NR_LEN}",
    "    jae 2f",
    "    mov r11, gs:[{SERVED}]",
    // RCX is saved, and Linux leaves nothing in it either.
    "    movzx ecx, byte ptr [r11 + rax]",
    "    test ecx, ecx",
    "    jne 4f",
    "5:  mov r11, gs:[{SHARD}]",
    "    cmp qword ptr [r11 + {TRACED}], 0",
    "    jne 2f",
    "    inc qword ptr [r11 + 8*rax + {CALLS}]",
    "    inc qword ptr [r11]",
    ".globl pegasus_fast_check",
    "pegasus_fast_check:",
    "    cmp dword ptr gs:[{PENDING}], 0",
    "    jne pegasus_fast_restart",
    ".globl pegasus_fast_call",
    "pegasus_fast_call:",
    "    syscall",
    "1:  mov [rsp + {RAX}], rax",
    "    jmp pegasus_exit_check",
    ".globl pegasus_fast_restart",
    "pegasus_fast_restart:",
    "    mov rax, -512",
    "    jmp 1b",
    // Served for some descriptors only: those with an entry in the process's table.
    "4:  cmp ecx, {BY_DESCRIPTOR}",
    "    jne 2f",
    "    mov ecx, edi",
    "    cmp ecx, {DESCRIPTORS_MAX}",
    "    jae 5b",
    "    mov r11, gs:[{DESCRIPTORS}]",
    "    cmp dword ptr [r11 + 4*rcx], 0",
    "    je 5b",
    "2:  PEGASUS_XMM_SAVE",
    ".globl pegasus_gate_saved",
    "pegasus_gate_saved:",
    "    PEGASUS_PLAIN_FLAGS",
    "    mov rdi, rsp",
    "    call pegasus_syscall",
    "3:  mov rax, [rsp + {REGS_RESUME}]",
    "    mov gs:[{RESUME}], rax",
    "    PEGASUS_XMM_RESTORE",
    ".globl pegasus_exit_check",
    "pegasus_exit_check:",
    "    cmp dword ptr gs:[{PENDING}], 0",
    "    jne pegasus_exit_work",
    ".globl pegasus_exit_restore",
    "pegasus_exit_restore:",
    "    mov r15, [rsp]",
    "    mov r14, [rsp + 8]",
    "    mov r13, [rsp + 16]",
    "    mov r12, [rsp + 24]",
    "    mov rbp, [rsp + 32]",
    "    mov rbx, [rsp + 40]",
    "    mov r9, [rsp + 48]",
    "    mov r8, [rsp + 56]",
    "    mov r10, [rsp + 64]",
    "    mov rdx, [rsp + 72]",
    "    mov rsi, [rsp + 80]",
    "    mov rdi, [rsp + 88]",
    "    mov r11, [rsp + {FLAGS}]",
    "    test r11d, {FLAGS_UNUSUAL}",
    "    jne 6f",
    // POPF is slow. OF by an addition that overflows if it was set, the others by SAHF; a MOV changes none.
    "    mov eax, r11d",
    "    mov ecx, r11d",
    "    shl eax, 8",
    "    shr ecx, 11",
    "    add cl, 0x7f",
    "    sahf",
    "7:  mov rax, [rsp + {RAX}]",
    "    mov rcx, [rsp + {RIP}]",
    "    mov rsp, [rsp + {RSP}]",
    "    jmp qword ptr gs:[{RESUME}]",
    "6:  push r11",
    "    popfq",
    "    jmp 7b",
    ".globl pegasus_exit_end",
    "pegasus_exit_end:",
    ".globl pegasus_exit_work",
    "pegasus_exit_work:",
    "    PEGASUS_XMM_SAVE",
    ".globl pegasus_exit_work_saved",
    "pegasus_exit_work_saved:",
    "    PEGASUS_PLAIN_FLAGS",
    "    mov rdi, rsp",
    "    call pegasus_exit_hook",
    "    jmp 3b",
    // A new task starts here, on its own vkernel stack: [function][area][Regs].
    ".globl pegasus_child",
    "pegasus_child:",
    "    xor ebp, ebp",
    "    pop rax",
    "    pop rdi",
    "    call rax",
    "    jmp 3b",
    // extern "C" fn(args, nr) -> value: a forwarded call from Rust.
    ".globl pegasus_forward",
    "pegasus_forward:",
    "    mov rax, rsi",
    "    mov r11, rdi",
    "    mov rdi, [r11]",
    "    mov rsi, [r11 + 8]",
    "    mov rdx, [r11 + 16]",
    "    mov r10, [r11 + 24]",
    "    mov r8, [r11 + 32]",
    "    mov r9, [r11 + 40]",
    ".globl pegasus_forward_check",
    "pegasus_forward_check:",
    "    cmp dword ptr gs:[{PENDING}], 0",
    "    jne pegasus_forward_restart",
    ".globl pegasus_forward_call",
    "pegasus_forward_call:",
    "    syscall",
    "    ret",
    ".globl pegasus_forward_restart",
    "pegasus_forward_restart:",
    "    mov rax, -512",
    "    ret",
    // extern "C" fn() -> !
    ".globl pegasus_leave",
    "pegasus_leave:",
    "    mov rsp, gs:[{STACK_TOP}]",
    "    sub rsp, {REGS_LEN}",
    "    jmp 3b",
    // extern "C" fn(frame) -> !, or back to the way out with -512 when something is pending.
    ".globl pegasus_sigreturn",
    "pegasus_sigreturn:",
    "    lea rsp, [rdi + 8]",
    "    mov eax, {RT_SIGRETURN}",
    ".globl pegasus_sigreturn_check",
    "pegasus_sigreturn_check:",
    "    cmp dword ptr gs:[{PENDING}], 0",
    "    jne pegasus_sigreturn_abort",
    ".globl pegasus_sigreturn_call",
    "pegasus_sigreturn_call:",
    "    syscall",
    "    ud2",
    // extern "C" fn(frame) -> !
    ".globl pegasus_sigreturn_now",
    "pegasus_sigreturn_now:",
    "    lea rsp, [rdi + 8]",
    "    mov eax, {RT_SIGRETURN}",
    "    syscall",
    "    ud2",
    ".globl pegasus_sigreturn_abort",
    "pegasus_sigreturn_abort:",
    "    mov rsp, gs:[{STACK_TOP}]",
    "    sub rsp, {REGS_LEN}",
    "    mov qword ptr [rsp + {RAX}], -512",
    "    jmp 3b",
    ".popsection",
    RT_SIGRETURN = const pegasus_abi::nr::RT_SIGRETURN,
    REGS_LEN = const REGS_LEN,
    USER_RSP = const area::USER_RSP,
    STACK_TOP = const area::STACK_TOP,
    RESUME = const area::RESUME,
    PATH = const area::PATH,
    XMM = const area::XMM,
    SERVED = const area::SERVED,
    SHARD = const area::SHARD,
    PENDING = const area::PENDING,
    NR_LEN = const NR_LEN,
    DESCRIPTORS = const area::DESCRIPTORS,
    DESCRIPTORS_MAX = const DESCRIPTORS_MAX,
    BY_DESCRIPTOR = const SERVED_BY_DESCRIPTOR,
    CALLS = const offset_of!(CounterShard, calls),
    TRACED = const offset_of!(CounterShard, traced),
    RAX = const offset_of!(Regs, rax),
    RIP = const offset_of!(Regs, rip),
    FLAGS = const offset_of!(Regs, flags),
    FLAGS_UNUSUAL = const FLAGS_UNUSUAL,
    RSP = const offset_of!(Regs, rsp),
    REGS_RESUME = const offset_of!(Regs, resume),
);

const _: () = {
    assert!(offset_of!(Regs, r15) == 0 && offset_of!(Regs, r12) == 24);
    assert!(offset_of!(Regs, rbp) == 32 && offset_of!(Regs, rbx) == 40);
    assert!(
        offset_of!(Regs, r9) == 48 && offset_of!(Regs, r8) == 56 && offset_of!(Regs, r10) == 64
    );
    assert!(offset_of!(Regs, rdx) == 72 && offset_of!(Regs, rdi) == 88);
    assert!(offset_of!(Regs, rsp) + 8 == REGS_LEN);
};

fn address(label: &u8) -> usize {
    &raw const *label as usize
}

/// Address a trampoline jumps to.
pub fn entry() -> usize {
    // SAFETY: only the address of the label is taken.
    address(unsafe { &pegasus_gate })
}

/// Address the handler of a dispatch trap continues at.
pub fn entry_trapped() -> usize {
    // SAFETY: as above.
    address(unsafe { &pegasus_gate_trapped })
}

/// Instruction pointers that the kernel sees in calls made for the container as they are.
pub fn forwarded_calls() -> [usize; 2] {
    const SYSCALL_LEN: usize = 2;
    // SAFETY: as above.
    unsafe { [&pegasus_fast_call, &pegasus_forward_call] }.map(|call| address(call) + SYSCALL_LEN)
}

/// Where in the vkernel a signal has interrupted a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At or just before the `syscall` of a forwarded call, which has not been made or which the kernel
    /// wants restarted. Go on at `restart`, which gives the call up.
    BeforeForwarded { restart: usize },
    /// On the way out, past the last look at `pending`. Begin again at `again`, with the stack
    /// pointer at the saved registers.
    WayOut { again: usize },
    /// Anywhere else; `pending` will be looked at.
    Inside,
}

/// A [`Position`], and whether XMM0–15 still hold the container's values (else the area does).
pub fn position(rip: usize) -> (Position, bool) {
    let within = |from: &u8, to: &u8| (address(from)..address(to)).contains(&rip);
    // SAFETY: only addresses of labels are taken.
    unsafe {
        let live = within(&pegasus_gate_trapped, &pegasus_gate_saved)
            || within(&pegasus_exit_check, &pegasus_exit_end)
            || within(&pegasus_exit_work, &pegasus_exit_work_saved);
        let forwarded = [
            (
                &pegasus_fast_check,
                &pegasus_fast_call,
                &pegasus_fast_restart,
            ),
            (
                &pegasus_forward_check,
                &pegasus_forward_call,
                &pegasus_forward_restart,
            ),
            (
                &pegasus_sigreturn_check,
                &pegasus_sigreturn_call,
                &pegasus_sigreturn_abort,
            ),
        ];
        for (check, call, restart) in forwarded {
            if (address(check)..=address(call)).contains(&rip) {
                return (
                    Position::BeforeForwarded {
                        restart: address(restart),
                    },
                    live,
                );
            }
        }
        if within(&pegasus_exit_restore, &pegasus_exit_end) {
            return (
                Position::WayOut {
                    again: address(&pegasus_exit_work),
                },
                live,
            );
        }
        (Position::Inside, live)
    }
}

/// Makes a call on behalf of the container: a signal interrupts it as it would interrupt the
/// container's own. Gives the raw value; `-512` (ERESTARTSYS) when it was given up for a signal.
///
/// # Safety
/// The call must not change mappings of the vkernel, the dispatch state, the alternate stack or the
/// handlers of the calling task.
pub unsafe fn forward(nr: usize, args: &[usize; 6]) -> usize {
    unsafe extern "C" {
        safe fn pegasus_go_home();
    }
    // SAFETY: who forwards has an area.
    if unsafe { area::current() }.worker.get() != 0 {
        pegasus_go_home();
    }
    // SAFETY: `args` is live; the rest is the caller's promise.
    unsafe { pegasus_forward(args, nr) }
}

/// Leaves through rt_sigreturn(2): registers, signal mask, alternate stack and FPU state of `frame`, at
/// once. If something is pending, goes to the way out instead, with ERESTARTSYS as the result of the call in
/// the saved registers.
///
/// # Safety
/// The frame must be complete, what it resumes must be container code, and the saved registers at
/// the top of the vkernel stack must be those of the call in progress.
pub unsafe fn sigreturn(frame: &pegasus_abi::signal::SigFrame) -> ! {
    unsafe extern "C" {
        fn pegasus_sigreturn(frame: *const pegasus_abi::signal::SigFrame) -> !;
    }
    // SAFETY: the caller's promise.
    unsafe { pegasus_sigreturn(frame) }
}

/// [`sigreturn`] whatever is pending.
///
/// # Safety
/// The frame must be complete. All signals must be blocked, so that nothing becomes pending now.
pub unsafe fn sigreturn_now(frame: &pegasus_abi::signal::SigFrame) -> ! {
    unsafe extern "C" {
        fn pegasus_sigreturn_now(frame: *const pegasus_abi::signal::SigFrame) -> !;
    }
    // SAFETY: the caller's promise.
    unsafe { pegasus_sigreturn_now(frame) }
}

/// Leaves the vkernel through the gate, with the registers at the top of the vkernel stack.
///
/// # Safety
/// Those must be complete; nothing on the present stack may be needed any more.
pub unsafe fn leave() -> ! {
    unsafe extern "C" {
        fn pegasus_leave() -> !;
    }
    // SAFETY: the caller's promise.
    unsafe { pegasus_leave() }
}
