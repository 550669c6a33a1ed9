//! What a program without a standard library must bring itself.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::panic::PanicInfo;

/// ELF entry point; see `pegasus_contract::boot::Entry`.
#[unsafe(no_mangle)]
extern "C" fn pegasus_entry(operation: u64, argument: *mut c_void) -> i64 {
    pegasus_vkernel::boot::operate(operation, argument)
}

struct ArenaAllocator;

// SAFETY: passes on to the arena of the calling thread, whose allocator keeps the contract.
unsafe impl GlobalAlloc for ArenaAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        pegasus_vkernel::heap::allocate(layout)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { pegasus_vkernel::heap::release(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: ArenaAllocator = ArenaAllocator;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    pegasus_vkernel::die(format_args!("{info}"))
}

/// The precompiled `core` refers to it; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Likewise referred to by precompiled `alloc` code.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    pegasus_vkernel::die(format_args!("unwinding"))
}
