//! clone(2), fork(2), vfork(2), exit(2).
#![allow(unsafe_code)]

use crate::entry::Call;
use crate::futex;
use crate::heap::Arena;
use crate::mm::Layout;
use crate::signal::is_kept;
use crate::signal::receive::kernel_action;
use crate::socket::descriptors::Table;
use crate::socket::returning;
use crate::syscall::table::forward;
use crate::task::process::Borrower;
use crate::task::record::{self, change, claim_record, free_record};
use crate::task::{Process, ProcessArgs, Thread, header};
use crate::usermem::UserPtr;
use core::sync::atomic::Ordering;
use pegasus_abi::clone::{
    CLONE_ARGS_SIZE_MIN, CLONE_CLEAR_SIGHAND, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD,
    CLONE_VFORK, CLONE_VM, CSIGNAL, CloneArgs,
};
use pegasus_abi::signal::{SIG_IGN, SIGCHLD, SIGNALS_MAX, SigAction, StackT};
use pegasus_abi::{Errno, Result, nr};
use pegasus_arch::area::Area;
use pegasus_contract::layout::USER_END;
use pegasus_contract::record::{ProcessRecord, ProcessState};

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
        || !is_possible_stack(args.stack, args.stack_size)
    {
        // Linux refuses it too; a seccomp policy may have said something else before.
        return forward(call);
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

/// `clone3_stack_valid`: both or neither, and all of it in user space.
fn is_possible_stack(stack: u64, len: u64) -> bool {
    let end = stack.checked_add(len);
    (stack == 0) == (len == 0) && end.is_some_and(|end| end <= USER_END as u64)
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

/// What a child process gets that is its own in any case.
fn child_args(
    parent: &Process,
    request: &Request,
    record: &'static ProcessRecord,
    record_index: u32,
) -> ProcessArgs {
    let mut actions = *parent.actions.lock();
    if request.flags & CLONE_CLEAR_SIGHAND != 0 {
        for action in actions.iter_mut().filter(|a| a.handler != SIG_IGN) {
            *action = SigAction::default();
        }
    }
    record
        .namespace
        .store(parent.namespace(), Ordering::Relaxed);
    ProcessArgs {
        arena: parent.arena,
        record,
        record_index,
        namespace: parent.namespace(),
        container: parent.container,
        space: parent.space,
        rewriter: parent.rewriter,
        futexes: parent.futexes,
        actions,
        is_container_init: false,
        address_limit: *parent.address_limit.lock(),
    }
}

/// A record for a child. Under a filter of the program's own the kernel is not asked who of the others still lives.
fn claim_for_child(parent: &Process) -> Option<u32> {
    let namespace = if parent.has_filter() {
        record::NO_NAMESPACE
    } else {
        parent.namespace()
    };
    claim_record(parent.container, namespace)
}

/// CLONE_CLEAR_SIGHAND has taken the vkernel's own handlers away as well. Nothing has trapped yet: the child is still in
/// the vkernel.
fn restore_kept_handlers() {
    for signal in (1..=SIGNALS_MAX).filter(|&signal| is_kept(signal)) {
        // SAFETY: the vkernel's handler may run anywhere.
        let _ = unsafe { pegasus_host::signal::action(signal, Some(&kernel_action(0)), None) };
    }
}

fn index_is_private(process: &Process) -> bool {
    !Table::of(process).is_usable()
}

/// A child process that borrows its parent's memory: vfork(2), posix_spawn(3), or CLONE_VM alone.
fn start_borrower(call: &Call, request: &Request) -> Result {
    let parent = call.thread.process();
    if request.flags & CLONE_FILES != 0 {
        returning::keep_all(call.thread);
    }
    let (child, thread) = make_borrower(parent, request)?;
    if index_is_private(child) {
        returning::before_blind_child(call.thread);
    }
    Table::of(parent).copy_to(Table::of(child));
    let (record, index) = (child.record(), child.record_index());
    prepare(call, thread, request);
    thread
        .clears_handlers
        .set(request.flags & CLONE_CLEAR_SIGHAND != 0);
    parent.count_lent(1);
    let done = clone_to(call, thread, request, begin_borrower);
    match done {
        Ok(pid) if request.flags & CLONE_VFORK == 0 => {
            record.pid.store(pid as i32, Ordering::Relaxed);
            change(record, ProcessState::Claimed, ProcessState::Satellite);
            parent.borrowers.lock().push(Borrower {
                pid: pid as i32,
                process: child,
                thread,
            });
        }
        _ => {
            // Linux has kept this task waiting until the child had its own memory or was gone.
            record::abandon(child.record_index());
            parent.futexes.forget(child);
            thread.release_memory();
            child.release_memory();
            free_record(index);
            parent.count_lent(-1);
        }
    }
    done
}

/// The objects of a child that borrows memory. EAGAIN: there is no room for them.
fn make_borrower(
    parent: &'static Process,
    request: &Request,
) -> Result<(&'static Process, &'static Thread)> {
    if !parent.has_filter() {
        parent.has_borrowers();
    }
    let (record, index) = match claim_for_child(parent) {
        Some(index) => (&header().processes[index as usize], index),
        None => (
            record::private_record(parent.arena, parent.container).ok_or(Errno::EAGAIN)?,
            record::PRIVATE,
        ),
    };
    let lender = parent.arena_record().unwrap_or(record::PRIVATE) + 1;
    record.lender.store(lender, Ordering::Relaxed);
    let child = Process::create(child_args(parent, request, record, index));
    child.inherit_from(parent);
    let Ok(thread) = Thread::create_first(child) else {
        child.release_memory();
        free_record(index);
        return Err(Errno::EAGAIN);
    };
    Ok((child, thread))
}

/// [`make_borrower`] for a child that is to execute a program while this task waits.
pub fn borrower(parent: &'static Process) -> Result<(&'static Process, &'static Thread)> {
    make_borrower(parent, &plain(CLONE_VM | CLONE_VFORK | u64::from(SIGCHLD)))
}

/// That child has its own memory, and runs as `pid`; or is gone.
pub fn release_borrower(child: &'static Process, thread: &'static Thread, pid: Option<i32>) {
    record::abandon(child.record_index());
    let (record, index) = (child.record(), child.record_index());
    match pid {
        Some(pid) => {
            record.pid.store(pid, Ordering::Relaxed);
            change(record, ProcessState::Claimed, ProcessState::Native);
        }
        None => free_record(index),
    }
    thread.release_memory();
    child.release_memory();
}

extern "C" fn begin_borrower(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    begin_process(Thread::current());
    begin_thread(area);
}

fn begin_process(thread: &'static Thread) {
    if thread.clears_handlers.get() {
        restore_kept_handlers();
    }
    thread.process().settle_pid();
}

/// fork(2): a satellite, with a copy of its container's memory and the shared heap.
fn start_fork(call: &Call, request: &Request) -> Result {
    let parent = call.thread.process();
    if request.flags & CLONE_FILES != 0 {
        // One table of Linux's, two of the vkernel's.
        returning::keep_all(call.thread);
    }
    match claim_for_child(parent) {
        Some(index) => {
            let record = &header().processes[index as usize];
            let done = fork_into(call, request, Arena::create(index as usize), Some(index));
            match done {
                // Only now may others ask the kernel whether the process still lives.
                Ok(pid) => {
                    record.pid.store(pid as i32, Ordering::Relaxed);
                    change(record, ProcessState::Claimed, ProcessState::Satellite);
                }
                Err(_) => free_record(index),
            }
            done
        }
        None => fork_into_private_memory(call, request),
    }
}

/// fork(2) of a child for which there is no record: its arena lies in memory that only it has.
fn fork_into_private_memory(call: &Call, request: &Request) -> Result {
    let parent = call.thread.process();
    let slot = match parent.space.lock().layout() {
        Layout::Whole => 0,
        Layout::Slot(slot) => slot,
    };
    returning::before_blind_child(call.thread);
    // The place of the arena is the same for all threads of this process.
    let _one_at_a_time = parent.private_forks.lock();
    let arena = parent
        .arena
        .create_private(slot)
        .map_err(|_| Errno::EAGAIN)?;
    let done = fork_into(call, request, arena, None);
    // SAFETY: the child has a copy of its own; this one is of no use any more.
    unsafe { arena.unmap_private() };
    done
}

/// Makes the child's objects in `arena` and forks.
fn fork_into(call: &Call, request: &Request, arena: &'static Arena, index: Option<u32>) -> Result {
    let parent = call.thread.process();
    // Both stay locked until the kernel has copied the memory that they describe.
    let rewriter = parent.rewriter.lock();
    let space = parent.space.lock();
    let (child, thread) = call.thread.with_arena(arena, || {
        let record = match index {
            Some(index) => &header().processes[index as usize],
            None => record::private_record(arena, parent.container).ok_or(Errno::EAGAIN)?,
        };
        let child = Process::create(ProcessArgs {
            arena,
            space: arena.place(space.duplicate()),
            rewriter: arena.place(rewriter.duplicate()),
            futexes: arena.place(futex::Table::new()),
            ..child_args(parent, request, record, index.unwrap_or(record::PRIVATE))
        });
        Thread::create_first(child).map(|thread| (child, thread))
    })?;
    child.inherit_from(parent);
    child.set_exe_from(parent);
    prepare(call, thread, request);
    thread
        .clears_handlers
        .set(request.flags & CLONE_CLEAR_SIGHAND != 0);
    Table::of(parent).copy_to(Table::of(child));
    let done = space.with_inheritable(|| clone_to(call, thread, request, begin_fork));
    if done.is_err() {
        record::abandon(child.record_index());
    }
    done
}

extern "C" fn begin_fork(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    let thread = Thread::current();
    begin_process(thread);
    thread.enlist();
    crate::exec::show_program(thread.process());
    begin_thread(area);
}

pub fn exit(call: &Call) -> Result {
    let (thread, status) = (call.thread, call.args[0] as i32);
    let process = thread.process();
    if process.has_filter() && process.is_last_thread(thread) {
        // seccomp(2)'s strict mode knows exit(2), and little else.
        pegasus_host::process::exit_thread(status)
    }
    let mask = pegasus_host::signal::set_mask(!0);
    if thread.stash().valid {
        // It may have been meant for the whole process, and nobody else will get it.
        pegasus_host::signal::set_mask(mask);
        return Err(Errno::ERESTARTSYS);
    }
    if process.is_last_thread(thread) {
        Table::of(process).close_all();
        crate::boot::home::announce_exit(process, status);
        end(thread, nr::EXIT, status)
    }
    leave(thread, status)
}

/// Ends the calling thread and gives its stacks back.
pub fn leave(thread: &'static Thread, status: i32) -> ! {
    pegasus_host::signal::set_mask(!0);
    let process = thread.process();
    process.departures.fetch_add(1, Ordering::Release);
    pegasus_host::futex::wake(&process.departures, u32::MAX >> 1);
    // SAFETY: all signals are blocked, and nothing here is used any more.
    unsafe { pegasus_arch::task::vanish(&thread.alive, 0, nr::EXIT, status) }
}

pub fn exit_group(call: &Call) -> Result {
    let status = call.args[0] as i32;
    let process = call.thread.process();
    if !process.has_filter() {
        Table::of(process).close_all();
    }
    crate::boot::home::announce_exit(process, status);
    if !process.has_filter() && process.is_last_thread(call.thread) {
        pegasus_host::signal::set_mask(!0);
        end(call.thread, nr::EXIT_GROUP, status);
    }
    pegasus_host::process::exit_group(status)
}

/// Ends a process whose last thread is the calling one, by call `number`. Its record is given back with the last
/// instruction, so that a child nobody waits for does not keep it. All signals are blocked.
fn end(thread: &Thread, number: usize, status: i32) -> ! {
    let record = thread.process().record();
    let gives_back = !thread.process().is_borrower()
        && record.lent.load(Ordering::Relaxed) == 0
        && record.inner_namespace.load(Ordering::Relaxed) == 0
        // A record that its parent has not settled yet is the parent's.
        && record.state.load(Ordering::Acquire) == ProcessState::Satellite as u32;
    if gives_back {
        // SAFETY: all signals are blocked; nothing of the arena is used from the store on.
        unsafe {
            pegasus_arch::task::vanish(&record.state, ProcessState::Free as u32, number, status)
        }
    }
    loop {
        // SAFETY: ends the caller.
        let _ = unsafe { pegasus_host::raw::call1(number, status as usize) };
    }
}
