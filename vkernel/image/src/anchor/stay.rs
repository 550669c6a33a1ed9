//! All that an anchor does. Every signal is blocked, and nothing but the two descriptors is open.

use core::panic::PanicInfo;
use pegasus_abi::nr;
use pegasus_abi::prctl::{PR_SET_DUMPABLE, PR_SET_NAME};
use pegasus_abi::signal::{SIGCHLD, SIGKILL, SigAction};
use pegasus_contract::anchor::{LINK, MESSAGE_LEN_MAX, SIGNALS, ended, write_signal};
use pegasus_host::raw::{call2, call3, call4, call5};
use pegasus_host::{process, signal};

core::arch::global_asm!(
    ".globl pegasus_entry",
    "pegasus_entry:",
    "    mov rdi, rsp",
    "    xor ebp, ebp",
    "    and rsp, -16",
    "    call pegasus_anchor",
    "    ud2",
);

/// A descriptor to wait for, as poll(2) has it.
#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;

/// `struct signalfd_siginfo`: the number comes first, the sender's pid fourth.
#[repr(C, align(8))]
struct Received {
    words: [u32; 32],
}

/// The entry point. `stack` holds the number of arguments, then their addresses.
#[unsafe(no_mangle)]
extern "C" fn pegasus_anchor(stack: *const usize) -> ! {
    // SAFETY: the kernel has put both there; the name is cut where it is too long.
    unsafe {
        if *stack > 0 {
            let _ = process::prctl(PR_SET_NAME, *stack.add(1), 0, 0, 0);
        }
        let _ = process::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
    loop {
        let mut fds = [LINK, SIGNALS].map(|fd| PollFd {
            fd: fd as i32,
            events: POLLIN,
            revents: 0,
        });
        // SAFETY: the kernel reads and writes the two.
        let waited = unsafe { call5(nr::PPOLL, fds.as_mut_ptr() as usize, fds.len(), 0, 0, 0) };
        if waited.is_err() {
            die_of(SIGKILL);
        }
        if fds[1].revents != 0 {
            pass_on();
        }
        if fds[0].revents != 0 {
            listen();
        }
    }
}

/// Takes one signal. Those from outside the container are for its first process; the container's own processes know
/// that one themselves.
fn pass_on() {
    let mut received = Received { words: [0; 32] };
    // SAFETY: the kernel writes at most that much.
    let got = unsafe {
        call3(
            nr::READ,
            SIGNALS,
            &raw mut received as usize,
            size_of::<Received>(),
        )
    };
    let (number, sender) = (received.words[0], received.words[3]);
    if got != Ok(size_of::<Received>()) || sender != 0 || number == SIGCHLD {
        return;
    }
    let mut text = [0; MESSAGE_LEN_MAX];
    let len = write_signal(number, &mut text);
    const MSG_NOSIGNAL: usize = 0x4000;
    // SAFETY: the kernel reads that much. If the instance has gone, the next look at the link says so.
    let _ = unsafe { call4(nr::SENDTO, LINK, text.as_ptr() as usize, len, MSG_NOSIGNAL) };
}

/// Takes one message of the instance, without which the container is gone.
fn listen() {
    let mut text = [0; MESSAGE_LEN_MAX];
    // SAFETY: the kernel writes at most that much.
    let got = unsafe { call3(nr::READ, LINK, text.as_mut_ptr() as usize, text.len()) };
    match got {
        Ok(len) if len > 0 => {
            if let Some(status) = ended(&text[..len]) {
                leave(status);
            }
        }
        _ => die_of(SIGKILL),
    }
}

/// Ends with a status of wait4(2).
fn leave(status: i32) -> ! {
    match status & 0x7f {
        0 => process::exit_group(status >> 8 & 0xff),
        number => die_of(number as u32),
    }
}

fn die_of(number: u32) -> ! {
    // SAFETY: the default action runs no code.
    unsafe {
        let _ = signal::action(number, Some(&SigAction::default()), None);
        signal::set_mask(0);
        let _ = call2(nr::KILL, process::pid() as usize, number as usize);
    }
    process::exit_group(128 + number as i32)
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    die_of(SIGKILL)
}

/// The precompiled `core` refers to it; with `panic = "abort"` nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
