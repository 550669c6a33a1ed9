//! A heap made of bytes, for tests.

use super::{HeapBytes, HeapViewError};
use pegasus_contract::layout::{
    CONNECTION_LEN, CONNECTIONS_BASE, HEAP_BASE, POOLS_BASE, SOCKET_LEN, SOCKETS_BASE,
};
use pegasus_contract::socket::{
    ConnectionRecord, EndRecord, PoolHead, PoolsHeader, SocketRecord, SocketState,
};
use pegasus_sync::Ring;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::mem::offset_of;

/// Where a ring has its numbers, which it keeps to itself.
const RING_TAIL: usize = 0;
const RING_BUFFER: usize = 16;
const RING_HEAD: usize = 64;

/// Bytes by offset; all others are 0, or `background`.
#[derive(Debug, Default)]
pub struct Image {
    bytes: BTreeMap<usize, u8>,
    background: u8,
    pub reads: Cell<usize>,
}

impl HeapBytes for Image {
    fn copy(&self, offset: usize, bytes: &mut [u8]) -> Result<(), HeapViewError> {
        self.reads.set(self.reads.get() + 1);
        bytes.fill(self.background);
        for (place, byte) in self.bytes.range(offset..offset + bytes.len()) {
            bytes[place - offset] = *byte;
        }
        Ok(())
    }
}

impl Image {
    /// Every byte that is not put is `background`.
    pub fn of(background: u8) -> Self {
        Image {
            background,
            ..Image::default()
        }
    }

    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes.extend((offset..).zip(bytes.iter().copied()));
    }

    pub fn touch(&mut self, head: usize, fresh: u32, used: u32) {
        let head = POOLS_BASE - HEAP_BASE + head;
        self.put(head + offset_of!(PoolHead, fresh), &fresh.to_ne_bytes());
        self.put(head + offset_of!(PoolHead, used), &used.to_ne_bytes());
    }

    pub fn touch_sockets(&mut self, fresh: u32, used: u32) {
        self.touch(offset_of!(PoolsHeader, sockets), fresh, used);
    }

    pub fn touch_connections(&mut self, fresh: u32, used: u32) {
        self.touch(offset_of!(PoolsHeader, connections), fresh, used);
    }

    pub fn socket_u32(&mut self, index: usize, field: usize, value: u32) {
        let record = SOCKETS_BASE - HEAP_BASE + index * SOCKET_LEN;
        self.put(record + field, &value.to_ne_bytes());
    }

    pub fn socket_u64(&mut self, index: usize, field: usize, value: u64) {
        let record = SOCKETS_BASE - HEAP_BASE + index * SOCKET_LEN;
        self.put(record + field, &value.to_ne_bytes());
    }

    /// A socket with addresses 10.0.0.x.
    pub fn socket(
        &mut self,
        index: usize,
        state: SocketState,
        container: u32,
        from: (u8, u32),
        to: (u8, u32),
    ) {
        let record = SOCKETS_BASE - HEAP_BASE + index * SOCKET_LEN;
        self.socket_u32(index, offset_of!(SocketRecord, state), state as u32);
        self.socket_u32(index, offset_of!(SocketRecord, container), container);
        let addresses = [
            (offset_of!(SocketRecord, local_address), from.0),
            (offset_of!(SocketRecord, remote_address), to.0),
        ];
        for (field, last) in addresses {
            let mapped = std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped();
            self.put(record + field, &mapped.octets());
        }
        self.socket_u32(index, offset_of!(SocketRecord, local_port), from.1);
        self.socket_u32(index, offset_of!(SocketRecord, remote_port), to.1);
    }

    /// Connection `index` between two sockets, which get to know it.
    pub fn connect(&mut self, index: usize, sockets: [usize; 2], containers: [u32; 2]) {
        self.connection_u32(index, offset_of!(ConnectionRecord, in_use), 1);
        for side in 0..2 {
            let link = (9 << 32) | (index as u64 + 1);
            self.socket_u64(sockets[side], offset_of!(SocketRecord, link), link);
            self.socket_u32(sockets[side], offset_of!(SocketRecord, side), side as u32);
            self.end_u32(
                index,
                side,
                offset_of!(EndRecord, socket),
                sockets[side] as u32,
            );
            self.end_u32(
                index,
                side,
                offset_of!(EndRecord, container),
                containers[side],
            );
        }
    }

    pub fn connection_u32(&mut self, index: usize, field: usize, value: u32) {
        let record = CONNECTIONS_BASE - HEAP_BASE + index * CONNECTION_LEN;
        self.put(record + field, &value.to_ne_bytes());
    }

    pub fn end_u32(&mut self, index: usize, side: usize, field: usize, value: u32) {
        let end = offset_of!(ConnectionRecord, ends) + side * size_of::<EndRecord>();
        self.connection_u32(index, end + field, value);
    }

    /// What end `side` has written, how much of it has been read, and its buffer's number + 1.
    pub fn ring(&mut self, index: usize, side: usize, tail: u64, head: u64, buffer: u32) {
        let record = CONNECTIONS_BASE - HEAP_BASE + index * CONNECTION_LEN;
        let ring = record + offset_of!(ConnectionRecord, rings) + side * size_of::<Ring>();
        self.put(ring + RING_TAIL, &tail.to_ne_bytes());
        self.put(ring + RING_HEAD, &head.to_ne_bytes());
        self.put(ring + RING_BUFFER, &buffer.to_ne_bytes());
    }
}
