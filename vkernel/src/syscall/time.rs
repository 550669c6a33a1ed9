//! timer_create(2) and timer_delete(2): Linux's, but an execve(2) in place has to know which timers there are.
//!
//! clock_gettime(2), getrusage(2) and times(2): Linux's, and what it does not know of, the CPU time on workers
//! ([`crate::schedule::cpu_time`]). The vDSO answers for all clocks but those of CPU time without any call.

use crate::entry::Call;
use crate::schedule::away::{go_home_for_call, is_away};
use crate::syscall::table::{forward, forward_as};
use crate::usermem::UserPtr;
use pegasus_abi::poll::Timespec;
use pegasus_abi::{Errno, Result, nr};

const NS_PER_SEC: u64 = 1_000_000_000;

pub fn clock_gettime(call: &Call) -> Result {
    const CLOCK_PROCESS_CPUTIME_ID: u32 = 2;
    const CLOCK_THREAD_CPUTIME_ID: u32 = 3;
    let [clock, at, ..] = call.args;
    let thread = call.thread;
    let of_thread = match clock as u32 {
        CLOCK_THREAD_CPUTIME_ID => true,
        CLOCK_PROCESS_CPUTIME_ID => false,
        id if id == id_of(thread.tid(), true) => true,
        id if id == id_of(thread.process().pid(), false) => false,
        _ => return forward(call),
    };
    let turns = &thread.away.turns;
    let known_ns = turns.total_ns().filter(|_| of_thread && is_away(thread));
    let ns = match known_ns {
        Some(ns) => ns,
        None => {
            // Before: a turn that is not over yet ends here.
            go_home_for_call(thread);
            let worker_time = &thread.process().worker_time;
            worker_time.ask();
            let mut time = Timespec { sec: 0, nsec: 0 };
            let args = [clock, &raw mut time as usize, 0, 0, 0, 0];
            forward_as(nr::CLOCK_GETTIME, &args)?;
            let more_ns = if of_thread {
                turns.ns()
            } else {
                worker_time.ns()
            };
            time.sec as u64 * NS_PER_SEC + time.nsec as u64 + more_ns
        }
    };
    UserPtr(at).write(&Timespec {
        sec: (ns / NS_PER_SEC) as i64,
        nsec: (ns % NS_PER_SEC) as i64,
    })?;
    Ok(0)
}

/// What clock_getcpuclockid(3) and pthread_getcpuclockid(3) give for a process or thread (`CPUCLOCK_SCHED`, `CPUCLOCK_PERTHREAD_MASK`).
fn id_of(number: i32, is_thread: bool) -> u32 {
    const SCHED: i32 = 2;
    const PER_THREAD: i32 = 4;
    (!number << 3 | SCHED | if is_thread { PER_THREAD } else { 0 }) as u32
}

/// Adds the CPU time on workers to `ru_utime`, the first member of `struct rusage`.
pub fn getrusage(call: &Call) -> Result {
    const RUSAGE_SELF: i32 = 0;
    const RUSAGE_THREAD: i32 = 1;
    const US_PER_SEC: u64 = 1_000_000;
    let [who, at, ..] = call.args;
    forward(call)?;
    let more_ns = match who as i32 {
        RUSAGE_SELF => call.thread.process().worker_time.ns(),
        RUSAGE_THREAD => call.thread.away.turns.ns(),
        _ => 0,
    };
    call.thread.process().worker_time.ask();
    if more_ns > 0 {
        let [sec, us]: [u64; 2] = UserPtr(at).read()?;
        let us = us + more_ns / 1000;
        UserPtr(at).write(&[sec + us / US_PER_SEC, us % US_PER_SEC])?;
    }
    Ok(0)
}

/// Adds the CPU time on workers to `tms_utime`, the first member of `struct tms`.
pub fn times(call: &Call) -> Result {
    const TICKS_PER_SEC: u64 = 100;
    let [at, ..] = call.args;
    let ticks = forward(call)?;
    let more_ns = call.thread.process().worker_time.ns();
    call.thread.process().worker_time.ask();
    if at != 0 && more_ns > 0 {
        let used: u64 = UserPtr(at).read()?;
        UserPtr(at).write(&(used + more_ns / (NS_PER_SEC / TICKS_PER_SEC)))?;
    }
    Ok(ticks)
}

pub fn timer_create(call: &Call) -> Result {
    let [clock, event, id_at, ..] = call.args;
    let mut id = 0i32;
    let args = [clock, event, &raw mut id as usize, 0, 0, 0];
    forward_as(nr::TIMER_CREATE, &args)?;
    if UserPtr(id_at).write(&(id as u32)).is_err() {
        pegasus_host::process::delete_timer(id);
        return Err(Errno::EFAULT);
    }
    call.thread.process().timers.lock().insert(id);
    Ok(0)
}

pub fn timer_delete(call: &Call) -> Result {
    let deleted = forward(call)?;
    call.thread
        .process()
        .timers
        .lock()
        .remove(&(call.args[0] as i32));
    Ok(deleted)
}
