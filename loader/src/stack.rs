//! The initial stack of a process: argc, argv, envp, the auxiliary vector and their strings.
//!
//! Key types: [`StackInput`], [`StackImage`]; the `AT_*` numbers live here too. Layout after the
//! System V AMD64 psABI (§3.4.1, "Initial Stack and Register State") and, where that leaves a
//! choice, after Linux's `create_elf_tables`. From high to low addresses:
//!
//! ```text
//! top      8 bytes of zero
//!          path of the program (AT_EXECFN)
//!          environment strings, argument strings, each in order upwards
//!          platform string (AT_PLATFORM), 16 random bytes (AT_RANDOM)
//!          auxiliary vector, ending in AT_NULL
//!          envp[], NULL
//!          argv[], NULL
//! sp       argc                                                   (16-byte aligned)
//! ```
//!
//! Neighbours: the process loader collects the auxiliary values, and copies the bytes.
//!
//! Never chooses where the stack is (nor its random distance from the top), never reads the
//! environment of anyone.

use alloc::vec::Vec;

use crate::errno::{E2BIG, EINVAL, ENOMEM};

/// End of the vector.
pub const AT_NULL: u64 = 0;
/// Entry to be ignored.
pub const AT_IGNORE: u64 = 1;
/// Descriptor of the program, for an interpreter that `binfmt_misc` chose.
pub const AT_EXECFD: u64 = 2;
/// Address of the program headers.
pub const AT_PHDR: u64 = 3;
/// Size of one program header, in bytes.
pub const AT_PHENT: u64 = 4;
/// Number of program headers.
pub const AT_PHNUM: u64 = 5;
/// Page size, in bytes.
pub const AT_PAGESZ: u64 = 6;
/// Load address of the interpreter; 0 if there is none.
pub const AT_BASE: u64 = 7;
/// Flags of `binfmt_misc`, else 0.
pub const AT_FLAGS: u64 = 8;
/// Entry point of the program.
pub const AT_ENTRY: u64 = 9;
/// The program is not ELF (never set on x86-64).
pub const AT_NOTELF: u64 = 10;
/// Real user id.
pub const AT_UID: u64 = 11;
/// Effective user id.
pub const AT_EUID: u64 = 12;
/// Real group id.
pub const AT_GID: u64 = 13;
/// Effective group id.
pub const AT_EGID: u64 = 14;
/// Address of the platform's name. Added by [`build`].
pub const AT_PLATFORM: u64 = 15;
/// CPU features: `CPUID.1:EDX`.
pub const AT_HWCAP: u64 = 16;
/// Ticks per second of `times(2)`.
pub const AT_CLKTCK: u64 = 17;
/// Whether the program gained privilege by exec, 0 or 1.
pub const AT_SECURE: u64 = 23;
/// Address of the real platform's name (not on x86-64).
pub const AT_BASE_PLATFORM: u64 = 24;
/// Address of 16 random bytes. Added by [`build`].
pub const AT_RANDOM: u64 = 25;
/// More CPU features: bit 0 ring-3 MWAIT, bit 1 FSGSBASE.
pub const AT_HWCAP2: u64 = 26;
/// Size of `struct rseq` the kernel supports, in bytes.
pub const AT_RSEQ_FEATURE_SIZE: u64 = 27;
/// Alignment of `struct rseq`, in bytes.
pub const AT_RSEQ_ALIGN: u64 = 28;
/// More CPU features (not on x86-64).
pub const AT_HWCAP3: u64 = 29;
/// More CPU features (not on x86-64).
pub const AT_HWCAP4: u64 = 30;
/// Address of the program's path as given to `execve`. Added by [`build`].
pub const AT_EXECFN: u64 = 31;
/// Address of the `vsyscall` entry (32-bit only).
pub const AT_SYSINFO: u64 = 32;
/// Address of the vDSO.
pub const AT_SYSINFO_EHDR: u64 = 33;
/// Smallest stack on which a signal can be delivered, in bytes.
pub const AT_MINSIGSTKSZ: u64 = 51;

/// The order in which Linux writes the entries for x86-64.
const LINUX_ORDER: [u64; 26] = [
    AT_SYSINFO_EHDR,
    AT_MINSIGSTKSZ,
    AT_HWCAP,
    AT_PAGESZ,
    AT_CLKTCK,
    AT_PHDR,
    AT_PHENT,
    AT_PHNUM,
    AT_BASE,
    AT_FLAGS,
    AT_ENTRY,
    AT_UID,
    AT_EUID,
    AT_GID,
    AT_EGID,
    AT_SECURE,
    AT_RANDOM,
    AT_HWCAP2,
    AT_HWCAP3,
    AT_HWCAP4,
    AT_EXECFN,
    AT_PLATFORM,
    AT_BASE_PLATFORM,
    AT_EXECFD,
    AT_RSEQ_FEATURE_SIZE,
    AT_RSEQ_ALIGN,
];

/// Longest single string with its NUL, in bytes (`MAX_ARG_STRLEN`).
pub const STRING_LEN_MAX: usize = 128 * 1024;
/// What arguments and environment may take however small the stack limit is (`ARG_MAX`), in bytes.
pub const ARGS_LEN_MIN: u64 = 128 * 1024;
/// What they may take however large it is: three quarters of 8 MiB (`_STK_LIM`), in bytes.
pub const ARGS_LEN_MAX: u64 = 6 * 1024 * 1024;
/// Auxiliary entries at most (`AT_VECTOR_SIZE` has fewer; this only bounds the work).
pub const AUX_LEN_MAX: usize = 64;

const WORD_LEN: u64 = 8;

/// What goes onto the stack.
#[derive(Clone, Debug)]
pub struct StackInput<'a> {
    /// The arguments, without NULs. None at all becomes one empty string (Linux 5.18 and later).
    pub argv: &'a [&'a [u8]],
    /// The environment, without NULs.
    pub envp: &'a [&'a [u8]],
    /// The path given to `execve` (of the script, for a script), without NUL.
    pub execfn: &'a [u8],
    /// `x86_64`, without NUL; empty: no `AT_PLATFORM`.
    pub platform: &'a [u8],
    /// What `AT_RANDOM` points to.
    pub random: [u8; 16],
    /// Every other auxiliary entry as (tag, value), in any order: known tags are put into Linux's
    /// order, unknown ones follow. Must not hold `AT_EXECFN`, `AT_PLATFORM`, `AT_RANDOM`,
    /// `AT_NULL`.
    pub aux: &'a [(u64, u64)],
    /// First address above the stack, a multiple of 16.
    pub top: u64,
    /// The soft `RLIMIT_STACK`, in bytes (`u64::MAX`: none).
    pub stack_limit: u64,
}

/// The bytes of the initial stack and where its parts are. All addresses are final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackImage {
    /// To be copied to `[sp, top)`.
    pub bytes: Vec<u8>,
    /// The initial stack pointer: the address of argc, 16-byte aligned.
    pub sp: u64,
    /// First byte of the argument strings (`/proc/pid/stat`'s `arg_start`, for `cmdline`).
    pub argv_start: u64,
    /// First byte after them.
    pub argv_end: u64,
    /// First byte of the environment strings.
    pub env_start: u64,
    /// First byte after them.
    pub env_end: u64,
    /// First byte of the auxiliary vector.
    pub auxv_start: u64,
    /// Its length with the `AT_NULL` entry, in bytes: what `/proc/pid/auxv` begins with.
    pub auxv_len: usize,
}

/// Why a stack cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackError {
    /// One string with its NUL is longer than [`STRING_LEN_MAX`].
    StringTooLong,
    /// Strings and pointers together exceed the limit: the larger of [`ARGS_LEN_MIN`] and the
    /// smaller of a quarter of the stack limit and [`ARGS_LEN_MAX`].
    ArgumentsTooLong,
    /// A string contains a NUL.
    StringWithNul,
    /// `aux` is too long or holds an entry that [`build`] itself makes.
    Aux,
    /// `top` is not a multiple of 16.
    Top,
    /// There are fewer bytes below `top` than the stack needs.
    NoRoom,
}

impl StackError {
    /// Linux's error number, positive. (`EINVAL` for what no `execve` could ask for.)
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Self::StringTooLong | Self::ArgumentsTooLong => E2BIG,
            Self::StringWithNul | Self::Aux | Self::Top => EINVAL,
            Self::NoRoom => ENOMEM,
        }
    }
}

/// Bytes that argument and environment strings and their pointers may take for a soft
/// `RLIMIT_STACK` of `stack_limit` bytes. Source: `bprm_stack_limits` of Linux; `execve(2)`.
#[must_use]
pub fn args_len_limit(stack_limit: u64) -> u64 {
    (stack_limit / 4).clamp(ARGS_LEN_MIN, ARGS_LEN_MAX)
}

/// Builds the stack.
///
/// # Errors
/// See [`StackError`]. As in Linux, the path of the program counts towards the limit on strings,
/// the auxiliary vector does not.
pub fn build(input: &StackInput) -> Result<StackImage, StackError> {
    let empty: [&[u8]; 1] = [b""];
    let argv = if input.argv.is_empty() {
        &empty
    } else {
        input.argv
    };
    check(input, argv)?;
    let place = Placement::of(input, argv)?;
    let len = usize::try_from(input.top - place.sp).map_err(|_| StackError::NoRoom)?;
    let mut out = Writer {
        bytes: Vec::with_capacity(len),
    };

    out.word(argv.len() as u64);
    out.pointers(argv, place.argv_start);
    out.pointers(input.envp, place.env_start);
    let auxv_start = place.sp + out.bytes.len() as u64;
    let auxv_len = write_aux(input, &place, &mut out);
    out.pad_to(place.random - place.sp);
    out.bytes.extend_from_slice(&input.random);
    if !input.platform.is_empty() {
        out.string(input.platform);
    }
    out.pad_to(place.argv_start - place.sp);
    for string in argv.iter().chain(input.envp).chain([&input.execfn]) {
        out.string(string);
    }
    out.pad_to(len as u64);

    Ok(StackImage {
        bytes: out.bytes,
        sp: place.sp,
        argv_start: place.argv_start,
        argv_end: place.env_start,
        env_start: place.env_start,
        env_end: place.execfn,
        auxv_start,
        auxv_len,
    })
}

/// Checks everything that does not depend on addresses.
fn check(input: &StackInput, argv: &[&[u8]]) -> Result<(), StackError> {
    let made_here = |tag| matches!(tag, AT_NULL | AT_EXECFN | AT_PLATFORM | AT_RANDOM);
    if input.aux.len() > AUX_LEN_MAX || input.aux.iter().any(|(tag, _)| made_here(*tag)) {
        return Err(StackError::Aux);
    }
    if !input.top.is_multiple_of(16) {
        return Err(StackError::Top);
    }
    let limit = args_len_limit(input.stack_limit);
    let pointers = (argv.len() as u64).saturating_add(input.envp.len() as u64);
    let pointers_len = pointers.saturating_mul(WORD_LEN);
    // Linux refuses "limit <= pointers", because a string has to fit as well.
    let mut room = limit.saturating_sub(pointers_len);
    if room == 0 {
        return Err(StackError::ArgumentsTooLong);
    }
    for string in argv.iter().chain(input.envp).chain([&input.execfn]) {
        if string.len() >= STRING_LEN_MAX {
            return Err(StackError::StringTooLong);
        }
        room = room
            .checked_sub(string_len(string))
            .ok_or(StackError::ArgumentsTooLong)?;
    }
    if input.platform.len() >= STRING_LEN_MAX {
        return Err(StackError::StringTooLong);
    }
    let mut strings = argv
        .iter()
        .chain(input.envp)
        .chain([&input.execfn, &input.platform]);
    if strings.any(|s| s.contains(&0)) {
        return Err(StackError::StringWithNul);
    }
    Ok(())
}

/// The addresses of the parts, computed from the top down.
struct Placement {
    execfn: u64,
    env_start: u64,
    argv_start: u64,
    platform: u64,
    random: u64,
    sp: u64,
}

impl Placement {
    fn of(input: &StackInput, argv: &[&[u8]]) -> Result<Self, StackError> {
        let below = |addr: u64, len: u64| addr.checked_sub(len).ok_or(StackError::NoRoom);
        let strings_len = |strings: &[&[u8]]| strings.iter().map(|s| string_len(s)).sum::<u64>();

        let execfn = below(input.top, WORD_LEN + string_len(input.execfn))?;
        let env_start = below(execfn, strings_len(input.envp))?;
        let argv_start = below(env_start, strings_len(argv))?;
        let platform_len = if input.platform.is_empty() {
            0
        } else {
            string_len(input.platform)
        };
        let platform = below(align_16(argv_start), platform_len)?;
        let random = below(platform, input.random.len() as u64)?;
        let aux_entries = aux_len(input) as u64;
        // argc, two NULLs, and the pointers themselves.
        let words = 3 + argv.len() as u64 + input.envp.len() as u64 + 2 * aux_entries;
        let sp = align_16(below(align_16(random), words * WORD_LEN)?);
        Ok(Self {
            execfn,
            env_start,
            argv_start,
            platform,
            random,
            sp,
        })
    }
}

/// Auxiliary entries that will be written, `AT_NULL` included.
fn aux_len(input: &StackInput) -> usize {
    let made_here = if input.platform.is_empty() { 3 } else { 4 };
    input.aux.len() + made_here
}

/// Writes the auxiliary vector in Linux's order; gives its length in bytes.
fn write_aux(input: &StackInput, place: &Placement, out: &mut Writer) -> usize {
    let start = out.bytes.len();
    let mut entries = Vec::with_capacity(aux_len(input));
    entries.extend_from_slice(input.aux);
    entries.push((AT_RANDOM, place.random));
    entries.push((AT_EXECFN, place.execfn));
    if !input.platform.is_empty() {
        entries.push((AT_PLATFORM, place.platform));
    }
    // A stable sort: unknown tags stay in the caller's order.
    entries.sort_by_key(|(tag, _)| {
        LINUX_ORDER
            .iter()
            .position(|known| known == tag)
            .unwrap_or(LINUX_ORDER.len())
    });
    entries.push((AT_NULL, 0));
    for (tag, value) in entries {
        out.word(tag);
        out.word(value);
    }
    out.bytes.len() - start
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn word(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn string(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
    }

    /// A NULL-terminated array of pointers to strings that lie one after another from `addr`.
    fn pointers(&mut self, strings: &[&[u8]], mut addr: u64) {
        for string in strings {
            self.word(addr);
            addr += string_len(string);
        }
        self.word(0);
    }

    /// Zeros up to `distance` bytes from the stack pointer.
    fn pad_to(&mut self, distance: u64) {
        // Placement guarantees that the parts before end at or below here.
        let len = usize::try_from(distance).unwrap_or(self.bytes.len());
        self.bytes.resize(len.max(self.bytes.len()), 0);
    }
}

/// Length with the NUL, in bytes.
fn string_len(string: &[u8]) -> u64 {
    string.len() as u64 + 1
}

fn align_16(addr: u64) -> u64 {
    addr & !15
}
