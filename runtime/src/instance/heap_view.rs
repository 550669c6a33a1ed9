//! Reads a vkernel's shared heap from outside.
//!
//! The heap is a memory file that processes of the instance have mapped; it is opened anew through
//! `/proc/<pid>/map_files`, and reading it there creates no pages. Container code can write to the
//! heap, so every value is data to show, never something to rely on: numbers are taken as they are,
//! indices are checked, texts are cut and cleaned.

use nix::unistd::Pid;
use pegasus_contract::CONTRACT_VERSION;
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::layout::{CONTAINERS_MAX, HEAP_BASE, PROCESSES_MAX};
use pegasus_contract::network::{NETWORK_ADDRESSES_MAX, NetworkAddress, NetworkRecord};
use pegasus_contract::record::{
    CALLS_COUNTED, COUNTER_SHARDS, ContainerRecord, CounterShard, EXE_LEN, HEAP_MAGIC, HeapHeader,
    ID_LEN, ProcessRecord, ProcessState, REASON_LEN, TRACE_LEN, TraceEntry,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileExt;

#[derive(Debug, thiserror::Error)]
pub enum HeapViewError {
    #[error("cannot read the memory map of process {pid}; inspecting needs root")]
    Maps { pid: Pid, source: io::Error },
    #[error("cannot open the vkernel's heap of process {pid}; inspecting needs root")]
    Open { pid: Pid, source: io::Error },
    #[error("cannot access the vkernel's heap")]
    Access(#[source] io::Error),
    #[error("what lies in the place of the vkernel's heap is not one")]
    NotAHeap,
    #[error("the container was started by another version of pegasus (heap version {0})")]
    Version(u32),
}

/// Whether the view may change the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadAndWrite,
}

/// An open heap.
#[derive(Debug)]
pub struct HeapView {
    file: File,
}

/// A process as the vkernel knows it.
#[derive(Debug, Clone)]
pub struct ProcessView {
    pub index: usize,
    pub state: ProcessState,
    pub container: u32,
    /// Its pid as the container sees it.
    pub pid: i32,
    pub threads: u32,
    pub slot: Option<u32>,
    pub sites_rewritten: u64,
    pub sites_refused: u64,
    pub exe: String,
    /// Why it left the vkernel, if it did.
    pub native_reason: String,
}

/// An address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressView {
    pub address: IpAddr,
    /// Of the bridge that it is behind.
    pub bridge: Option<u64>,
}

/// Sums over the shards of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    pub rewritten: u64,
    pub trapped: u64,
    pub served: u64,
    pub signals: u64,
    pub switches: u64,
    pub trips_home: u64,
    /// By call number; the last entry counts all others.
    pub calls: Vec<u64>,
}

/// One traced call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedCall {
    pub nr: u64,
    pub args: [u64; 6],
    pub result: u64,
    pub cycles: u64,
    pub tid: u32,
    pub trapped: bool,
}

impl HeapView {
    /// The heap that process `pid` has mapped; `None` if it has none.
    pub fn of(pid: Pid, access: Access) -> Result<Option<Self>, HeapViewError> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .map_err(|source| HeapViewError::Maps { pid, source })?;
        let Some(range) = heap_range(&maps) else {
            return Ok(None);
        };
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::ReadAndWrite)
            .open(format!("/proc/{pid}/map_files/{range}"))
            .map_err(|source| HeapViewError::Open { pid, source })?;
        let view = HeapView { file };
        if view.u64_at(offset_of!(HeapHeader, magic))? != HEAP_MAGIC {
            return Err(HeapViewError::NotAHeap);
        }
        match view.u32_at(offset_of!(HeapHeader, version))? {
            CONTRACT_VERSION => Ok(Some(view)),
            other => Err(HeapViewError::Version(other)),
        }
    }

    pub fn kind(&self) -> Result<Option<InstanceKind>, HeapViewError> {
        let kind = self.u32_at(offset_of!(HeapHeader, kind))?;
        Ok([InstanceKind::Own, InstanceKind::Shared]
            .into_iter()
            .find(|known| *known as u32 == kind))
    }

    /// Index of the record of container `id`.
    pub fn container(&self, id: &str) -> Result<Option<usize>, HeapViewError> {
        // The record holds as much of the id as fits.
        let wanted = &id.as_bytes()[..id.len().min(ID_LEN - 1)];
        for index in 0..CONTAINERS_MAX {
            let record = offset_of!(HeapHeader, containers) + index * size_of::<ContainerRecord>();
            let text = self.text_at(record + offset_of!(ContainerRecord, id), ID_LEN)?;
            if text.as_bytes() == wanted {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Bytes that container `index` has sent and received over rings that it has no end of any more.
    pub fn ended_rings(&self, index: usize) -> Result<(u64, u64), HeapViewError> {
        let record = offset_of!(HeapHeader, containers) + index * size_of::<ContainerRecord>();
        let sent = self.u64_at(record + offset_of!(ContainerRecord, rings_sent))?;
        let received = self.u64_at(record + offset_of!(ContainerRecord, rings_received))?;
        Ok((sent, received))
    }

    /// What the record of container `index` says about its addresses.
    pub fn addresses(&self, index: usize) -> Result<Vec<AddressView>, HeapViewError> {
        let record = offset_of!(HeapHeader, networks) + index * size_of::<NetworkRecord>();
        if self.u64_at(record + offset_of!(NetworkRecord, netns_cookie))? == 0 {
            return Ok(Vec::new());
        }
        let len = self.u32_at(record + offset_of!(NetworkRecord, addresses_len))? as usize;
        let places = (0..len.min(NETWORK_ADDRESSES_MAX)).map(|place| {
            record + offset_of!(NetworkRecord, addresses) + place * size_of::<NetworkAddress>()
        });
        places.map(|place| self.address_at(place)).collect()
    }

    fn address_at(&self, place: usize) -> Result<AddressView, HeapViewError> {
        let mut bytes = [0; 16];
        self.read(place + offset_of!(NetworkAddress, address), &mut bytes)?;
        let bridge = self.u64_at(place + offset_of!(NetworkAddress, bridge))?;
        Ok(AddressView {
            address: Ipv6Addr::from(bytes).to_canonical(),
            bridge: Some(bridge).filter(|bridge| *bridge != 0),
        })
    }

    /// All processes in the vkernel's table.
    pub fn processes(&self) -> Result<Vec<ProcessView>, HeapViewError> {
        let mut processes = Vec::new();
        for index in 0..PROCESSES_MAX {
            if let Some(process) = self.process(index)? {
                processes.push(process);
            }
        }
        Ok(processes)
    }

    fn process(&self, index: usize) -> Result<Option<ProcessView>, HeapViewError> {
        let record = record_offset(index);
        let state = self.u32_at(record + offset_of!(ProcessRecord, state))?;
        let known = [
            ProcessState::Claimed,
            ProcessState::Resident,
            ProcessState::Satellite,
            ProcessState::Native,
        ];
        let Some(state) = known.into_iter().find(|known| *known as u32 == state) else {
            return Ok(None);
        };
        let slot = self.u32_at(record + offset_of!(ProcessRecord, slot))?;
        Ok(Some(ProcessView {
            index,
            state,
            container: self.u32_at(record + offset_of!(ProcessRecord, container))?,
            pid: self
                .u32_at(record + offset_of!(ProcessRecord, pid))?
                .cast_signed(),
            threads: self.u32_at(record + offset_of!(ProcessRecord, threads))?,
            slot: Some(slot).filter(|slot| *slot != u32::MAX),
            sites_rewritten: self.u64_at(record + offset_of!(ProcessRecord, sites_rewritten))?,
            sites_refused: self.u64_at(record + offset_of!(ProcessRecord, sites_refused))?,
            exe: self.text_at(record + offset_of!(ProcessRecord, exe), EXE_LEN)?,
            native_reason: self.text_at(
                record + offset_of!(ProcessRecord, native_reason),
                REASON_LEN,
            )?,
        }))
    }

    /// The counters of process record `index`.
    pub fn counters(&self, index: usize) -> Result<Counters, HeapViewError> {
        let mut sums = Counters {
            rewritten: 0,
            trapped: 0,
            served: 0,
            signals: 0,
            switches: 0,
            trips_home: 0,
            calls: vec![0; CALLS_COUNTED],
        };
        for shard in 0..COUNTER_SHARDS {
            let mut bytes = vec![0; size_of::<CounterShard>()];
            self.read(shard_offset(index, shard), &mut bytes)?;
            let value = |offset: usize| u64_of(&bytes[offset..offset + 8]);
            add(
                &mut sums.rewritten,
                value(offset_of!(CounterShard, rewritten)),
            );
            add(&mut sums.trapped, value(offset_of!(CounterShard, trapped)));
            add(&mut sums.served, value(offset_of!(CounterShard, served)));
            add(&mut sums.signals, value(offset_of!(CounterShard, signals)));
            add(
                &mut sums.switches,
                value(offset_of!(CounterShard, switches)),
            );
            add(
                &mut sums.trips_home,
                value(offset_of!(CounterShard, trips_home)),
            );
            for (nr, sum) in sums.calls.iter_mut().enumerate() {
                add(sum, value(offset_of!(CounterShard, calls) + nr * 8));
            }
        }
        Ok(sums)
    }

    /// Switches the recording of calls in process record `index` on or off.
    pub fn set_tracing(&self, index: usize, tracing: Tracing) -> Result<(), HeapViewError> {
        let value = match tracing {
            Tracing::On => 1_u64,
            Tracing::Off => 0,
        };
        for shard in 0..COUNTER_SHARDS {
            let offset = shard_offset(index, shard) + offset_of!(CounterShard, traced);
            self.file
                .write_all_at(&value.to_le_bytes(), offset as u64)
                .map_err(HeapViewError::Access)?;
        }
        Ok(())
    }

    /// Number of calls that process record `index` has traced so far.
    pub fn trace_head(&self, index: usize) -> Result<u64, HeapViewError> {
        self.u64_at(record_offset(index) + offset_of!(ProcessRecord, trace_head))
    }

    /// The call with this number, unless it is being written or has been overwritten.
    pub fn traced_call(
        &self,
        index: usize,
        number: u64,
    ) -> Result<Option<TracedCall>, HeapViewError> {
        // The remainder is less than TRACE_LEN, so it fits.
        let place = (number % TRACE_LEN as u64) as usize;
        let start = record_offset(index)
            + offset_of!(ProcessRecord, trace)
            + place * size_of::<TraceEntry>();
        let mut bytes = [0; size_of::<TraceEntry>()];
        self.read(start, &mut bytes)?;
        let seal = offset_of!(TraceEntry, seal);
        let is_whole = |bytes: &[u8]| u64_of(&bytes[seal..seal + 8]) == number.wrapping_add(1);
        if !is_whole(&bytes) || self.u64_at(start + seal)? != number.wrapping_add(1) {
            return Ok(None);
        }
        let u64_in = |offset: usize| u64_of(&bytes[offset..offset + 8]);
        let u32_in = |offset: usize| u32_of(&bytes[offset..offset + 4]);
        Ok(Some(TracedCall {
            nr: u64_in(offset_of!(TraceEntry, nr)),
            args: std::array::from_fn(|arg| u64_in(offset_of!(TraceEntry, args) + arg * 8)),
            result: u64_in(offset_of!(TraceEntry, result)),
            cycles: u64_in(offset_of!(TraceEntry, cycles)),
            tid: u32_in(offset_of!(TraceEntry, tid)),
            trapped: u32_in(offset_of!(TraceEntry, path)) != 0,
        }))
    }

    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), HeapViewError> {
        self.file
            .read_exact_at(bytes, offset as u64)
            .map_err(HeapViewError::Access)
    }

    fn u64_at(&self, offset: usize) -> Result<u64, HeapViewError> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn u32_at(&self, offset: usize) -> Result<u32, HeapViewError> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Text up to its first NUL, fit to be printed.
    fn text_at(&self, offset: usize, len_max: usize) -> Result<String, HeapViewError> {
        let mut bytes = vec![0; len_max];
        self.read(offset, &mut bytes)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len_max);
        let text = String::from_utf8_lossy(&bytes[..end]);
        Ok(text.replace(char::is_control, "\u{fffd}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    On,
    Off,
}

fn record_offset(index: usize) -> usize {
    offset_of!(HeapHeader, processes) + index * size_of::<ProcessRecord>()
}

fn shard_offset(index: usize, shard: usize) -> usize {
    record_offset(index) + offset_of!(ProcessRecord, counters) + shard * size_of::<CounterShard>()
}

/// `start-end` of the mapping that begins at the heap's address, as `/proc/<pid>/maps` writes it.
fn heap_range(maps: &str) -> Option<&str> {
    let start = format!("{HEAP_BASE:x}-");
    let line = maps.lines().find(|line| line.starts_with(&start))?;
    line.split(' ').next()
}

fn add(sum: &mut u64, value: u64) {
    *sum = sum.saturating_add(value);
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pegasus_contract::layout::HEAP_LEN;

    #[test]
    fn a_process_without_a_vkernel_has_no_heap() {
        assert!(HeapView::of(Pid::this(), Access::Read).unwrap().is_none());
    }

    #[test]
    fn the_heap_is_found_by_its_address() {
        let range = format!("{HEAP_BASE:x}-{:x}", HEAP_BASE + HEAP_LEN);
        let heap = format!("{range} rw-s 0 00:01 9 /memfd:pegasus-heap (deleted)");
        let maps = format!("200000000000-200000001000 r-xp 0 00:00 0\n{heap}\n");
        assert_eq!(heap_range(&maps), Some(range.as_str()));
        assert_eq!(heap_range("5500-5600 r--p 0 00:00 0\n"), None);
    }

    #[test]
    fn numbers_are_little_endian() {
        assert_eq!(
            u64_of(&0x0102_0304_0506_0708_u64.to_le_bytes()),
            0x0102_0304_0506_0708
        );
        assert_eq!(u32_of(&[1, 0, 0, 0x80]), 0x8000_0001);
    }
}
