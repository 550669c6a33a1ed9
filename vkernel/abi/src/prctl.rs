//! prctl(2), arch_prctl(2), capabilities(7) and getrlimit(2) constants.

pub const PR_SET_PDEATHSIG: usize = 1;
pub const PR_GET_DUMPABLE: usize = 3;
pub const PR_SET_DUMPABLE: usize = 4;
pub const PR_SET_KEEPCAPS: usize = 8;
pub const PR_SET_NAME: usize = 15;
pub const PR_SET_SECCOMP: usize = 22;
pub const PR_CAPBSET_READ: usize = 23;
pub const PR_CAPBSET_DROP: usize = 24;
pub const PR_GET_SECUREBITS: usize = 27;
pub const PR_SET_SECUREBITS: usize = 28;
pub const PR_SET_MM: usize = 35;
pub const PR_SET_MM_MAP: usize = 14;
pub const PR_SET_NO_NEW_PRIVS: usize = 38;
pub const PR_GET_NO_NEW_PRIVS: usize = 39;
pub const PR_SET_THP_DISABLE: usize = 41;
pub const PR_CAP_AMBIENT: usize = 47;
pub const PR_CAP_AMBIENT_IS_SET: usize = 1;
pub const PR_CAP_AMBIENT_RAISE: usize = 2;
pub const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;
pub const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
pub const PR_SET_MDWE: usize = 65;
pub const PR_SYS_DISPATCH_OFF: usize = 0;
pub const PR_SYS_DISPATCH_ON: usize = 1;

pub const SECBIT_NOROOT: usize = 1;
pub const SECBIT_NO_SETUID_FIXUP: usize = 4;
pub const SECBIT_KEEP_CAPS: usize = 16;

pub const ARCH_SET_GS: usize = 0x1001;
pub const ARCH_SET_FS: usize = 0x1002;
pub const ARCH_GET_FS: usize = 0x1003;
pub const ARCH_GET_GS: usize = 0x1004;

pub const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
pub const CAP_LAST: u32 = 40;

pub const SECCOMP_SET_MODE_FILTER: usize = 1;

/// Bit of personality(2): no address is chosen at random.
pub const ADDR_NO_RANDOMIZE: usize = 0x004_0000;

pub const RLIMIT_STACK: usize = 3;
pub const RLIMIT_MEMLOCK: usize = 8;
pub const RLIMIT_AS: usize = 9;
pub const RLIM_INFINITY: u64 = u64::MAX;

/// `struct prctl_mm_map`, prctl(2) PR_SET_MM_MAP.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct PrctlMmMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: u64,
    pub auxv_size: u32,
    /// `u32::MAX` leaves `/proc/pid/exe` alone, which needs no privilege.
    pub exe_fd: u32,
}

/// `struct rlimit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rlimit {
    pub soft: u64,
    pub hard: u64,
}

/// One 32-bit half of the capability sets, capget(2).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct CapData {
    pub effective: u32,
    pub permitted: u32,
    pub inheritable: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CapHeader {
    pub version: u32,
    pub pid: i32,
}
