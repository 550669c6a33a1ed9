//! Every bound of the vkernel.

/// Bytes of vkernel stack per thread. Untouched pages cost nothing.
pub const VKERNEL_STACK_LEN: usize = 32 << 10;
/// Bytes of signal stack per thread, on which Linux puts the frames of the vkernel's own handler.
pub const SIGNAL_STACK_LEN: usize = 32 << 10;
/// Bytes of the stack on which a home task sleeps while a worker runs its thread, and from which it delivers what has come meanwhile.
pub const PARK_STACK_LEN: usize = 16 << 10;
/// Longest saved FPU state (XSAVE area) that a signal frame can carry; AMX needs 11 KiB.
pub const FPSTATE_LEN_MAX: usize = 16 << 10;
/// Traps at one site before it is looked at for rewriting: most sites run once or twice, at start.
pub const TRAPS_BEFORE_REWRITE: u32 = 6;
/// Strings of argv and envp together, at most (Linux: a quarter of the stack limit, at most 6 MiB).
pub const ARGS_LEN_MAX: usize = 6 << 20;
/// One argument string with its NUL (Linux: `MAX_ARG_STRLEN`).
pub const ARG_LEN_MAX: usize = 128 << 10;
/// How deep `#!` interpreters may nest (Linux: 5 rewrites of the binary, then ELOOP).
pub const INTERPRETERS_MAX: usize = 5;
/// Least room kept for the stack: a program may raise RLIMIT_STACK while it runs (Linux: `MIN_GAP` of `mmap_base`, 128 MiB).
pub const STACK_LEN_MIN: usize = 128 << 20;
/// Largest stack reserved, for an unlimited RLIMIT_STACK. Only addresses: nothing is mapped before it is used.
pub const STACK_LEN_MAX: usize = 64 << 30;
/// Gap that Linux keeps below a growing stack (`stack_guard_gap`), 256 pages.
pub const STACK_GUARD_LEN: usize = 1 << 20;

/// Whether threads with several CPUs go to workers when there are more of them than CPUs. Not yet: see ADR 13.
pub const CROWDS_GO_AWAY: bool = false;
