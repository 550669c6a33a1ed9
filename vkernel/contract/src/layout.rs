//! The map of an instance's address space.
//!
//! ```text
//! 0x0000_0000_1000 … 0x2010_0000_0000   low window: non-PIE programs, MAP_32BIT (one owner)
//! 0x2010_0000_0000 … 0x2011_0000_0000   the vkernel image (text, read-only data, private data)
//! 0x2011_0000_0000 … 0x2200_0000_0000   the shared heap: header, one arena per process, pools
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
/// Pools of sockets, connections and epoll sets: see [`crate::socket`].
pub const POOLS_BASE: usize = ARENA_BASE + ARENA_LEN * PROCESSES_MAX;
pub const POOLS_HEADER_LEN: usize = 2 << 20;
pub const SOCKETS_BASE: usize = POOLS_BASE + POOLS_HEADER_LEN;
pub const SOCKETS_MAX: usize = 512 << 10;
pub const SOCKET_LEN: usize = 192;
pub const CONNECTIONS_BASE: usize = SOCKETS_BASE + SOCKETS_MAX * SOCKET_LEN;
pub const CONNECTIONS_MAX: usize = 256 << 10;
pub const CONNECTION_LEN: usize = 4096;
/// What a direction of a connection gets when its inline store is too small.
pub const BUFFERS_BASE: usize = CONNECTIONS_BASE + CONNECTIONS_MAX * CONNECTION_LEN;
pub const BUFFERS_MAX: usize = 8 << 10;
pub const BUFFER_LEN: usize = 1 << 20;
pub const ITEMS_BASE: usize = BUFFERS_BASE + BUFFERS_MAX * BUFFER_LEN;
pub const ITEMS_MAX: usize = 1 << 20;
pub const ITEM_LEN: usize = 64;
pub const SETS_BASE: usize = ITEMS_BASE + ITEMS_MAX * ITEM_LEN;
pub const SETS_MAX: usize = 64 << 10;
pub const SET_LEN: usize = 128;
/// The directory of sockets that look for their peer.
pub const DIRECTORY_BASE: usize = SETS_BASE + SETS_MAX * SET_LEN;
pub const DIRECTORY_BUCKETS: usize = 128 << 10;
pub const BUCKET_LEN_BYTES: usize = 64;
/// One table of descriptors per process record, and one that stays empty.
pub const DESCRIPTORS_BASE: usize = DIRECTORY_BASE + DIRECTORY_BUCKETS * BUCKET_LEN_BYTES;
/// Descriptors from this number on are always Linux's alone (`fs.nr_open` is as much by default).
pub const DESCRIPTORS_MAX: usize = 1 << 20;
pub const DESCRIPTOR_TABLE_LEN: usize = DESCRIPTORS_MAX * 4;
pub const POOLS_END: usize = DESCRIPTORS_BASE + DESCRIPTOR_TABLE_LEN * (PROCESSES_MAX + 1);

/// Length of the memfd behind the heap. It is sparse: untouched pages cost nothing.
pub const HEAP_LEN: usize = POOLS_END - HEAP_BASE;

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

const _: () = assert!(HEAP_LEN.is_multiple_of(1 << 20));
const _: () = assert!(PRIVATE_ARENAS_END <= VKERNEL_END);
const _: () = assert!(IMAGE_BASE + IMAGE_LEN_MAX <= HEAP_BASE);
const _: () = assert!(SLOTS_LOW_BASE + SLOTS_LOW_COUNT * SLOT_LEN == 0x5400_0000_0000);
const _: () = assert!(CONTAINERS_MAX <= SLOTS_MAX);

/// Whether an address lies in some slot.
pub const fn is_in_slots(address: usize) -> bool {
    let low_end = SLOTS_LOW_BASE + SLOTS_LOW_COUNT * SLOT_LEN;
    let high_end = SLOTS_HIGH_BASE + (SLOTS_MAX - SLOTS_LOW_COUNT) * SLOT_LEN;
    SLOTS_LOW_BASE <= address && address < low_end
        || SLOTS_HIGH_BASE <= address && address < high_end
}

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

/// First address of the descriptor table of process record `index`.
pub const fn descriptors_base(index: usize) -> usize {
    DESCRIPTORS_BASE + index * DESCRIPTOR_TABLE_LEN
}

/// First address of the arena of process record `index`.
pub const fn arena_base(index: usize) -> usize {
    ARENA_BASE + index * ARENA_LEN
}
