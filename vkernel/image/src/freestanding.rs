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

core::arch::global_asm!(
    ".pushsection .text.memory, \"ax\", @progbits",
    ".globl memcpy",
    ".globl memmove",
    ".globl memset",
    ".globl memcmp",
    ".globl bcmp",
    ".globl strlen",
    // Fast short `rep movsb` (FSRM) makes this quick for all lengths on current CPUs.
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    "memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdi",
    "    sub rcx, rsi",
    "    cmp rcx, rdx",
    "    jb 1f",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    // The target begins inside the source: from the end down.
    "1:  mov rcx, rdx",
    "    lea rdi, [rdi + rdx - 1]",
    "    lea rsi, [rsi + rdx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    "memset:",
    "    mov r8, rdi",
    "    movzx eax, sil",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    "memcmp:",
    "bcmp:",
    "    xor eax, eax",
    "2:  test rdx, rdx",
    "    jz 3f",
    "    movzx eax, byte ptr [rdi]",
    "    movzx ecx, byte ptr [rsi]",
    "    inc rdi",
    "    inc rsi",
    "    dec rdx",
    "    sub eax, ecx",
    "    jz 2b",
    "3:  ret",
    "strlen:",
    "    xor eax, eax",
    "4:  cmp byte ptr [rdi + rax], 0",
    "    je 5f",
    "    inc rax",
    "    jmp 4b",
    "5:  ret",
    ".popsection",
);
