//! An own instance: the calling process becomes the container's first one.
#![allow(unsafe_code)]

use crate::boot::{arm, install_handlers, run_on_own_stack};
use crate::exec::{self, Prepared, Strings, Unprepared};
use crate::futex;
use crate::heap::Arena;
use crate::mm::{Layout, Space};
use crate::rewrite::Rewriter;
use crate::task::record::{NO_NAMESPACE, claim_record, free_record, new_namespace};
use crate::task::{Process, ProcessArgs, Thread, header};
use crate::usermem::UserPtr;
use alloc::boxed::Box;
use core::sync::atomic::Ordering;
use pegasus_abi::fcntl::{AT_FDCWD, PATH_MAX};
use pegasus_abi::prctl::{RLIM_INFINITY, RLIMIT_AS, Rlimit};
use pegasus_abi::signal::{SIGNALS_MAX, SigAction};
use pegasus_abi::{Errno, Result};
use pegasus_arch::gate;
use pegasus_contract::boot::{OwnArgs, Program};
use pegasus_contract::layout::{USER_END, VKERNEL_BASE, VKERNEL_END};
use pegasus_contract::record::{ContainerState, ProcessState};
use pegasus_host::memory;

/// The only container of an own instance.
const CONTAINER: u32 = 0;

/// See [`pegasus_contract::boot::Operation::RunOwn`].
pub fn run(args: &OwnArgs) -> Result {
    let record = claim_record(CONTAINER, NO_NAMESPACE).ok_or(Errno::EAGAIN)?;
    let (process, thread) = make_process(record, CONTAINER, Layout::Whole)?;
    // SAFETY: made for this task.
    unsafe { pegasus_arch::task::attach(&thread.area) };
    let failed = match begin(args, process, thread) {
        Err(failed) => failed,
        Ok(program) => {
            header().containers[CONTAINER as usize]
                .state
                .store(ContainerState::Running as u32, Ordering::Release);
            let program = Box::leak(Box::new(program));
            run_on_own_stack(thread, load_first, &raw mut *program as usize);
        }
    };
    pegasus_arch::task::detach();
    free_record(record);
    Err(failed)
}

/// The objects of a container's first process.
pub fn make_process(
    record: u32,
    container: u32,
    layout: Layout,
) -> Result<(&'static Process, &'static Thread)> {
    let arena = Arena::create(record as usize);
    let namespace = new_namespace();
    let process = Process::create(ProcessArgs {
        arena,
        record: &header().processes[record as usize],
        record_index: record,
        namespace,
        container,
        space: arena.place(Space::new(layout)),
        rewriter: arena.place(Rewriter::new()),
        futexes: arena.place(futex::Table::new()),
        actions: [SigAction::default(); SIGNALS_MAX as usize],
        is_container_init: true,
        address_limit: Rlimit {
            soft: RLIM_INFINITY,
            hard: RLIM_INFINITY,
        },
    });
    let thread = Thread::create_first(process)?;
    process
        .record()
        .namespace
        .store(namespace, Ordering::Relaxed);
    process
        .record()
        .state
        .store(ProcessState::Resident as u32, Ordering::Release);
    Ok((process, thread))
}

/// Everything that can fail.
fn begin(args: &OwnArgs, process: &'static Process, thread: &'static Thread) -> Result<Prepared> {
    process.set_pid(pegasus_host::process::pid());
    thread
        .tid
        .store(pegasus_host::process::tid() as u32, Ordering::Relaxed);
    thread.enlist();
    crate::boot::home::name_container(CONTAINER, args.container_id);
    take_address_limit(process)?;
    let program = prepare_first(&args.program)?;
    arm(thread)?;
    install_handlers()?;
    Ok(program)
}

/// Takes RLIMIT_AS over: Linux would count the vkernel's heap against it. ENOEXEC when its hard limit is in the way.
pub fn take_address_limit(process: &Process) -> Result<()> {
    let limit = pegasus_host::process::limit(0, RLIMIT_AS)?;
    if limit.hard != RLIM_INFINITY {
        return Err(Errno::ENOEXEC);
    }
    if limit.soft != RLIM_INFINITY {
        let none = Rlimit {
            soft: RLIM_INFINITY,
            hard: RLIM_INFINITY,
        };
        pegasus_host::process::set_limit(RLIMIT_AS, &none)?;
    }
    *process.address_limit.lock() = limit;
    Ok(())
}

/// Copies a program's strings from the runtime's memory, and opens it. ENOEXEC if only Linux can run it.
pub fn prepare_first(program: &Program) -> Result<Prepared> {
    let mut path = UserPtr(program.path as usize).read_c_string(PATH_MAX, Errno::ENAMETOOLONG)?;
    path.pop();
    let strings = Strings::read(
        UserPtr(program.argv as usize),
        UserPtr(program.envp as usize),
    )?;
    let prepared = exec::prepare(AT_FDCWD, &path, false, strings).map_err(|error| match error {
        Unprepared::Errno(errno) => errno,
        Unprepared::NeedsNative(_) => Errno::ENOEXEC,
    })?;
    exec::check_args(&prepared)?;
    if !exec::fits(Process::current(), &prepared.main) {
        return Err(Errno::ENOEXEC);
    }
    Ok(prepared)
}

extern "C" fn load_first(program: usize) -> ! {
    // SAFETY: leaked by `run` for this.
    let program = unsafe { Box::from_raw(program as *mut Prepared) };
    unmap_runtime();
    run_first(*program)
}

/// Loads the first program and goes to it.
pub fn run_first(program: Prepared) -> ! {
    exec::load(Thread::current(), program);
    pegasus_host::signal::set_mask(0);
    // SAFETY: the registers of the program are in place.
    unsafe { gate::leave() }
}

/// Unmaps everything but the vkernel and the vdso: the runtime's code, heap and stack have no business in a container.
fn unmap_runtime() {
    let kept = crate::procfs::vdso_range().unwrap_or_else(guessed_vdso_range);
    // What the kernel would write to or walk at exit lies in that memory.
    pegasus_host::process::forget_thread_memory();
    let gone = [
        0x1000..VKERNEL_BASE,
        VKERNEL_END..kept.start,
        kept.end..USER_END,
    ];
    for range in gone.iter().filter(|range| !range.is_empty()) {
        // SAFETY: this runs on a vkernel stack, in the image: nothing there is needed any more.
        let _ = unsafe { memory::munmap(range.start, range.len()) };
    }
    Process::current().space.lock().note_foreign(kept);
}

/// Where the vdso is, without `/proc` to ask: `[vvar]` lies below it, a few pages long; the vdso itself has two.
fn guessed_vdso_range() -> core::ops::Range<usize> {
    const BEFORE_VDSO: usize = 64 << 10;
    const VDSO_LEN: usize = 16 << 10;
    const AT_SYSINFO_EHDR: u64 = 33;
    let vdso = header()
        .auxv
        .iter()
        .find(|pair| pair[0].load(Ordering::Relaxed) == AT_SYSINFO_EHDR);
    let vdso = vdso.map_or(USER_END, |pair| pair[1].load(Ordering::Relaxed) as usize);
    vdso.saturating_sub(BEFORE_VDSO).max(VKERNEL_END)..(vdso + VDSO_LEN).min(USER_END)
}
