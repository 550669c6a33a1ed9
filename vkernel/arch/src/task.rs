//! Starting tasks, entering programs, and the restorer of the vkernel's own signal frames.

use crate::area::Area;
use crate::regs::REGS_LEN;
use core::arch::global_asm;
use pegasus_abi::errno::{Result, from_return};
use pegasus_abi::nr;
use pegasus_abi::prctl::ARCH_SET_GS;

global_asm!(
    ".pushsection .text.task, \"ax\", @progbits",
    // extern "C" fn(flags, stack, parent_tid, child_tid, tls) -> value
    ".globl pegasus_clone",
    "pegasus_clone:",
    "    mov r10, rcx",
    "    mov eax, {CLONE}",
    "    syscall",
    "    test rax, rax",
    "    jz pegasus_child",
    "    ret",
    // extern "C" fn(clone_args, size) -> value
    ".globl pegasus_clone3",
    "pegasus_clone3:",
    "    mov eax, {CLONE3}",
    "    syscall",
    "    test rax, rax",
    "    jz pegasus_child",
    "    ret",
    ".globl pegasus_restorer",
    "pegasus_restorer:",
    "    mov eax, {RT_SIGRETURN}",
    "    syscall",
    "    ud2",
    // extern "C" fn(stack_top, function, argument) -> !
    ".globl pegasus_run_on",
    "pegasus_run_on:",
    "    mov rsp, rdi",
    "    xor ebp, ebp",
    "    mov rdi, rdx",
    "    call rsi",
    "    ud2",
    // extern "C" fn(state, value, nr, status) -> !: from the store on, the stack may belong to another task.
    ".globl pegasus_vanish",
    "pegasus_vanish:",
    "    mov eax, edx",
    "    mov dword ptr [rdi], esi",
    "    mov edi, ecx",
    "    syscall",
    "    ud2",
    ".popsection",
    CLONE = const nr::CLONE,
    CLONE3 = const nr::CLONE3,
    RT_SIGRETURN = const nr::RT_SIGRETURN,
);

unsafe extern "C" {
    fn pegasus_clone(flags: u64, stack: usize, parent: usize, child: usize, tls: usize) -> usize;
    fn pegasus_clone3(args: *const pegasus_abi::clone::CloneArgs, len: usize) -> usize;
    fn pegasus_run_on(stack_top: usize, function: extern "C" fn(usize) -> !, argument: usize) -> !;
    fn pegasus_vanish(state: *const u32, value: u32, nr: usize, status: i32) -> !;
    static pegasus_restorer: u8;
}

/// What a new task runs first, on its own vkernel stack; when it returns, the task goes out through
/// the gate with the registers prepared at the top of that stack.
pub type ChildStart = extern "C" fn(&'static Area);

/// Length of what [`prepare_child`] puts below the saved registers.
const CHILD_HEAD_LEN: usize = 16;

/// Lays `start` and `area` out on the area's vkernel stack and gives the stack pointer for clone(2).
///
/// # Safety
/// The area's stack must be unused, and both must live as long as the task.
pub unsafe fn prepare_child(area: &Area, start: ChildStart) -> usize {
    let sp = area.stack_top.get() - REGS_LEN - CHILD_HEAD_LEN;
    // SAFETY: the stack is the area's own and unused.
    unsafe {
        (sp as *mut usize).write(start as usize);
        ((sp + 8) as *mut usize).write(&raw const *area as usize);
    }
    sp
}

/// clone(2) of a task that starts at a stack made by [`prepare_child`].
///
/// # Safety
/// `flags` must not make parent and child share what the vkernel expects to be separate, and the
/// signal mask must be full so that the child takes no signal before it has its area.
pub unsafe fn clone(
    flags: u64,
    stack: usize,
    parent_tid: usize,
    child_tid: usize,
    tls: usize,
) -> Result {
    // SAFETY: the caller's promise.
    from_return(unsafe { pegasus_clone(flags, stack, parent_tid, child_tid, tls) })
}

/// clone3(2) likewise; `args.stack + args.stack_size` must be what [`prepare_child`] gave.
///
/// # Safety
/// As for [`clone`].
pub unsafe fn clone3(args: &pegasus_abi::clone::CloneArgs) -> Result {
    // SAFETY: the caller's promise.
    from_return(unsafe { pegasus_clone3(args, size_of_val(args)) })
}

/// Makes `area` the calling thread's.
///
/// # Safety
/// It must be settled, live until the thread is gone, and belong to no other thread.
pub unsafe fn attach(area: &Area) {
    set_gs(&raw const *area as usize);
}

/// Takes the calling thread's area away (threads of the runtime that only call into the vkernel).
pub fn detach() {
    set_gs(0);
}

fn set_gs(base: usize) {
    // SAFETY: Rust code here uses GS for nothing but `area::current`, whose callers vouch for it.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") nr::ARCH_PRCTL => _, in("rdi") ARCH_SET_GS,
            in("rsi") base, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
}

/// Goes on in `function` on another stack, for good.
///
/// # Safety
/// `stack_top` must be the aligned end of an unused stack.
pub unsafe fn run_on(stack_top: usize, function: extern "C" fn(usize) -> !, argument: usize) -> ! {
    // SAFETY: the caller's promise.
    unsafe { pegasus_run_on(stack_top, function, argument) }
}

/// Ends the calling thread, or with it the process, by call `nr`; `state` becomes `value` when its vkernel stack is no
/// longer used.
///
/// # Safety
/// All signals must be blocked: nothing may use this stack any more.
pub unsafe fn vanish(
    state: &core::sync::atomic::AtomicU32,
    value: u32,
    nr: usize,
    status: i32,
) -> ! {
    // SAFETY: the caller's promise.
    unsafe { pegasus_vanish(state.as_ptr(), value, nr, status) }
}

/// The restorer for handlers that the vkernel registers with the kernel.
pub fn restorer() -> usize {
    &raw const pegasus_restorer as usize
}

/// Sets the FS base of the calling thread to 0, as execve(2) does.
pub fn clear_fs() {
    // SAFETY: the vkernel has no thread-local storage.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") nr::ARCH_PRCTL => _,
            in("rdi") pegasus_abi::prctl::ARCH_SET_FS, in("rsi") 0,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
}

/// Puts x87, SSE, AVX … into their initial states, as execve(2) does.
///
/// # Safety
/// Nothing may rely on those registers: the caller's own Rust code does not across the call.
pub unsafe fn reset_fpu() {
    /// A standard-format XSAVE area whose header says: everything initial. MXCSR is taken from it regardless.
    #[repr(C, align(64))]
    struct Initial([u32; 144]);
    const MXCSR_AT: usize = 6;
    const MXCSR_INITIAL: u32 = 0x1f80;
    /// All components but PKRU (bit 9), which is not the program's.
    const COMPONENTS: u32 = !(1 << 9);
    let mut area = Initial([0; 144]);
    area.0[MXCSR_AT] = MXCSR_INITIAL;
    // SAFETY: the area is aligned and 576 bytes, all that XRSTOR reads when no component is present.
    unsafe {
        core::arch::asm!("xrstor64 [{}]", in(reg) &raw const area, in("eax") COMPONENTS, in("edx") u32::MAX,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack));
    }
}

/// Dies of a fault, SIGTRAP if `is_trap`, else SIGSEGV, whose kernel-level action is the default one. A signal that is merely sent
/// would not do: the first process of a pid namespace is immune to those.
pub fn die_of_fault(is_trap: bool) -> ! {
    loop {
        if is_trap {
            // SAFETY: raises #BP.
            unsafe { core::arch::asm!("int3") };
        }
        // SAFETY: privileged: raises #GP.
        unsafe { core::arch::asm!("hlt") };
    }
}
