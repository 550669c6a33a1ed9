//! The map of an instance's address space.
//!
//! ```text
//! 0x0000_0000_1000 … 0x2010_0000_0000   low window: non-PIE programs, MAP_32BIT (one owner)
//! 0x2010_0000_0000 … 0x2011_0000_0000   the vkernel image (text, read-only data, private data)
//! 0x2011_0000_0000 … 0x2200_0000_0000   the shared heap: header, then one arena per process
//! 0x2800_0000_0000 … 0x5400_0000_0000   slots  0 … 21
//! 0x5400_0000_0000 … 0x5800_0000_0000   left to the kernel: brk of the control process
//! 0x5800_0000_0000 … 0x7800_0000_0000   slots 22 … 37
//! 0x7800_0000_0000 … 0x7fff_ffff_f000   left to the kernel: stack, vdso, the runtime's own maps
//! ```
//!
//! An *own* instance has one resident process and no neighbour, so its slot is the whole user half
//! except `VKERNEL_BASE..VKERNEL_END`. The vkernel stays clear of AddressSanitizer's shadow, which
//! ends just above 16 TiB.

/// First address past what a 47-bit user address space may map (4-level paging).
pub const USER_END: usize = 0x7fff_ffff_f000;

/// The range that belongs to the vkernel in every process attached to an instance.
pub const VKERNEL_BASE: usize = IMAGE_BASE;
pub const VKERNEL_END: usize = 0x2200_0000_0000;

/// Where the freestanding image is linked.
pub const IMAGE_BASE: usize = 0x2010_0000_0000;
pub const IMAGE_LEN_MAX: usize = 64 << 20;

/// Where the shared heap (a memfd) is mapped, in the instance and in every satellite.
pub const HEAP_BASE: usize = 0x2011_0000_0000;
/// Room for [`crate::record::HeapHeader`].
pub const HEAP_HEADER_LEN: usize = 256 << 20;
pub const ARENA_BASE: usize = HEAP_BASE + HEAP_HEADER_LEN;
/// One arena per process record: what a process allocates dies with it, and no lock of an arena
/// is ever held by a task outside that process.
pub const ARENA_LEN: usize = 1 << 30;
pub const PROCESSES_MAX: usize = 1024;
/// Length of the memfd behind the heap. It is sparse: untouched pages cost nothing.
pub const HEAP_LEN: usize = HEAP_HEADER_LEN + ARENA_LEN * PROCESSES_MAX;

/// Arenas in private memory, for the processes that find no record: two for each slot, because a process that lives in
/// one makes its child's in the other.
pub const PRIVATE_ARENA_BASE: usize = HEAP_BASE + HEAP_LEN;
pub const PRIVATE_ARENA_LEN: usize = 256 << 20;
pub const PRIVATE_ARENAS_END: usize = PRIVATE_ARENA_BASE + 2 * SLOTS_MAX * PRIVATE_ARENA_LEN;

pub const CONTAINERS_MAX: usize = 36;
pub const SLOT_LEN: usize = 0x200_0000_0000;
pub const SLOTS_MAX: usize = 38;
const SLOTS_LOW_BASE: usize = 0x2800_0000_0000;
const SLOTS_LOW_COUNT: usize = 22;
const SLOTS_HIGH_BASE: usize = 0x5800_0000_0000;

const _: () = assert!(PRIVATE_ARENAS_END <= VKERNEL_END);
const _: () = assert!(IMAGE_BASE + IMAGE_LEN_MAX <= HEAP_BASE);
const _: () = assert!(SLOTS_LOW_BASE + SLOTS_LOW_COUNT * SLOT_LEN == 0x5400_0000_0000);
const _: () = assert!(CONTAINERS_MAX <= SLOTS_MAX);

/// First address of slot `index`, or `None` past the last one.
pub const fn slot_base(index: usize) -> Option<usize> {
    if index < SLOTS_LOW_COUNT {
        Some(SLOTS_LOW_BASE + index * SLOT_LEN)
    } else if index < SLOTS_MAX {
        Some(SLOTS_HIGH_BASE + (index - SLOTS_LOW_COUNT) * SLOT_LEN)
    } else {
        None
    }
}

/// First address of the arena of process record `index`.
pub const fn arena_base(index: usize) -> usize {
    ARENA_BASE + index * ARENA_LEN
}
