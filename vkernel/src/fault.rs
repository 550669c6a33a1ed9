//! Faults of the vkernel itself: a defect, never a container's doing. The process ends with SIGABRT, and says why on
//! its standard error; neighbours in other processes go on.
#![allow(unsafe_code)]

use core::fmt::{self, Write};
use pegasus_abi::signal::{SIGABRT, SigAction};

/// A line being put together without allocating.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - self.len;
        let len = text.len().min(room);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// A fault signal at an instruction of the vkernel.
pub fn die_of_own_fault(signal: u32, rip: usize, address: usize) -> ! {
    die(format_args!(
        "signal {signal} at {rip:#x}, address {address:#x}"
    ))
}

/// Says `what` and aborts the process.
pub fn die(what: fmt::Arguments<'_>) -> ! {
    let mut line = Line {
        bytes: [0; 256],
        len: 0,
    };
    let _ = writeln!(
        line,
        "pegasus: defect in the vkernel: {what}; please report it"
    );
    let _ = pegasus_host::file::write_all(2, &line.bytes[..line.len]);
    // SAFETY: the default action runs no code.
    let _ = unsafe { pegasus_host::signal::action(SIGABRT, Some(&SigAction::default()), None) };
    pegasus_host::signal::set_mask(0);
    let _ = pegasus_host::signal::send_to_thread(
        pegasus_host::process::pid(),
        pegasus_host::process::tid(),
        SIGABRT,
    );
    pegasus_host::process::exit_group(134)
}
