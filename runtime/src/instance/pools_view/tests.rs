use super::image::Image;
use super::*;

fn pair() -> Image {
    let mut image = Image::default();
    image.touch_sockets(3, 2);
    image.touch_connections(2, 1);
    image.socket(0, SocketState::Linked, 4, (2, 40_000), (3, 6379));
    image.socket(2, SocketState::Linked, 5, (3, 6379), (2, 40_000));
    image.connect(1, [0, 2], [4, 5]);
    image
}

#[test]
fn an_untouched_heap_has_nothing_in_it() {
    let image = Image::default();
    assert!(pools(&image).unwrap().iter().all(|pool| pool.used == 0));
    assert!(sockets(&image).unwrap().is_empty());
    assert!(connections(&image).unwrap().is_empty());
}

#[test]
fn sockets_are_read_up_to_the_mark() {
    let mut image = pair();
    image.socket(3, SocketState::Kernel, 4, (2, 1), (3, 2));
    let found = sockets(&image).unwrap();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(found[&0].local, "10.0.0.2:40000".parse().unwrap());
    assert_eq!(found[&0].remote, "10.0.0.3:6379".parse().unwrap());
    assert_eq!(found[&2].connection, Some(1));
    assert_eq!((found[&2].container, found[&2].side), (5, 1));
}

#[test]
fn addresses_of_both_families_are_shown() {
    let words = |text: &str| {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        let word = |from: usize| {
            AtomicU64::new(u64::from_ne_bytes(*octets[from..].first_chunk().unwrap()))
        };
        [word(0), word(8)]
    };
    let port = AtomicU32::new(443);
    assert_eq!(
        address(&words("::ffff:192.0.2.7"), &port).to_string(),
        "192.0.2.7:443"
    );
    assert_eq!(
        address(&words("2001:db8::1"), &port).to_string(),
        "[2001:db8::1]:443"
    );
}

#[test]
fn rings_belong_to_the_end_that_writes_them() {
    let mut image = pair();
    image.ring(1, 0, 1000, 900, 0);
    image.ring(1, 1, 1 << 40, (1 << 40) - 5, 8);
    image.end_u32(
        1,
        1,
        offset_of!(EndRecord, ended),
        EndState::Finished as u32,
    );
    let [found] = connections(&image).unwrap().try_into().unwrap();
    let [one, other] = found.ends;
    assert_eq!((found.index, one.socket, other.socket), (1, 0, 2));
    assert_eq!((one.sent, one.unread, one.has_buffer), (1000, 100, false));
    assert_eq!(
        (other.sent, other.unread, other.has_buffer),
        (1 << 40, 5, true)
    );
    assert_eq!(one.state, Some(EndState::Open));
    assert_eq!(other.state, Some(EndState::Finished));
}

#[test]
fn torn_and_hostile_rings_hold_no_more_than_they_can() {
    let mut image = pair();
    image.ring(1, 0, 5, 9, u32::MAX);
    image.ring(1, 1, u64::MAX, 0, 1);
    image.end_u32(1, 0, offset_of!(EndRecord, ended), 77);
    let [found] = connections(&image).unwrap().try_into().unwrap();
    assert_eq!(found.ends[0].unread, 0);
    assert_eq!(found.ends[0].state, None);
    assert_eq!(found.ends[1].unread, UNREAD_MAX);
}

#[test]
fn a_hostile_mark_is_held_to_the_pools_limit() {
    let mut image = Image::default();
    image.touch_sockets(u32::MAX, u32::MAX);
    assert!(sockets(&image).unwrap().is_empty());
    assert_eq!(image.reads.get(), 1 + SOCKETS_MAX / SOCKETS_AT_ONCE);
    let [pool, ..] = pools(&image).unwrap();
    assert_eq!(
        (pool.used as usize, pool.limit as usize),
        (SOCKETS_MAX, SOCKETS_MAX)
    );
    image.touch_connections(u32::MAX, 0);
    assert!(connections(&image).unwrap().is_empty());
}

#[test]
fn bytes_without_sense_are_survived() {
    for byte in [0x01, 0x7f, 0x80, 0xff] {
        let mut image = Image::of(byte);
        image.touch_sockets(1000, 3);
        image.touch_connections(1000, 3);
        let found = sockets(&image).unwrap();
        assert!(found.is_empty());
        assert_eq!(connections(&image).unwrap().len(), 1000);
    }
    let mut image = Image::of(0xff);
    image.touch_sockets(1, 1);
    image.socket_u32(
        0,
        offset_of!(SocketRecord, state),
        SocketState::Linked as u32,
    );
    let found = sockets(&image).unwrap();
    assert_eq!(found[&0].connection, Some(u32::MAX - 1));
    assert_eq!(found[&0].local.port(), u16::MAX);
}
