//! The record of a container's network in the vkernel's heap, see [`pegasus_contract::network`].

use super::Network;
use pegasus_contract::network::{NETWORK_ADDRESSES_MAX, NetworkRecord};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Says what is known of the container's network. Nobody else may write the record meanwhile.
pub fn write(record: &NetworkRecord, network: &Network) {
    clear(record);
    begin(record);
    let len = network.addresses.len().min(NETWORK_ADDRESSES_MAX);
    for (place, reachable) in record.addresses.iter().zip(&network.addresses) {
        let words = words(&reachable.address.octets());
        for (word, value) in place.address.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        let bridge = reachable.bridge.map_or(0, |bridge| bridge.get().into());
        place.bridge.store(bridge, Ordering::Relaxed);
    }
    record.addresses_len.store(len as u32, Ordering::Relaxed);
    record
        .netns_cookie
        .store(network.cookie.get(), Ordering::Release);
    end(record);
}

/// Says nothing any more.
pub fn clear(record: &NetworkRecord) {
    begin(record);
    record.netns_cookie.store(0, Ordering::Relaxed);
    record.addresses_len.store(0, Ordering::Relaxed);
    for place in &record.addresses {
        let words = place.address.iter().chain([&place.bridge]);
        words.for_each(|word: &AtomicU64| word.store(0, Ordering::Relaxed));
    }
    end(record);
}

/// From now on the sequence number is odd, whatever it has been.
fn begin(record: &NetworkRecord) {
    let sequence = record.sequence.load(Ordering::Relaxed);
    record.sequence.store(sequence | 1, Ordering::Relaxed);
    fence(Ordering::Release);
}

fn end(record: &NetworkRecord) {
    let sequence = record.sequence.load(Ordering::Relaxed) | 1;
    record
        .sequence
        .store(sequence.wrapping_add(1), Ordering::Release);
}

/// The bytes of an address as they lie in memory.
fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let (first, second) = bytes.split_at(8);
    [first, second].map(|half| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(half);
        u64::from_ne_bytes(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Reachable;
    use pegasus_contract::network::NetworkAddress;
    use std::net::Ipv4Addr;
    use std::num::{NonZeroU32, NonZeroU64};
    use std::sync::atomic::AtomicU32;

    fn empty() -> NetworkRecord {
        NetworkRecord {
            netns_cookie: AtomicU64::new(0),
            sequence: AtomicU32::new(0),
            addresses_len: AtomicU32::new(0),
            addresses: std::array::from_fn(|_| NetworkAddress {
                address: Default::default(),
                bridge: AtomicU64::new(0),
            }),
        }
    }

    fn network(len: u8) -> Network {
        let addresses = (0..len).map(|number| Reachable {
            address: Ipv4Addr::new(172, 17, 0, number).to_ipv6_mapped(),
            bridge: NonZeroU32::new(number.into()),
        });
        Network {
            cookie: NonZeroU64::new(99).unwrap(),
            addresses: addresses.collect(),
        }
    }

    #[test]
    fn a_record_is_written_and_cleared() {
        let record = empty();
        write(&record, &network(3));
        let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
        assert_eq!(read(&record.netns_cookie), 99);
        assert_eq!(record.addresses_len.load(Ordering::Relaxed), 3);
        let last = &record.addresses[2];
        let bytes = [read(&last.address[0]), read(&last.address[1])].map(u64::to_ne_bytes);
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 172, 17, 0, 2];
        assert_eq!(bytes.concat(), mapped);
        assert_eq!(read(&last.bridge), 2);
        let sequence = record.sequence.load(Ordering::Relaxed);
        clear(&record);
        assert_eq!(read(&record.netns_cookie), 0);
        assert_eq!(record.addresses_len.load(Ordering::Relaxed), 0);
        assert_eq!(read(&last.address[1]) | read(&last.bridge), 0);
        let cleared = record.sequence.load(Ordering::Relaxed);
        assert!(cleared > sequence && cleared.is_multiple_of(2));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_next_network_replaces_all() {
        let record = empty();
        write(&record, &network(20));
        let len = |record: &NetworkRecord| record.addresses_len.load(Ordering::Relaxed);
        assert_eq!(len(&record), NETWORK_ADDRESSES_MAX as u32);
        write(&record, &network(1));
        assert_eq!(len(&record), 1);
        assert_eq!(record.addresses[1].bridge.load(Ordering::Relaxed), 0);
    }
}
