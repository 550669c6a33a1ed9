//! `pegasus trace`: print the system calls of a container as the vkernel sees them.

use super::{Context, Outcome, OutputError, print_line};
use crate::container::find::{FindError, find};
use crate::container::main_process::MainProcess;
use crate::container::processes;
use crate::container::root::RootError;
use crate::executor::lookup::errno_text;
use crate::instance::heap_view::{
    Access, HeapView, HeapViewError, ProcessView, TracedCall, Tracing,
};
use crate::sys::clock::CycleClock;
use clap::Args;
use libseccomp::ScmpSyscall;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use pegasus_contract::record::TRACE_LEN;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// Print the system calls of a container until interrupted
#[derive(Debug, Args)]
pub struct Trace {
    /// Stop after this many calls
    #[arg(long)]
    count: Option<u64>,
    /// Print totals instead of single calls; without --count, those since the container started
    #[arg(long)]
    summary: bool,
    /// Container identifier, or the beginning of one
    container_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Heap(#[from] HeapViewError),
    #[error("container {0:?} is not running")]
    NotRunning(String),
    #[error(
        "container {0:?} runs native: its calls go straight to the kernel, where strace sees them"
    )]
    Native(String),
    #[error("cannot wait for an interrupt")]
    Signals(#[source] Errno),
    #[error(transparent)]
    Output(#[from] OutputError),
}

const POLL_INTERVAL_MS: u16 = 20;

pub fn run(context: &Context, arguments: &Trace) -> Outcome {
    Ok(trace(context, arguments)?)
}

fn trace(context: &Context, arguments: &Trace) -> Result<u8, TraceError> {
    let (root, id) = find(&context.root, context.root_named, &arguments.container_id)?;
    let id = id.as_str();
    let container = root.load(id)?;
    let main = MainProcess::of(&container).ok_or_else(|| TraceError::NotRunning(id.to_owned()))?;
    let heap = HeapView::of(main.pid, Access::ReadAndWrite)?
        .ok_or_else(|| TraceError::Native(id.to_owned()))?;
    if arguments.summary && arguments.count.is_none() {
        summarise_counters(&heap, id)?;
        return Ok(0);
    }
    let interrupts = interrupts().map_err(TraceError::Signals)?;
    let mut tracer = Tracer::new(&heap, id, arguments);
    let traced = tracer.follow(&interrupts);
    tracer.switch_off();
    traced?;
    if arguments.summary {
        tracer.print_summary()?;
    }
    Ok(0)
}

fn interrupts() -> Result<SignalFd, Errno> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Follows the rings of all processes of one container.
struct Tracer<'a> {
    heap: &'a HeapView,
    id: &'a str,
    clock: CycleClock,
    left: Option<u64>,
    summary: bool,
    /// By record index: the number of the next call to print.
    followed: BTreeMap<usize, u64>,
    totals: BTreeMap<u64, Total>,
}

#[derive(Debug, Default)]
struct Total {
    calls: u64,
    errors: u64,
    trapped: u64,
    cycles: u64,
}

impl<'a> Tracer<'a> {
    fn new(heap: &'a HeapView, id: &'a str, arguments: &Trace) -> Self {
        Tracer {
            heap,
            id,
            clock: CycleClock::measure(),
            left: arguments.count,
            summary: arguments.summary,
            followed: BTreeMap::new(),
            totals: BTreeMap::new(),
        }
    }

    fn follow(&mut self, interrupts: &SignalFd) -> Result<(), TraceError> {
        loop {
            let processes = self.begin_new()?;
            if processes.is_empty() {
                return Ok(());
            }
            for process in &processes {
                self.print_new(process)?;
            }
            if self.left == Some(0) || interrupted(interrupts)? {
                return Ok(());
            }
        }
    }

    /// Starts recording in processes that have appeared, and gives all that exist.
    fn begin_new(&mut self) -> Result<Vec<ProcessView>, TraceError> {
        let processes = processes::of_container(self.heap, self.id)?;
        for process in &processes {
            if !self.followed.contains_key(&process.index) {
                self.followed
                    .insert(process.index, self.heap.trace_head(process.index)?);
                self.heap.set_tracing(process.index, Tracing::On)?;
            }
        }
        Ok(processes)
    }

    fn print_new(&mut self, process: &ProcessView) -> Result<(), TraceError> {
        let head = self.heap.trace_head(process.index)?;
        let next = self.followed.get(&process.index).copied().unwrap_or(head);
        let oldest = head.saturating_sub(TRACE_LEN as u64);
        if next < oldest && !self.summary {
            print_line(&format!(
                "[pid {}] ... {} calls not shown",
                process.pid,
                oldest - next
            ))?;
        }
        for number in next.max(oldest).min(head)..head {
            if self.left == Some(0) {
                break;
            }
            let Some(call) = self.heap.traced_call(process.index, number)? else {
                continue;
            };
            self.left = self.left.map(|left| left - 1);
            if self.summary {
                self.count(&call);
            } else {
                print_line(&self.line(process, &call))?;
            }
        }
        self.followed.insert(process.index, head);
        Ok(())
    }

    fn line(&self, process: &ProcessView, call: &TracedCall) -> String {
        let args = call.args.map(|arg| format!("{arg:#x}")).join(", ");
        format!(
            "[pid {} tid {}] {}({args}) = {} <{:.2} us{}>",
            process.pid,
            call.tid,
            call_name(call.nr),
            result_text(call.result),
            self.clock.microseconds(call.cycles),
            if call.trapped { ", trapped" } else { "" },
        )
    }

    fn count(&mut self, call: &TracedCall) {
        let total = self.totals.entry(call.nr).or_default();
        total.calls += 1;
        total.errors += u64::from(errno_of(call.result).is_some());
        total.trapped += u64::from(call.trapped);
        total.cycles = total.cycles.saturating_add(call.cycles);
    }

    fn print_summary(&self) -> Result<(), OutputError> {
        let mut rows = vec![["CALLS", "ERRORS", "TRAPPED", "US/CALL", "CALL"].map(str::to_owned)];
        let mut totals: Vec<_> = self.totals.iter().collect();
        totals.sort_by_key(|(_, total)| std::cmp::Reverse(total.calls));
        rows.extend(totals.into_iter().map(|(nr, total)| {
            let each = self.clock.microseconds(total.cycles / total.calls.max(1));
            [
                total.calls.to_string(),
                total.errors.to_string(),
                total.trapped.to_string(),
                format!("{each:.2}"),
                call_name(*nr),
            ]
        }));
        print_line(&super::table::align(&rows))
    }

    /// Leaves no process recording. One that has gone needs nothing.
    fn switch_off(&self) {
        for index in self.followed.keys() {
            if let Err(error) = self.heap.set_tracing(*index, Tracing::Off) {
                tracing::warn!(
                    "tracing stays on in a process: {}",
                    crate::error::chain(&error)
                );
            }
        }
    }
}

/// Waits one interval for an interrupt.
fn interrupted(interrupts: &SignalFd) -> Result<bool, TraceError> {
    let mut waited = [PollFd::new(interrupts.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waited, PollTimeout::from(POLL_INTERVAL_MS)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(TraceError::Signals(errno)),
    }
}

/// Totals of all calls since the container started, from the counters that are always on.
fn summarise_counters(heap: &HeapView, id: &str) -> Result<(), TraceError> {
    let mut calls: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut rewritten, mut trapped, mut served) = (0_u64, 0_u64, 0_u64);
    for process in processes::of_container(heap, id)? {
        let counters = heap.counters(process.index)?;
        rewritten = rewritten.saturating_add(counters.rewritten);
        trapped = trapped.saturating_add(counters.trapped);
        served = served.saturating_add(counters.served);
        for (nr, count) in counters
            .calls
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0)
        {
            let sum = calls.entry(nr).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    let mut rows = vec![["CALLS", "CALL"].map(str::to_owned)];
    let mut calls: Vec<_> = calls.into_iter().collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rows.extend(
        calls
            .into_iter()
            .map(|(nr, count)| [count.to_string(), call_name(nr as u64)]),
    );
    print_line(&super::table::align(&rows))?;
    print_line(&format!(
        "\n{rewritten} calls through rewritten sites, {trapped} trapped; {served} of them served by the vkernel"
    ))?;
    Ok(())
}

fn call_name(nr: u64) -> String {
    i32::try_from(nr)
        .ok()
        .and_then(|nr| ScmpSyscall::from(nr).get_name().ok())
        .unwrap_or_else(|| format!("call_{nr}"))
}

fn errno_of(result: u64) -> Option<Errno> {
    const ERRNO_MAX: i64 = 4095;
    let result = result.cast_signed();
    (-ERRNO_MAX..0)
        .contains(&result)
        .then(|| i32::try_from(-result).ok())
        .flatten()
        .map(Errno::from_raw)
}

fn result_text(result: u64) -> String {
    match errno_of(result) {
        Some(errno) => format!("-1 {errno:?} ({})", errno_text(errno)),
        None if result > 0xffff_ffff => format!("{result:#x}"),
        None => result.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_results_are_named() {
        assert_eq!(call_name(1), "write");
        assert_eq!(call_name(u64::MAX), format!("call_{}", u64::MAX));
        assert_eq!(result_text(7), "7");
        assert_eq!(
            result_text((-2_i64).cast_unsigned()),
            "-1 ENOENT (no such file or directory)"
        );
        assert_eq!(result_text(0x7f00_0000_0000), "0x7f0000000000");
    }
}
