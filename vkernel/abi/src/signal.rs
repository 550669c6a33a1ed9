//! Signals: numbers, actions and the frame that Linux puts on a handler's stack.
//!
//! Source: signal(7), sigaction(2), and `struct rt_sigframe` of arch/x86/include/asm/sigframe.h.

pub const SIGHUP: u32 = 1;
pub const SIGILL: u32 = 4;
pub const SIGTRAP: u32 = 5;
pub const SIGABRT: u32 = 6;
pub const SIGBUS: u32 = 7;
pub const SIGFPE: u32 = 8;
pub const SIGKILL: u32 = 9;
pub const SIGPIPE: u32 = 13;
pub const SIGUSR1: u32 = 10;
pub const SIGSEGV: u32 = 11;
pub const SIGCHLD: u32 = 17;
pub const SIGSTOP: u32 = 19;
pub const SIGSYS: u32 = 31;
pub const SIGNALS_MAX: u32 = 64;

pub const SIG_DFL: usize = 0;
pub const SIG_IGN: usize = 1;

pub const SA_NOCLDSTOP: u64 = 1;
pub const SA_NOCLDWAIT: u64 = 2;
pub const SA_SIGINFO: u64 = 4;
pub const SA_EXPOSE_TAGBITS: u64 = 0x800;
pub const SA_RESTORER: u64 = 0x0400_0000;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;

pub const SIG_BLOCK: usize = 0;
pub const SIG_UNBLOCK: usize = 1;
pub const SIG_SETMASK: usize = 2;

pub const SS_ONSTACK: u32 = 1;
pub const SS_DISABLE: u32 = 2;
pub const SS_AUTODISARM: u32 = 1 << 31;
/// Smallest alternate stack that sigaltstack(2) takes.
pub const MINSIGSTKSZ: usize = 2048;

/// `si_code` of a call that a seccomp filter has stopped with SECCOMP_RET_TRAP.
pub const SYS_SECCOMP: i32 = 1;
/// `si_code` of a call stopped by syscall user dispatch.
pub const SYS_USER_DISPATCH: i32 = 2;
pub const SI_QUEUE: i32 = -1;
pub const SI_KERNEL: i32 = 0x80;

/// The bit of `signal` in a [`SigSet`].
pub const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// `sigset_t` as the kernel has it: bit n-1 is signal n.
pub type SigSet = u64;

/// `struct sigaction` as rt_sigaction(2) takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SigAction {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: SigSet,
}

/// `siginfo_t`: 128 bytes, of which the first three words are common.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub _pad: i32,
    /// The union: `si_addr`, `si_pid`/`si_uid`, `si_value` …
    pub fields: [u64; 14],
}

impl SigInfo {
    pub const ZERO: SigInfo = SigInfo {
        signo: 0,
        errno: 0,
        code: 0,
        _pad: 0,
        fields: [0; 14],
    };

    /// `si_syscall` and `si_arch` of a SIGSYS.
    pub const fn syscall_and_arch(&self) -> (i32, u32) {
        (self.fields[1] as u32 as i32, (self.fields[1] >> 32) as u32)
    }

    /// `si_addr`.
    pub const fn address(&self) -> usize {
        self.fields[0] as usize
    }

    /// Sent by a program (kill, sigqueue …) rather than by the kernel.
    pub const fn is_from_user(&self) -> bool {
        self.code <= 0
    }
}

/// `stack_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct StackT {
    pub sp: usize,
    pub flags: u32,
    pub _pad: u32,
    pub size: usize,
}

impl StackT {
    pub const DISABLED: StackT = StackT {
        sp: 0,
        flags: SS_DISABLE,
        _pad: 0,
        size: 0,
    };

    /// Whether `sp` lies on this stack, as the kernel's `on_sig_stack` has it.
    pub const fn contains(&self, sp: usize) -> bool {
        self.flags & SS_DISABLE == 0 && sp > self.sp && sp - self.sp <= self.size
    }
}

/// `struct sigcontext` of x86-64.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SigContext {
    pub r8: usize,
    pub r9: usize,
    pub r10: usize,
    pub r11: usize,
    pub r12: usize,
    pub r13: usize,
    pub r14: usize,
    pub r15: usize,
    pub rdi: usize,
    pub rsi: usize,
    pub rbp: usize,
    pub rbx: usize,
    pub rdx: usize,
    pub rax: usize,
    pub rcx: usize,
    pub rsp: usize,
    pub rip: usize,
    pub eflags: usize,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: usize,
    pub trapno: usize,
    pub oldmask: usize,
    pub cr2: usize,
    /// Address of the saved x87/SSE/AVX state, or 0 for the initial state.
    pub fpstate: usize,
    pub _reserved: [u64; 8],
}

pub const UC_FP_XSTATE: u64 = 1;
pub const UC_SIGCONTEXT_SS: u64 = 2;
pub const UC_STRICT_RESTORE_SS: u64 = 4;
pub const USER_CS: u16 = 0x33;
pub const USER_DS: u16 = 0x2b;

/// `ucontext_t` as the kernel writes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct UContext {
    pub flags: u64,
    pub link: usize,
    pub stack: StackT,
    pub mcontext: SigContext,
    pub sigmask: SigSet,
}

/// `struct rt_sigframe`: what lies at the stack pointer when a handler starts.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SigFrame {
    pub restorer: usize,
    pub uc: UContext,
    pub info: SigInfo,
}

impl UContext {
    pub const ZERO: UContext = UContext {
        flags: UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        link: 0,
        stack: StackT::DISABLED,
        mcontext: SigContext {
            r8: 0,
            r9: 0,
            r10: 0,
            r11: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
            rdi: 0,
            rsi: 0,
            rbp: 0,
            rbx: 0,
            rdx: 0,
            rax: 0,
            rcx: 0,
            rsp: 0,
            rip: 0,
            eflags: 0x202,
            cs: USER_CS,
            gs: 0,
            fs: 0,
            ss: USER_DS,
            err: 0,
            trapno: 0,
            oldmask: 0,
            cr2: 0,
            fpstate: 0,
            _reserved: [0; 8],
        },
        sigmask: 0,
    };
}

/// Inside the FXSAVE image at `fpstate`: `struct _fpx_sw_bytes`.
pub const FPSTATE_SW_OFFSET: usize = 464;
/// In that, `xfeatures`: which components the state has.
pub const FPSTATE_XFEATURES_OFFSET: usize = FPSTATE_SW_OFFSET + 8;
pub const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
/// Length of the FXSAVE image, all there is when MAGIC1 is absent.
pub const FXSAVE_LEN: usize = 512;
/// Where XMM0–15 lie in the FXSAVE image.
pub const FXSAVE_XMM_OFFSET: usize = 160;
/// `XSTATE_BV` in the XSAVE header that follows the FXSAVE image.
pub const XSTATE_BV_OFFSET: usize = 512;

const _: () = assert!(size_of::<SigInfo>() == 128);
const _: () = assert!(size_of::<SigContext>() == 256);
const _: () = assert!(size_of::<UContext>() == 304);
