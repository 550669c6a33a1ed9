//! clone(2), fork(2), vfork(2), exit(2).
#![allow(unsafe_code)]

use crate::entry::Call;
use crate::heap::Arena;
use crate::task::{Process, ProcessArgs, Thread, claim_record, free_record};
use crate::usermem::UserPtr;
use core::sync::atomic::Ordering;
use pegasus_abi::clone::{
    CLONE_ARGS_SIZE_MIN, CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK, CLONE_VM, CSIGNAL, CloneArgs,
};
use pegasus_abi::signal::{SIGCHLD, StackT};
use pegasus_abi::{Errno, Result};
use pegasus_arch::area::Area;
use pegasus_contract::record::ProcessState;

/// A clone(2) or clone3(2) as the container asked for it.
struct Request {
    /// Flags, with the exit signal in the low byte for clone(2).
    flags: u64,
    /// Stack pointer of the child; 0: the caller's.
    stack: usize,
    parent_tid: usize,
    child_tid: usize,
    tls: usize,
    /// clone3(2) with something that clone(2) cannot express.
    extended: Option<CloneArgs>,
}

pub fn clone(call: &Call) -> Result {
    let [flags, stack, parent_tid, child_tid, tls, _] = call.args;
    let flags = (flags as u64) & 0xffff_ffff;
    start(
        call,
        &Request {
            flags,
            stack,
            parent_tid,
            child_tid,
            tls,
            extended: None,
        },
    )
}

pub fn fork(call: &Call) -> Result {
    start(call, &plain(u64::from(SIGCHLD)))
}

pub fn vfork(call: &Call) -> Result {
    start(call, &plain(CLONE_VM | CLONE_VFORK | u64::from(SIGCHLD)))
}

fn plain(flags: u64) -> Request {
    Request {
        flags,
        stack: 0,
        parent_tid: 0,
        child_tid: 0,
        tls: 0,
        extended: None,
    }
}

pub fn clone3(call: &Call) -> Result {
    let [address, len, ..] = call.args;
    if len > pegasus_abi::mman::PAGE_LEN {
        return Err(Errno::E2BIG);
    }
    if len < CLONE_ARGS_SIZE_MIN {
        return Err(Errno::EINVAL);
    }
    let mut args = CloneArgs::default();
    let known = len.min(size_of::<CloneArgs>());
    let bytes = pegasus_arch::usercopy::bytes_of_mut(&mut args);
    UserPtr(address).read_bytes(&mut bytes[..known])?;
    for extra in known..len {
        if UserPtr(address).offset(extra)?.read::<u8>()? != 0 {
            return Err(Errno::E2BIG);
        }
    }
    if args.flags & CSIGNAL != 0
        || args.exit_signal > CSIGNAL
        || (args.stack == 0) != (args.stack_size == 0)
    {
        return Err(Errno::EINVAL);
    }
    start(
        call,
        &Request {
            flags: args.flags,
            stack: (args.stack + args.stack_size) as usize,
            parent_tid: args.parent_tid as usize,
            child_tid: args.child_tid as usize,
            tls: args.tls as usize,
            extended: Some(args),
        },
    )
}

fn start(call: &Call, request: &Request) -> Result {
    let thread_flags = CLONE_VM | CLONE_SIGHAND;
    if request.flags & CLONE_THREAD != 0 {
        if request.flags & thread_flags != thread_flags {
            return Err(Errno::EINVAL);
        }
        start_thread(call, request)
    } else if request.flags & CLONE_VM != 0 {
        start_borrower(call, request)
    } else {
        start_fork(call, request)
    }
}

/// Prepares what the child goes out of the vkernel with.
fn prepare(call: &Call, child: &Thread, request: &Request) {
    let regs = call.thread.regs();
    let child_regs = child.regs();
    *child_regs = *regs;
    child_regs.rax = 0;
    if request.stack != 0 {
        child_regs.rsp = request.stack;
    }
    // SAFETY: the caller's area is not written while Rust code runs, and the child does not run yet.
    unsafe { *child.area.xmm.get() = *call.thread.area.xmm.get() };
    child.hidden_mask.set(call.thread.hidden_mask.get());
    // Linux drops the alternate stack of a child that shares memory, but not of a vfork(2) child.
    let keeps_altstack = request.flags & (CLONE_VM | CLONE_VFORK) != CLONE_VM;
    child.altstack.set(if keeps_altstack {
        call.thread.altstack.get()
    } else {
        StackT::DISABLED
    });
}

/// Runs clone(2) with all signals blocked, so that the child takes none before it can; gives up if one has come in.
fn clone_to(
    call: &Call,
    child: &'static Thread,
    request: &Request,
    start: pegasus_arch::task::ChildStart,
) -> Result {
    let mask = pegasus_host::signal::set_mask(!0);
    if call.thread.stash().valid {
        pegasus_host::signal::set_mask(mask);
        return Err(Errno::ERESTARTSYS);
    }
    child.start_mask.set(mask);
    // SAFETY: the child's stack is unused; it lives as long as the child.
    let stack = unsafe { pegasus_arch::task::prepare_child(&child.area, start) };
    let done = match request.extended {
        Some(args) => {
            let args = CloneArgs {
                stack: stack as u64 - 4096,
                stack_size: 4096,
                ..args
            };
            // SAFETY: each kind of child below gets what it must not share; signals are blocked.
            unsafe { pegasus_arch::task::clone3(&args) }
        }
        // SAFETY: as above.
        None => unsafe {
            pegasus_arch::task::clone(
                request.flags,
                stack,
                request.parent_tid,
                request.child_tid,
                request.tls,
            )
        },
    };
    pegasus_host::signal::set_mask(mask);
    done
}

fn start_thread(call: &Call, request: &Request) -> Result {
    let child = Thread::create(call.thread.process())?;
    prepare(call, child, request);
    let done = clone_to(call, child, request, begin_thread);
    match done {
        Ok(tid) => child.tid.store(tid as u32, Ordering::Relaxed),
        Err(_) => child.alive.store(0, Ordering::Release),
    }
    done
}

/// First code of every new task: its own area, signal stack and dispatch; last its signal mask.
extern "C" fn begin_thread(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    let thread = Thread::current();
    thread
        .tid
        .store(pegasus_host::process::tid() as u32, Ordering::Relaxed);
    // A filter that the container has installed itself may forbid it: then this thread's calls go to Linux directly,
    // but for those from rewritten sites.
    let _ = crate::boot::arm(thread);
    pegasus_host::signal::set_mask(thread.start_mask.get());
}

/// A child process that borrows its parent's memory: vfork(2), posix_spawn(3), or CLONE_VM alone.
fn start_borrower(call: &Call, request: &Request) -> Result {
    let parent = call.thread.process();
    let record = claim_record(parent.container)?;
    let child = Process::create(ProcessArgs {
        arena: parent.arena,
        record,
        container: parent.container,
        space: parent.space,
        rewriter: parent.rewriter,
        actions: *parent.actions.lock(),
        is_container_init: false,
        address_limit: *parent.address_limit.lock(),
    });
    let thread = match Thread::create_first(child) {
        Ok(thread) => thread,
        Err(error) => {
            free_record(record);
            return Err(error);
        }
    };
    child
        .record()
        .state
        .store(ProcessState::Satellite as u32, Ordering::Release);
    prepare(call, thread, request);
    let done = clone_to(call, thread, request, begin_borrower);
    if done.is_err() || request.flags & CLONE_VFORK != 0 {
        // Linux has kept this task waiting until the child had its own memory or was gone.
        thread.release_memory();
        child.release_memory();
        free_record(record);
    }
    done
}

extern "C" fn begin_borrower(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    let thread = Thread::current();
    thread.process().set_pid(pegasus_host::process::pid());
    begin_thread(area);
}

/// fork(2): a satellite, with a copy of its container's memory and the shared heap.
fn start_fork(call: &Call, request: &Request) -> Result {
    let parent = call.thread.process();
    let record = claim_record(parent.container)?;
    let arena = Arena::create(record as usize);
    // Both stay locked until the kernel has copied the memory that they describe.
    let rewriter = parent.rewriter.lock();
    let space = parent.space.lock();
    let made = call.thread.with_arena(arena, || {
        let child = Process::create(ProcessArgs {
            arena,
            record,
            container: parent.container,
            space: arena.place(space.duplicate()),
            rewriter: arena.place(rewriter.duplicate()),
            actions: *parent.actions.lock(),
            is_container_init: false,
            address_limit: *parent.address_limit.lock(),
        });
        Thread::create_first(child).map(|thread| (child, thread))
    });
    let (child, thread) = match made {
        Ok(made) => made,
        Err(error) => {
            free_record(record);
            return Err(error);
        }
    };
    child.set_exe_from(parent);
    child
        .record()
        .state
        .store(ProcessState::Satellite as u32, Ordering::Release);
    prepare(call, thread, request);
    let done = space.with_inheritable(|| clone_to(call, thread, request, begin_fork));
    match done {
        // The child may not have got so far yet, but the record must be known by it when it dies early.
        Ok(pid) => child.record().pid.store(pid as i32, Ordering::Relaxed),
        Err(_) => free_record(record),
    }
    done
}

extern "C" fn begin_fork(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    let thread = Thread::current();
    let process = thread.process();
    process.set_pid(pegasus_host::process::pid());
    thread.enlist();
    crate::exec::show_program(process);
    begin_thread(area);
}

pub fn exit(call: &Call) -> Result {
    let status = call.args[0] as i32;
    let process = call.thread.process();
    if process.is_last_thread(call.thread) {
        crate::boot::home::announce_exit(process, status);
        pegasus_host::process::exit_thread(status)
    }
    leave(call.thread, status)
}

/// Ends the calling thread and gives its stacks back.
pub fn leave(thread: &'static Thread, status: i32) -> ! {
    pegasus_host::signal::set_mask(!0);
    let process = thread.process();
    process.departures.fetch_add(1, Ordering::Release);
    pegasus_host::futex::wake(&process.departures, u32::MAX >> 1);
    // SAFETY: all signals are blocked, and nothing here is used any more.
    unsafe { pegasus_arch::task::vanish(&thread.alive, status) }
}

pub fn exit_group(call: &Call) -> Result {
    let status = call.args[0] as i32;
    crate::boot::home::announce_exit(call.thread.process(), status);
    pegasus_host::process::exit_group(status)
}
