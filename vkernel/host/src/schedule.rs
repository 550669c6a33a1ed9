//! Which CPUs a task runs on, and with what claim to them.

use crate::raw::{call1, call2, call3, call4};
use pegasus_abi::errno::Result;
use pegasus_abi::nr;

/// `cpumask` for up to 8192 CPUs.
type CpuMask = [u64; 128];

/// The CPUs that the calling task may use; none if Linux does not tell.
fn affinity() -> CpuMask {
    let mut mask = [0; 128];
    // SAFETY: the kernel writes at most the mask's length.
    let _ = unsafe {
        call3(
            nr::SCHED_GETAFFINITY,
            0,
            size_of_val(&mask),
            mask.as_mut_ptr() as usize,
        )
    };
    mask
}

/// How many CPUs the calling task may use.
pub fn usable_cpus() -> u32 {
    let count = affinity().iter().map(|word| word.count_ones()).sum();
    u32::max(count, 1)
}

/// Which of the first 256 CPUs the calling task may use: bit by bit.
pub fn first_cpus() -> [u64; 4] {
    let mask = affinity();
    core::array::from_fn(|word| mask[word])
}

/// Confines the calling task to one CPU.
pub fn pin_to(cpu: usize) -> Result {
    let mut mask: CpuMask = [0; 128];
    mask[cpu / 64] = 1 << (cpu % 64);
    // SAFETY: the kernel only reads the mask.
    unsafe {
        call3(
            nr::SCHED_SETAFFINITY,
            0,
            size_of_val(&mask),
            mask.as_ptr() as usize,
        )
    }
}

/// Whether the calling task is scheduled as tasks are by default: SCHED_OTHER, nice value 0.
pub fn is_ordinary() -> bool {
    const SCHED_OTHER: usize = 0;
    const PRIO_PROCESS: usize = 0;
    /// getpriority(2) gives 20 less the nice value.
    const NICE_0: usize = 20;
    // SAFETY: touches no memory.
    unsafe {
        call1(nr::SCHED_GETSCHEDULER, 0) == Ok(SCHED_OTHER)
            && call2(nr::GETPRIORITY, PRIO_PROCESS, 0) == Ok(NICE_0)
    }
}

/// From now on the calling task gets `signal` each time that it has used so much CPU time.
pub fn tick(signal: u32, interval_ns: u64) -> Result {
    const CLOCK_THREAD_CPUTIME_ID: usize = 3;
    const SIGEV_THREAD_ID: u32 = 4;
    /// `struct sigevent`, of which this uses the first four words.
    #[repr(C)]
    struct SigEvent {
        value: u64,
        signo: u32,
        notify: u32,
        tid: i32,
        _pad: [u32; 11],
    }
    let event = SigEvent {
        value: 0,
        signo: signal,
        notify: SIGEV_THREAD_ID,
        tid: crate::process::tid(),
        _pad: [0; 11],
    };
    let mut timer = 0i32;
    let interval = [interval_ns / 1_000_000_000, interval_ns % 1_000_000_000];
    let setting = [interval, interval];
    // SAFETY: the kernel reads the event and the setting, and writes the timer's number.
    unsafe {
        call3(
            nr::TIMER_CREATE,
            CLOCK_THREAD_CPUTIME_ID,
            &raw const event as usize,
            &raw mut timer as usize,
        )?;
        call4(
            nr::TIMER_SETTIME,
            timer as usize,
            0,
            setting.as_ptr() as usize,
            0,
        )
    }
}
