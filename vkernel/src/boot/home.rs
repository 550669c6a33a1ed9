//! A container's first home task in a shared instance: a separate kernel process, pid 1 of its namespace, in the
//! instance's address space. It waits until its anchor has built the container, joins it, and runs the program.
//! When it ends it says so first, so that the anchor can leave with the same status: the end of pid 1 kills all else in the
//! namespace.
#![allow(unsafe_code)]

use crate::boot::{arm, install_handlers, join, own, supervise};
use crate::exec::Prepared;
use crate::mm::Layout;
use crate::schedule;
use crate::task::record::{NO_NAMESPACE, claim_record, free_record};
use crate::task::{Process, Thread, header, instance_kind, store_text};
use core::sync::atomic::Ordering;
use pegasus_abi::clone::{CLONE_FILES, CLONE_NEWPID, CLONE_VM};
use pegasus_abi::prctl::PR_SET_PDEATHSIG;
use pegasus_abi::signal::{SIGCHLD, SIGKILL};
use pegasus_abi::{Errno, Result, nr};
use pegasus_arch::area::Area;
use pegasus_contract::boot::{InstanceKind, ReleaseHomeArgs, SpawnHomeArgs};
use pegasus_contract::layout::{CONTAINERS_MAX, SLOTS_MAX};
use pegasus_contract::record::{ContainerRecord, ContainerState, ID_LEN};
use pegasus_host::{futex, process as host};

/// How long to sleep before looking whether the other side still lives.
const LOOK_NS: u64 = 50_000_000;

/// Stores a container's id in its record. `id` is NUL-terminated and the runtime's.
pub fn name_container(index: u32, id: *const u8) {
    let mut bytes = [0u8; ID_LEN];
    crate::usermem::UserPtr(id as usize).read_some(&mut bytes[..ID_LEN - 1]);
    let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
    store_text(&header().containers[index as usize].id, &bytes[..len]);
}

fn change_state(container: &ContainerRecord, state: ContainerState) {
    container.state.store(state as u32, Ordering::Release);
    futex::wake(&container.state, u32::MAX >> 1);
    header().doorbell.fetch_add(1, Ordering::Release);
    futex::wake(&header().doorbell, u32::MAX >> 1);
}

/// See [`pegasus_contract::boot::Operation::SpawnHome`].
pub fn spawn(args: &mut SpawnHomeArgs) -> Result {
    if args.new_pid_namespace != 0 {
        // Else it would be born in the pid namespace that is about to be joined, and die with it.
        schedule::begin_monitor();
    }
    let container = claim_container()?;
    let made = claim_slot().and_then(|slot| {
        make_first(container, slot)
            .map(|(record, thread)| (record, slot, thread))
            .inspect_err(|_| give_slot_back(slot))
    });
    let (record, slot, thread) = match made {
        Ok(made) => made,
        Err(error) => {
            give_container_back(container);
            return Err(error);
        }
    };
    let state = &header().containers[container as usize];
    state.process.store(record, Ordering::Relaxed);
    name_container(container, args.container_id);
    let pid_namespace = if args.new_pid_namespace != 0 {
        CLONE_NEWPID
    } else {
        0
    };
    let flags = CLONE_VM | CLONE_FILES | pid_namespace | u64::from(SIGCHLD);
    let mask = pegasus_host::signal::set_mask(!0);
    // SAFETY: the stack is unused; the child keeps the full mask until it can take signals; it shares the
    // descriptor table until it joins, which it does before any container code runs.
    let cloned = unsafe {
        let stack = pegasus_arch::task::prepare_child(&thread.area, begin_home);
        pegasus_arch::task::clone(flags, stack, 0, 0, 0)
    };
    pegasus_host::signal::set_mask(mask);
    match cloned {
        Ok(pid) => {
            state.home_pid.store(pid as i32, Ordering::Release);
            args.container_index = container;
        }
        Err(_) => {
            free_record(record);
            give_slot_back(slot);
            give_container_back(container);
        }
    }
    cloned
}

/// The objects of a container's first process: its record, and its first thread.
fn make_first(container: u32, slot: usize) -> Result<(u32, &'static Thread)> {
    // The caller is in no container's pid namespace.
    let record = claim_record(container, NO_NAMESPACE).ok_or(Errno::EAGAIN)?;
    let (process, thread) = own::make_process(record, container, Layout::Slot(slot))
        .inspect_err(|_| free_record(record))?;
    process.record().slot.store(slot as u32, Ordering::Relaxed);
    Ok((record, thread))
}

fn claim_container() -> Result<u32> {
    let free = header()
        .containers
        .iter()
        .take(CONTAINERS_MAX)
        .position(|container| {
            container
                .state
                .compare_exchange(
                    ContainerState::Free as u32,
                    ContainerState::Waiting as u32,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_ok()
        });
    let index = free.ok_or(Errno::ENOSPC)?;
    let container = &header().containers[index];
    container.release.store(0, Ordering::Relaxed);
    container.start_error.store(0, Ordering::Relaxed);
    container.wait_status.store(0, Ordering::Relaxed);
    container.rings_sent.store(0, Ordering::Relaxed);
    container.rings_received.store(0, Ordering::Relaxed);
    Ok(index as u32)
}

fn give_container_back(index: u32) {
    let state = &header().containers[index as usize].state;
    state.store(ContainerState::Free as u32, Ordering::Release);
}

fn claim_slot() -> Result<usize> {
    let slots = &header().slots;
    loop {
        let taken = slots.load(Ordering::Relaxed);
        let free = (0..SLOTS_MAX)
            .find(|slot| taken & (1 << slot) == 0)
            .ok_or(Errno::ENOSPC)?;
        let claimed = slots.compare_exchange(
            taken,
            taken | 1 << free,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if claimed.is_ok() {
            return Ok(free);
        }
    }
}

fn give_slot_back(slot: usize) {
    header().slots.fetch_and(!(1 << slot), Ordering::AcqRel);
}

/// See [`pegasus_contract::boot::Operation::ReleaseHome`].
pub fn release(args: &ReleaseHomeArgs) -> Result {
    let container = header()
        .containers
        .get(args.container_index as usize)
        .ok_or(Errno::EINVAL)?;
    if container.state.load(Ordering::Acquire) != ContainerState::Waiting as u32 {
        return Err(Errno::EINVAL);
    }
    container
        .start_args
        .store(&raw const *args as u64, Ordering::Relaxed);
    change_state(container, ContainerState::Starting);
    loop {
        let state = container.state.load(Ordering::Acquire);
        if state == ContainerState::Failed as u32 {
            return Err(Errno(container.start_error.load(Ordering::Relaxed)));
        }
        if state != ContainerState::Starting as u32 {
            return Ok(0);
        }
        if host::has_exited(container.home_pid.load(Ordering::Relaxed)) {
            // Killed while it joined, by a seccomp filter for example.
            return Err(Errno::ESRCH);
        }
        futex::wait_for(&container.state, state, LOOK_NS);
    }
}

/// First code of a home task. All signals are blocked.
extern "C" fn begin_home(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    let thread = Thread::current();
    let process = thread.process();
    process.set_pid(host::pid());
    thread.tid.store(host::tid() as u32, Ordering::Relaxed);
    thread.enlist();
    let container = &header().containers[process.container as usize];
    die_with_parent();
    while container.state.load(Ordering::Acquire) == ContainerState::Waiting as u32 {
        futex::wait(&container.state, ContainerState::Waiting as u32);
    }
    // SAFETY: `release` set it before it changed the state, and waits until we have changed it again.
    let args =
        unsafe { &*(container.start_args.load(Ordering::Acquire) as *const ReleaseHomeArgs) };
    match start(thread, args) {
        Ok(program) => {
            change_state(container, ContainerState::Running);
            own::run_first(program)
        }
        Err(Errno(errno)) => {
            container.start_error.store(errno, Ordering::Relaxed);
            change_state(container, ContainerState::Failed);
            wait_for_release(container);
            host::exit_group(127)
        }
    }
}

/// The first program, executed by Linux.
fn execution(args: &ReleaseHomeArgs) -> supervise::Execution<'static> {
    let program = &args.program;
    supervise::Execution {
        nr: nr::EXECVE,
        args: [
            program.path as usize,
            program.argv as usize,
            program.envp as usize,
            0,
            0,
            0,
        ],
        mask: 0,
        reason: "its first program is one that only the kernel runs",
    }
}

/// A home task does not outlive its instance. Linux forgets that when credentials change.
pub fn die_with_parent() {
    // SAFETY: plain values.
    let _ = unsafe { host::prctl(PR_SET_PDEATHSIG, SIGKILL as usize, 0, 0, 0) };
}

fn start(thread: &'static Thread, args: &ReleaseHomeArgs) -> Result<Prepared> {
    // SAFETY: the runtime keeps the plan until `release` returns.
    join::join(unsafe { &*args.join })?;
    die_with_parent();
    // What the instance ignores is not the container's.
    install_handlers()?;
    let process = thread.process();
    let prepared =
        own::take_address_limit(process).and_then(|()| own::prepare_first(&args.program));
    let program = prepared.map_err(|_| {
        // Only Linux can run it, or tell what is wrong with it.
        supervise::run(thread, &execution(args), || {
            let container = &header().containers[process.container as usize];
            change_state(container, ContainerState::Running);
        })
    })?;
    arm(thread)?;
    Ok(program)
}

fn announces(process: &Process) -> bool {
    process.is_container_init && instance_kind() == InstanceKind::Shared
}

/// The process is about to end by exit(2) with `status`.
pub fn announce_exit(process: &Process, status: i32) {
    announce(process, (status & 0xff) << 8);
}

/// The process is about to be killed by `signal`.
pub fn announce_death_by_signal(process: &Process, signal: u32) {
    announce(process, signal as i32);
}

/// If that ends a container of a shared instance: tells the instance, and waits until the anchor has left.
fn announce(process: &Process, wait_status: i32) {
    if !announces(process) {
        return;
    }
    let container = &header().containers[process.container as usize];
    container.wait_status.store(wait_status, Ordering::Relaxed);
    change_state(container, ContainerState::Exiting);
    wait_for_release(container);
}

/// Until the anchor has left: the end of the namespace's first process kills it.
fn wait_for_release(container: &ContainerRecord) {
    while container.release.load(Ordering::Acquire) == 0 {
        futex::wait(&container.release, 0);
    }
}
