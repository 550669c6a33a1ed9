//! Replacing a process's program: execve(2), and the first program of a container.
//!
//! [`prepare`] opens and checks everything while the old program could still be told of an error. What
//! follows cannot fail for the program, only kill it, as in Linux: the other threads leave ([`replace`]), the old
//! image goes and the new one is mapped ([`load`]).

mod credentials;
mod image;
mod load;
mod prepare;

use crate::entry::Call;
use crate::limits::{ARG_LEN_MAX, ARGS_LEN_MAX};
use crate::signal::ALL_BUT_KEPT;
use crate::task::{Process, Thread};
use crate::usermem::UserPtr;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use pegasus_abi::signal::SigSet;
use pegasus_abi::{Errno, Result};

pub use load::{check_args, fits, load, show_program};
pub use prepare::{Prepared, Unprepared, prepare};

/// A doorbell may come too early, or be lost among other SIGSYS: it is rung again after so long.
const RING_AGAIN_NS: u64 = 10_000_000;

/// Only Linux can give another thread the leader's identity.
const LEADER_GONE: Unprepared = Unprepared::NeedsNative("its main thread has exited");

/// Strings as execve(2) takes them, without their NULs.
pub struct Strings {
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
}

/// A program on its way from the thread that called execve(2) to the leader, which loads it.
pub struct Request {
    pub program: Prepared,
    /// The caller's mask, which the new program keeps: kernel-level and hidden.
    pub mask: (SigSet, SigSet),
}

impl Strings {
    /// Copies both vectors out of the container. EFAULT, E2BIG as Linux.
    pub fn read(argv: UserPtr, envp: UserPtr) -> Result<Strings> {
        let mut room = ARGS_LEN_MAX;
        Ok(Strings {
            argv: read_vector(argv, &mut room)?,
            envp: read_vector(envp, &mut room)?,
        })
    }
}

/// A NULL-terminated vector of strings; NULL itself is an empty one.
fn read_vector(vector: UserPtr, room: &mut usize) -> Result<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    if vector.is_null() {
        return Ok(strings);
    }
    loop {
        let pointer: usize = vector.offset(strings.len() * size_of::<usize>())?.read()?;
        if pointer == 0 {
            return Ok(strings);
        }
        let mut text = UserPtr(pointer).read_c_string(ARG_LEN_MAX, Errno::E2BIG)?;
        *room = room
            .checked_sub(text.len() + size_of::<usize>())
            .ok_or(Errno::E2BIG)?;
        text.pop();
        strings.push(text);
    }
}

/// Replaces the calling process's program by a prepared one, and returns to the gate in it. `Err` before the point of
/// no return only.
pub fn replace(call: &Call, program: Prepared) -> core::result::Result<(), Unprepared> {
    let thread = call.thread;
    let process = thread.process();
    let mask = pegasus_host::signal::set_mask(!0);
    if thread.stash().valid {
        pegasus_host::signal::set_mask(mask);
        return Err(Unprepared::Errno(Errno::ERESTARTSYS));
    }
    let request = Request {
        program,
        mask: (mask, thread.hidden_mask.get()),
    };
    if process.is_last_thread(thread) && thread.tid() == process.pid() {
        finish(thread, request);
        return Ok(());
    }
    let leader = leader_of(process);
    let Some(leader) = leader else {
        pegasus_host::signal::set_mask(mask);
        return Err(LEADER_GONE);
    };
    let won = process
        .exec_owner
        .compare_exchange(0, leader.tid() as u32, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok();
    let is_leader = core::ptr::eq(leader, thread);
    if !won {
        // Another thread replaces the program; this one leaves with the rest, or loads that program.
        drop(request);
        if is_leader {
            finish_taken_over(thread, await_request(process));
            return Ok(());
        }
        crate::syscall::task::leave(thread, 0);
    }
    if is_leader {
        ring_others(thread);
        wait_until_alone(thread);
        finish(thread, request);
        return Ok(());
    }
    *process.exec_request.lock() = Some(Box::new(request));
    hand_over(thread, leader, mask)
}

/// Waits until the leader has taken the request. If it has left instead, only Linux can go on.
fn hand_over(
    thread: &'static Thread,
    leader: &'static Thread,
    mask: SigSet,
) -> core::result::Result<(), Unprepared> {
    let process = thread.process();
    ring_others(thread);
    loop {
        let departures = process.departures.load(Ordering::Acquire);
        let has_left = leader.alive.load(Ordering::Acquire) == 0;
        let mut request = process.exec_request.lock();
        if request.is_none() {
            drop(request);
            crate::syscall::task::leave(thread, 0);
        }
        if has_left {
            *request = None;
            drop(request);
            process.exec_owner.store(0, Ordering::Release);
            pegasus_host::signal::set_mask(mask);
            return Err(LEADER_GONE);
        }
        drop(request);
        pegasus_host::futex::wait_for(&process.departures, departures, RING_AGAIN_NS);
        crate::signal::doorbell::ring(leader);
    }
}

/// The program that another thread wants the leader to load.
fn await_request(process: &Process) -> Box<Request> {
    loop {
        let departures = process.departures.load(Ordering::Acquire);
        if let Some(request) = take_request(process) {
            return request;
        }
        pegasus_host::futex::wait_for(&process.departures, departures, RING_AGAIN_NS);
    }
}

fn take_request(process: &Process) -> Option<Box<Request>> {
    let request = process.exec_request.lock().take()?;
    // Whoever has put it down waits for this.
    process.departures.fetch_add(1, Ordering::Release);
    pegasus_host::futex::wake(&process.departures, u32::MAX >> 1);
    Some(request)
}

fn leader_of(process: &Process) -> Option<&'static Thread> {
    let threads = process.threads.lock();
    threads
        .iter()
        .copied()
        .find(|thread| thread.tid() == process.pid() && thread.alive.load(Ordering::Acquire) != 0)
}

fn ring_others(thread: &'static Thread) {
    let threads = thread.process().threads.lock();
    for other in threads.iter() {
        if !core::ptr::eq(*other, thread) && other.alive.load(Ordering::Acquire) != 0 {
            crate::signal::doorbell::ring(other);
        }
    }
}

fn wait_until_alone(thread: &'static Thread) {
    let process = thread.process();
    loop {
        let departures = process.departures.load(Ordering::Acquire);
        if process.is_last_thread(thread) {
            return;
        }
        // Rung again from time to time: a thread that was just being created has not heard the first.
        pegasus_host::futex::wait_for(&process.departures, departures, RING_AGAIN_NS);
        ring_others(thread);
    }
}

/// A rung thread makes way: it leaves, unless it is the leader, which loads the program. Does not return.
pub fn give_way(thread: &'static Thread) -> ! {
    crate::syscall::task::leave(thread, 0)
}

/// The leader, rung because another thread called execve(2): loads the program in its stead. Does not
/// return if there is one to load.
pub fn take_over(thread: &'static Thread) {
    if let Some(request) = take_request(thread.process()) {
        crate::boot::continue_on_own_stack(thread, Box::leak(request));
    }
}

/// [`take_over`], on the vkernel stack.
pub fn finish_taken_over(thread: &'static Thread, request: Box<Request>) {
    pegasus_host::signal::set_mask(!0);
    wait_until_alone(thread);
    finish(thread, *request);
}

/// The point of no return.
fn finish(thread: &'static Thread, request: Request) {
    let process = thread.process();
    load(thread, request.program);
    process.exec_owner.store(0, Ordering::Release);
    let (mask, hidden) = request.mask;
    thread.hidden_mask.set(hidden);
    let stash = thread.stash();
    if stash.valid {
        // The leader was on its way out with a signal when it was asked to load: that goes to the new program.
        stash.uc.sigmask = mask;
        pegasus_host::signal::set_mask(ALL_BUT_KEPT);
    } else {
        pegasus_host::signal::set_mask(mask);
    }
}
