//! The `syscall` instruction.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, Ordering};
use pegasus_abi::errno::{Result, from_return};

/// What makes the calling thread run on its home task; null while all do.
static GO_HOME: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// From now on `go_home` is called before each call that depends on which task makes it: nearly all do, by their descriptors,
/// credentials, namespaces or signals.
pub fn set_go_home(go_home: fn()) {
    GO_HOME.store(go_home as *mut (), Ordering::Release);
}

/// Makes the calling thread run on its home task, if it has one and is not there.
pub fn go_home() {
    let function = GO_HOME.load(Ordering::Acquire);
    if !function.is_null() {
        // SAFETY: stored by `set_go_home`.
        unsafe { core::mem::transmute::<*mut (), fn()>(function)() };
    }
}

/// One system call with up to six arguments, made by the home task.
///
/// # Safety
/// The call must not make the kernel change memory, mappings or task state that code relies on.
#[inline(always)]
pub unsafe fn call(nr: usize, args: [usize; 6]) -> Result {
    go_home();
    // SAFETY: the caller's promise.
    unsafe { call_here(nr, args) }
}

/// [`call`] by whichever task this is: for what is the same for all tasks in an address space.
///
/// # Safety
/// As for [`call`].
#[inline(always)]
pub unsafe fn call_here(nr: usize, args: [usize; 6]) -> Result {
    let value: usize;
    // SAFETY: the register use is that of the x86-64 system call convention; what the call does is the
    // caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => value,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    from_return(value)
}

macro_rules! define_short_calls {
    ($($name:ident($($arg:ident),*);)*) => {$(
        /// [`call`] with fewer arguments.
        ///
        /// # Safety
        /// As for [`call`].
        #[inline(always)]
        pub unsafe fn $name(nr: usize, $($arg: usize),*) -> Result {
            let mut args = [0; 6];
            let given = [$($arg),*];
            args[..given.len()].copy_from_slice(&given);
            // SAFETY: the caller's promise.
            unsafe { call(nr, args) }
        }
    )*};
}

define_short_calls! {
    call1(a);
    call2(a, b);
    call3(a, b, c);
    call4(a, b, c, d);
    call5(a, b, c, d, e);
}
