//! The registers of a container's thread while it is in the vkernel.

/// Saved by the gate at the top of the thread's vkernel stack, lowest address first; restored from
/// there on the way out, so a handler may change any of them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Regs {
    pub r15: usize,
    pub r14: usize,
    pub r13: usize,
    pub r12: usize,
    pub rbp: usize,
    pub rbx: usize,
    pub r9: usize,
    pub r8: usize,
    pub r10: usize,
    pub rdx: usize,
    pub rsi: usize,
    pub rdi: usize,
    /// On the way in the call's number, on the way out its result.
    pub rax: usize,
    /// The call's number, kept for restarts.
    pub nr: usize,
    /// Address after the `syscall` instruction, as the program sees it (also RCX on return).
    pub rip: usize,
    /// RFLAGS (also R11 on return).
    pub flags: usize,
    /// Where to go on: `rip`, or inside a trampoline the moved instruction that stands for it.
    pub resume: usize,
    pub rsp: usize,
}

/// Length of [`Regs`] on the stack; keeps the stack pointer aligned to 16.
pub const REGS_LEN: usize = size_of::<Regs>();
const _: () = assert!(REGS_LEN == 144 && REGS_LEN.is_multiple_of(16));

impl Regs {
    /// The six arguments in the order of the system call convention.
    pub fn args(&self) -> [usize; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}
