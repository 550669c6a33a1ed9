//! Going on as another thread of the vkernel without asking Linux.
//!
//! A thread that gives the task up keeps on its vkernel stack what a function call must preserve: RBX, RBP, R12–R15,
//! and MXCSR, and with them its FS base. The address of all that is its *context*. The GS base is the address of its area.
//!
//! ```text
//! growing down   │ return address    │
//!                │ rbp rbx r12 … r15 │
//!                │ fs base           │
//!     context ─► │ mxcsr             │
//! ```
//!
//! What Linux preserves across a call and this does not is the business of [`extended`].

use crate::area::Area;
use core::arch::global_asm;
use core::cell::Cell;

global_asm!(
    ".pushsection .text.switch, \"ax\", @progbits",
    ".macro PEGASUS_SAVE_CONTEXT",
    "    push rbp",
    "    push rbx",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    rdfsbase rax",
    "    push rax",
    "    sub rsp, 8",
    "    stmxcsr [rsp]",
    "    mov [rdi], rsp",
    ".endm",
    // extern "C" fn(save: *mut usize, area: usize, context: usize)
    ".globl pegasus_switch",
    "pegasus_switch:",
    "    PEGASUS_SAVE_CONTEXT",
    "    mov rdi, rdx",
    // extern "C" fn(context: usize, area: usize) -> !
    ".globl pegasus_continue",
    "pegasus_continue:",
    "    mov rsp, rdi",
    "    wrgsbase rsi",
    "    ldmxcsr [rsp]",
    "    add rsp, 8",
    "    pop rax",
    "    wrfsbase rax",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbx",
    "    pop rbp",
    "    ret",
    // extern "C" fn(save: *mut usize, stack_top: usize, function, argument)
    ".globl pegasus_switch_to_stack",
    "pegasus_switch_to_stack:",
    "    PEGASUS_SAVE_CONTEXT",
    "    mov rsp, rsi",
    "    xor ebp, ebp",
    "    mov rdi, rcx",
    "    call rdx",
    "    ud2",
    ".popsection",
);

unsafe extern "C" {
    fn pegasus_switch(save: *mut usize, area: *const Area, context: usize);
    fn pegasus_continue(context: usize, area: *const Area) -> !;
    fn pegasus_switch_to_stack(
        save: *mut usize,
        stack_top: usize,
        function: extern "C" fn(usize) -> !,
        argument: usize,
    );
}

/// Goes on at `context`, whose thread has `area`; returns when somebody goes on at what is stored in `save`.
///
/// # Safety
/// `context` must be one that nobody else goes on at. Whoever goes on at `save` must do so with the extended state as
/// [`extended`] wants it.
pub unsafe fn switch(save: &Cell<usize>, area: &Area, context: usize) {
    // SAFETY: the caller's promise.
    unsafe { pegasus_switch(save.as_ptr(), area, context) }
}

/// Goes on at `context` and forgets the present one.
///
/// # Safety
/// As for [`switch`]; nothing on the present stack may be needed any more.
pub unsafe fn go_on(area: &Area, context: usize) -> ! {
    // SAFETY: the caller's promise.
    unsafe { pegasus_continue(context, area) }
}

/// The CPU that the calling task runs on, or has just left.
pub fn current_cpu() -> usize {
    /// Linux keeps CPU and node in the limit of this segment, for its vDSO: the CPU in the low bits.
    const CPU_NODE_SEGMENT: u32 = 0x7b;
    const CPU_MASK: u32 = 0xfff;
    let limit: u32;
    // SAFETY: reads a descriptor's limit; of a segment that is not there the register stays as it is.
    unsafe {
        core::arch::asm!(
            "lsl {limit:e}, {segment:e}",
            segment = in(reg) CPU_NODE_SEGMENT,
            limit = inout(reg) u32::MAX => limit,
            options(nomem, nostack),
        );
    }
    (limit & CPU_MASK) as usize
}

/// The FS base of the calling thread.
pub fn fs_base() -> usize {
    let base;
    // SAFETY: only called where there are workers, hence FSGSBASE.
    unsafe {
        core::arch::asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
    }
    base
}

/// Sets it.
pub fn set_fs_base(base: usize) {
    // SAFETY: as above; the vkernel has no thread-local storage.
    unsafe {
        core::arch::asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
    }
}

/// The rights of the calling thread by protection keys. The CPU must have them.
pub fn pkru() -> u32 {
    let rights;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack));
    }
    rights
}

/// Sets them.
pub fn set_pkru(rights: u32) {
    // SAFETY: they are the thread's own, with which it has been in the vkernel before.
    unsafe {
        core::arch::asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack));
    }
}

/// Whether CPU and Linux have protection keys.
pub fn has_pkru() -> bool {
    const OSPKE: u32 = 1 << 4;
    core::arch::x86_64::__cpuid_count(7, 0).ecx & OSPKE != 0
}

/// Instruction pointer with which a task goes on at the context in RDI, with the area in RSI.
pub fn continuation() -> usize {
    pegasus_continue as *const () as usize
}

/// Leaves the present context in `save`, and this task to `function` on another stack.
///
/// # Safety
/// `stack_top` must be the aligned end of an unused stack.
pub unsafe fn switch_to_stack(
    save: &Cell<usize>,
    stack_top: usize,
    function: extern "C" fn(usize) -> !,
    argument: usize,
) {
    // SAFETY: the caller's promise.
    unsafe { pegasus_switch_to_stack(save.as_ptr(), stack_top, function, argument) }
}

/// The FPU state beyond what a context and the gate keep (XMM0–15): x87, and the upper parts of vector registers.
///
/// A program that has them in use when it makes a call finds them again; they are rarely in use, because compilers clear upper
/// halves (VZEROUPPER) before they call. Between two threads they are in their initial state. The mask registers and ZMM16–31 of
/// AVX-512 are left alone: functions may use them freely, so only a `syscall` instruction in the middle of such a function could
/// tell.
pub mod extended {
    use core::arch::x86_64::__cpuid_count;
    use core::cell::{Cell, UnsafeCell};

    /// x87, upper halves of YMM0–15, of ZMM0–15.
    const KEPT: u32 = 1 << 0 | 1 << 2 | 1 << 6;
    /// Tile registers, which are too large to be moved about.
    const TILES: u32 = 3 << 17;

    /// Where the header of an XSAVE area lies.
    const HEADER_AT: usize = 512;
    const HEADER_LEN: usize = 64;

    /// An XSAVE area in the compact format.
    #[repr(C, align(64))]
    pub struct State {
        area: UnsafeCell<[u8; 2048]>,
        is_saved: Cell<bool>,
    }

    impl State {
        /// Makes a place say that nothing is kept there; the rest is written before it is read.
        ///
        /// # Safety
        /// `place` must be valid and used by nobody.
        pub unsafe fn write_at(place: *mut State) {
            // SAFETY: the caller's promise. XSAVEC leaves most of the header as it is, and XRSTOR wants zeros there.
            unsafe {
                (&raw mut (*place).is_saved).write(Cell::new(false));
                let area = (&raw mut (*place).area).cast::<u8>();
                area.add(HEADER_AT).write_bytes(0, HEADER_LEN);
            }
        }
    }

    /// Whether the CPU has what this module needs: XSAVEC, XGETBV with ECX 1.
    pub fn is_supported() -> bool {
        const XSAVEC_AND_XGETBV_1: u32 = 1 << 1 | 1 << 2;
        // CPUID is always there on x86-64, and leaf 0xd answers zeros if it is unknown.
        __cpuid_count(0xd, 1).eax & XSAVEC_AND_XGETBV_1 == XSAVEC_AND_XGETBV_1
    }

    fn in_use() -> u32 {
        let low: u32;
        // SAFETY: reads a register; `is_supported` has been asked.
        unsafe {
            core::arch::asm!("xgetbv", in("ecx") 1, out("eax") low, out("edx") _, options(nomem, nostack));
        }
        low
    }

    /// Whether the state in use is more than can be moved.
    pub fn is_immovable() -> bool {
        in_use() & TILES != 0
    }

    /// Keeps what is in use, and puts it into its initial state.
    pub fn save(state: &State) {
        let used = in_use() & KEPT;
        state.is_saved.set(used != 0);
        if used == 0 {
            return;
        }
        // SAFETY: 2048 bytes are enough for a header and those three components (512 + 64 + 256 + 512), aligned to 64.
        unsafe {
            core::arch::asm!("xsavec64 [{}]", in(reg) state.area.get(), in("eax") used, in("edx") 0, options(nostack));
        }
        clear();
    }

    /// Puts those components into their initial state.
    pub fn clear() {
        /// XRSTOR of a standard-format area whose header says: everything initial.
        #[repr(C, align(64))]
        struct Initial([u8; 576]);
        static INITIAL: Initial = Initial([0; 576]);
        if in_use() & KEPT == 0 {
            return;
        }
        // SAFETY: reads 576 bytes, as no component is present. MXCSR is not loaded: neither SSE nor AVX would be, but for AVX,
        // with which XRSTOR loads MXCSR; so it is kept around it.
        unsafe {
            let mut mxcsr = 0u32;
            core::arch::asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack));
            core::arch::asm!("xrstor64 [{}]", in(reg) &raw const INITIAL, in("eax") KEPT, in("edx") 0, options(nostack));
            core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack));
        }
    }

    /// Gives back what [`save`] has kept, if anything.
    pub fn restore(state: &State) {
        if !state.is_saved.replace(false) {
            return;
        }
        // SAFETY: written by `save`. MXCSR in it is the thread's own.
        unsafe {
            core::arch::asm!("xrstor64 [{}]", in(reg) state.area.get(), in("eax") KEPT, in("edx") 0, options(nostack));
        }
    }

    /// Writes the components `mask` of the present state to the XSAVE area of a signal frame, in the standard format.
    ///
    /// # Safety
    /// `area` must be aligned to 64 and have room for them.
    pub unsafe fn capture(area: *mut u8, mask: u64) {
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!("xsave64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
                options(nostack));
        }
    }
}
