//! How the vkernel comes to life: the operations of [`pegasus_contract::boot`].
#![allow(unsafe_code)]

pub mod home;
mod join;
mod own;
pub mod supervise;

use crate::exec::Request;
use crate::signal::is_kept;
use crate::signal::receive::kernel_action;
use crate::task::{Thread, header};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::sync::atomic::Ordering;
use pegasus_abi::prctl::{PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, PR_SYS_DISPATCH_ON};
use pegasus_abi::signal::{SIGKILL, SIGNALS_MAX, SIGSTOP, SigAction};
use pegasus_abi::{Errno, Result};
use pegasus_arch::gate;
use pegasus_arch::regs::REGS_LEN;
use pegasus_contract::CONTRACT_VERSION;
use pegasus_contract::boot::{BuryArgs, InitArgs, Operation};
use pegasus_contract::layout::{IMAGE_BASE, IMAGE_LEN_MAX};
use pegasus_contract::record::{AUXV_LEN, HEAP_MAGIC};

/// The image's entry point, called by the runtime.
pub fn operate(operation: u64, argument: *mut c_void) -> i64 {
    // SAFETY: each operation is called with its own argument type, as the contract says.
    let done = unsafe {
        if operation == Operation::Init as u64 {
            init(&*argument.cast())
        } else if operation == Operation::RunOwn as u64 {
            own::run(&*argument.cast())
        } else if operation == Operation::SpawnHome as u64 {
            home::spawn(&mut *argument.cast())
        } else if operation == Operation::ReleaseHome as u64 {
            home::release(&*argument.cast())
        } else if operation == Operation::Bury as u64 {
            let args: &BuryArgs = &*argument.cast();
            crate::task::record::bury_container(args.container_index);
            Ok(0)
        } else {
            Err(Errno::ENOSYS)
        }
    };
    match done {
        Ok(value) => value as i64,
        Err(Errno(errno)) => -i64::from(errno),
    }
}

fn init(args: &InitArgs) -> Result {
    if args.contract_version != CONTRACT_VERSION {
        return Err(Errno::EINVAL);
    }
    let header = header();
    header.version.store(CONTRACT_VERSION, Ordering::Relaxed);
    header.kind.store(args.kind, Ordering::Relaxed);
    // SAFETY: the runtime passes its auxiliary vector and its length.
    let auxv = unsafe { core::slice::from_raw_parts(args.auxv, args.auxv_len) };
    for (to, from) in header.auxv.iter().take(AUXV_LEN - 1).zip(auxv) {
        to[0].store(from[0], Ordering::Relaxed);
        to[1].store(from[1], Ordering::Relaxed);
    }
    crate::deadline::start_clocks();
    header.magic.store(HEAP_MAGIC, Ordering::Release);
    Ok(0)
}

/// Arms the calling thread: Linux puts signal frames on its signal stack, and every `syscall` outside the image traps.
pub fn arm(thread: &'static Thread) -> Result {
    // SAFETY: the stack is the thread's own, for as long as the thread lives; dispatch changes nothing for the image.
    unsafe {
        pegasus_host::signal::alternate_stack(thread.signal_stack())?;
        pegasus_host::process::prctl(
            PR_SET_SYSCALL_USER_DISPATCH,
            PR_SYS_DISPATCH_ON,
            IMAGE_BASE,
            IMAGE_LEN_MAX,
            0,
        )
    }
}

/// The calling thread's `syscall`s outside the image trap no more.
pub fn disarm() {
    // SAFETY: dispatch changes nothing for the image.
    let _ = unsafe {
        pegasus_host::process::prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0)
    };
}

/// All signals at their default, but for those that the vkernel keeps.
fn install_handlers() -> Result<()> {
    for signal in (1..=SIGNALS_MAX).filter(|&signal| signal != SIGKILL && signal != SIGSTOP) {
        let action = if is_kept(signal) {
            kernel_action(0)
        } else {
            SigAction::default()
        };
        // SAFETY: the vkernel's handler may run anywhere; the default one is no code.
        unsafe { pegasus_host::signal::action(signal, Some(&action), None)? };
    }
    Ok(())
}

/// Goes on at the top of the thread's vkernel stack, below the saved registers.
fn run_on_own_stack(thread: &Thread, function: extern "C" fn(usize) -> !, argument: usize) -> ! {
    let top = thread.area.stack_top.get() - REGS_LEN;
    // SAFETY: aligned, and nothing on that stack is needed any more.
    unsafe { pegasus_arch::task::run_on(top, function, argument) }
}

/// Loads the program of `request` as the leader, from wherever the leader was.
pub fn continue_on_own_stack(thread: &Thread, request: &'static mut Request) -> ! {
    run_on_own_stack(thread, load_taken_over, &raw mut *request as usize)
}

extern "C" fn load_taken_over(request: usize) -> ! {
    // SAFETY: leaked by `take_over` for this.
    let request = unsafe { Box::from_raw(request as *mut Request) };
    crate::exec::finish_taken_over(Thread::current(), request);
    // SAFETY: the registers of the new program are in place.
    unsafe { gate::leave() }
}
