//! timer_create(2) and timer_delete(2): Linux's, but an execve(2) in place has to know which timers there are.

use crate::entry::Call;
use crate::syscall::table::{forward, forward_as};
use crate::usermem::UserPtr;
use pegasus_abi::{Errno, Result, nr};

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
