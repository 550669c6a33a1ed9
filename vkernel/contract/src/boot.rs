//! Entering the vkernel image.
//!
//! The image's ELF entry point is one function, [`Entry`]: an operation and a pointer to its
//! argument. Operations run on the caller's stack and never touch its thread-local storage, so
//! they may be called from an ordinary Rust thread of the runtime. Each returns a non-negative value or `-errno`.

/// `extern "C"` type of the image's `e_entry`.
pub type Entry = extern "C" fn(operation: u64, argument: *mut core::ffi::c_void) -> i64;

/// What [`Entry`] is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Operation {
    /// Write the heap header. Argument: [`InitArgs`]. Once, right after image and heap are mapped.
    Init = 1,
    /// Turn the calling process, which must have one thread, into the container's first process in
    /// an own instance. Argument: [`OwnArgs`]. Returns only on failure (`-errno`), and then
    /// nothing has been changed: the caller may still `execve` the program itself.
    RunOwn = 2,
    /// Clone a container's first home task (`CLONE_VM | CLONE_NEWPID | CLONE_FILES | SIGCHLD`), which
    /// then waits in the vkernel for [`Operation::ReleaseHome`]. Argument: [`SpawnHomeArgs`]. Returns the
    /// home task's pid as the caller sees it.
    SpawnHome = 3,
    /// Let a home task join its container (`setns` …) and run the program. Argument: [`ReleaseHomeArgs`].
    /// Returns 0 when the program has been loaded, else `-errno` and the home task has exited.
    ReleaseHome = 4,
    /// Close what the processes of a container still had open, which are all gone. Argument: [`BuryArgs`]. Returns 0.
    Bury = 5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum InstanceKind {
    Own = 1,
    Shared = 2,
}

#[derive(Debug)]
#[repr(C)]
pub struct InitArgs {
    pub contract_version: u32,
    pub kind: u32,
    /// The caller's auxiliary vector: `auxv_len` (type, value) pairs, as in `/proc/self/auxv`.
    pub auxv: *const [u64; 2],
    pub auxv_len: usize,
}

/// A program to load, as for `execve(2)`: NUL-terminated strings, NULL-terminated vectors. `path`
/// is already resolved against PATH.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Program {
    pub path: *const u8,
    pub argv: *const *const u8,
    pub envp: *const *const u8,
}

#[derive(Debug)]
#[repr(C)]
pub struct OwnArgs {
    pub program: Program,
    /// The container's id, NUL-terminated; stored in its record, truncated to fit.
    pub container_id: *const u8,
}

#[derive(Debug)]
#[repr(C)]
pub struct SpawnHomeArgs {
    pub container_id: *const u8,
    /// Out: index of the container's record in the heap header.
    pub container_index: u32,
    /// Non-zero: also `CLONE_NEWPID`. Zero when the caller has set `pid_for_children` itself.
    pub new_pid_namespace: u32,
}

#[derive(Debug)]
#[repr(C)]
pub struct BuryArgs {
    pub container_index: u32,
}

/// How a home task becomes a member of its container. All pointers stay valid until
/// [`Operation::ReleaseHome`] returns; descriptors are numbers in the caller's table, which the home task
/// shares until it joins.
#[derive(Debug)]
#[repr(C)]
pub struct JoinPlan {
    /// pidfd of the anchor, for `setns(2)`.
    pub anchor_pidfd: i32,
    /// `CLONE_NEW*` of the namespaces to take from the anchor (never `CLONE_NEWPID`).
    pub namespaces: u32,
    /// Become these descriptors 0, 1, 2 (and, for `preserved_fds`, 3, 4, …); every other one is closed.
    pub stdio: [i32; 3],
    pub preserved_fds_len: u32,
    pub preserved_fds: *const i32,
    /// Non-zero: descriptor 0 is a terminal that becomes the controlling one.
    pub terminal: u32,
    pub umask: u32,
    pub cwd: *const u8,
    pub uid: u32,
    pub gid: u32,
    pub groups_len: u32,
    pub no_new_privileges: u32,
    pub groups: *const u32,
    /// Capability sets as bit masks.
    pub cap_bounding: u64,
    pub cap_permitted: u64,
    pub cap_effective: u64,
    pub cap_inheritable: u64,
    pub cap_ambient: u64,
    pub rlimits: *const Rlimit,
    pub rlimits_len: u32,
    pub seccomp_flags: u32,
    /// Classic BPF instructions (`struct sock_filter`, 8 bytes each), or NULL for no filter.
    pub seccomp_filter: *const u64,
    pub seccomp_filter_len: u32,
    pub _reserved: u32,
    /// An AppArmor profile, NUL-terminated, or NULL for none.
    pub apparmor_profile: *const u8,
}

/// One `setrlimit(2)`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Rlimit {
    pub resource: u32,
    pub _reserved: u32,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug)]
#[repr(C)]
pub struct ReleaseHomeArgs {
    pub container_index: u32,
    pub _reserved: u32,
    pub program: Program,
    pub join: *const JoinPlan,
}
