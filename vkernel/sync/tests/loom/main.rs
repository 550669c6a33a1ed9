//! Rings, claims, bells, queues and inboxes under the model checker, which tries the orders in which the tasks' steps can happen:
//! `RUSTFLAGS="--cfg loom" cargo test -p pegasus-sync --release --test loom`.
//!
//! A wake-up that is lost shows as a deadlock; two tasks at one byte, as a race of its cell.
#![cfg(loom)]

mod inbox;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use pegasus_sync::atomic::{AtomicU32, Ordering};
use pegasus_sync::{Bell, Claim, Kicks, Link, Queue, Ring, Stores, Stretch, Wanted};

/// Every order with so many preemptions at most.
fn check(preemptions_max: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.check(model);
}

const INLINE_LEN: usize = 2;
const INLINE_BASE: usize = 0x1000;
const BUFFER_BASE: usize = 0x2000;

/// The addresses of these stores stand for cells; nothing lies there.
struct Cells {
    inline: Vec<UnsafeCell<u8>>,
    buffer: Vec<UnsafeCell<u8>>,
    is_claimed: AtomicU32,
}

impl Cells {
    fn new() -> Self {
        let cells = |len| (0..len).map(|_| UnsafeCell::new(0)).collect();
        Self {
            inline: cells(INLINE_LEN),
            buffer: cells(Self::BUFFER_LEN),
            is_claimed: AtomicU32::new(0),
        }
    }

    fn of(&self, stretch: Stretch) -> &[UnsafeCell<u8>] {
        let address = stretch.address as usize;
        if address >= BUFFER_BASE {
            &self.buffer[address - BUFFER_BASE..][..stretch.len]
        } else {
            &self.inline[address - INLINE_BASE..][..stretch.len]
        }
    }

    fn write(&self, ring: &Ring, want: usize, next: &mut u8) {
        let done = ring.produce(self, want, |stretch| {
            for cell in self.of(stretch) {
                // SAFETY: the model checker sees to it that no other task is here.
                cell.with_mut(|byte| unsafe { *byte = *next });
                *next += 1;
            }
            stretch.len
        });
        assert!(done.is_ok());
    }

    fn read(&self, ring: &Ring, want: usize, next: &mut u8) {
        let done = ring.consume(self, want, |stretch| {
            for cell in self.of(stretch) {
                // SAFETY: the model checker sees to it that no other task writes here.
                assert_eq!(cell.with(|byte| unsafe { *byte }), *next);
                *next += 1;
            }
            stretch.len
        });
        assert!(done.is_ok());
    }
}

impl Stores for Cells {
    const BUFFER_LEN: usize = 3;

    fn inline(&self) -> (*mut u8, usize) {
        (INLINE_BASE as *mut u8, INLINE_LEN)
    }

    fn claim_buffer(&self) -> Option<u32> {
        let was_claimed = self.is_claimed.swap(1, Ordering::Relaxed) != 0;
        (!was_claimed).then_some(0)
    }

    fn release_buffer(&self, number: u32) {
        assert_eq!(number, 0);
        assert_eq!(self.is_claimed.swap(0, Ordering::Relaxed), 1);
    }

    fn buffer(&self, number: u32) -> Option<*mut u8> {
        (number == 0).then_some(BUFFER_BASE as *mut u8)
    }
}

/// The producer writes these amounts and the consumer reads those, as far as they can; the rest is read at the end.
fn stream(writes: &'static [usize], reads: &'static [usize]) {
    check(3, move || {
        let shared = Arc::new((Ring::new(), Cells::new()));
        let producer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (ring, cells) = &*shared;
                let mut next = 0;
                writes
                    .iter()
                    .for_each(|want| cells.write(ring, *want, &mut next));
                next
            })
        };
        let (ring, cells) = &*shared;
        let mut next = 0;
        reads
            .iter()
            .for_each(|want| cells.read(ring, *want, &mut next));
        let written = producer.join().unwrap();
        cells.read(ring, 100, &mut next);
        assert_eq!(next, written);
        assert!(ring.is_empty());
        assert_eq!(
            ring.has_buffer(),
            cells.is_claimed.load(Ordering::Relaxed) == 1
        );
    });
}

#[test]
fn a_ring_grows_while_it_is_read() {
    stream(&[1, 3, 2], &[1, 2, 3]);
}

#[test]
fn a_ring_wraps_around_while_it_is_read() {
    stream(&[2, 1], &[1, 1]);
}

#[test]
fn a_ring_shrinks_and_grows_again_while_it_is_read() {
    stream(&[3, 1, 3], &[3, 2, 2]);
}

#[test]
fn a_ring_shrinks_between_small_writes() {
    stream(&[3, 1, 1, 1], &[3, 1, 1]);
}

/// Neither side, without a claim.
#[test]
fn an_onlooker_sees_a_ring_that_can_be() {
    check(2, || {
        let shared = Arc::new((Ring::new(), Cells::new()));
        let producer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (ring, cells) = &*shared;
                let mut next = 0;
                [1, 3]
                    .iter()
                    .for_each(|want| cells.write(ring, *want, &mut next));
            })
        };
        let consumer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (ring, cells) = &*shared;
                let mut next = 0;
                cells.read(ring, 1, &mut next);
                cells.read(ring, 3, &mut next);
            })
        };
        let (ring, cells) = &*shared;
        assert!(ring.room(cells).is_ok_and(|room| room <= Cells::BUFFER_LEN));
        producer.join().unwrap();
        consumer.join().unwrap();
    });
}

#[test]
fn a_claim_is_held_by_one() {
    check(3, || {
        let shared = Arc::new((Claim::new(), UnsafeCell::new(0)));
        let add = |shared: &(Claim, UnsafeCell<u32>), holder| {
            shared.0.take(holder, |_| false);
            // SAFETY: the claim is held; the model checker looks.
            shared.1.with_mut(|count| unsafe { *count += 1 });
            shared.0.give_back();
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || add(&shared, 2))
        };
        add(&shared, 1);
        other.join().unwrap();
        shared.0.take(3, |_| false);
        // SAFETY: as above.
        assert_eq!(shared.1.with(|count| unsafe { *count }), 2);
    });
}

/// A claim, what it guards, and what the kernel says of its first holder, number 1.
struct Estate {
    claim: Claim,
    count: UnsafeCell<u32>,
    is_dead: Mutex<bool>,
}

impl Estate {
    fn new() -> Arc<Self> {
        let claim = Claim::new();
        assert!(claim.try_take(1));
        Arc::new(Self {
            claim,
            count: UnsafeCell::new(0),
            is_dead: Mutex::new(false),
        })
    }

    fn add_one(&self) {
        // SAFETY: the claim is held; the model checker looks.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }

    fn die(&self) {
        self.add_one();
        *self.is_dead.lock().unwrap() = true;
    }

    fn check(&self, count: u32) {
        assert!(self.claim.try_take(9));
        // SAFETY: as above.
        assert_eq!(self.count.with(|count| unsafe { *count }), count);
    }
}

fn inherit(estate: &Arc<Estate>, holder: u32) -> thread::JoinHandle<()> {
    let shared = estate.clone();
    thread::spawn(move || {
        let is_gone = |present| present == 1 && *shared.is_dead.lock().unwrap();
        shared.claim.take(holder, is_gone);
        shared.add_one();
        shared.claim.give_back();
    })
}

#[test]
fn a_claim_is_taken_over_after_its_holders_death() {
    check(4, || {
        let estate = Estate::new();
        let heir = inherit(&estate, 2);
        estate.die();
        heir.join().unwrap();
        estate.check(2);
    });
}

/// One of two takes it over, and the other gets it after that.
#[test]
fn a_claim_of_the_dead_is_taken_over_once() {
    check(3, || {
        let estate = Estate::new();
        estate.die();
        let heirs = [inherit(&estate, 2), inherit(&estate, 3)];
        heirs.into_iter().for_each(|heir| heir.join().unwrap());
        estate.check(3);
    });
}

/// Linux's side of one end: kicks that have arrived, and who sleeps until there are any.
struct Socket {
    arrived: Mutex<usize>,
    arrival: Condvar,
    /// All that were ever sent.
    sent: AtomicU32,
}

impl Socket {
    fn new() -> Self {
        Self {
            arrived: Mutex::new(0),
            arrival: Condvar::new(),
            sent: AtomicU32::new(0),
        }
    }

    fn kick(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        *self.arrived.lock().unwrap() += 1;
        self.arrival.notify_all();
    }

    fn sleep(&self) {
        let mut arrived = self.arrived.lock().unwrap();
        while *arrived == 0 {
            arrived = self.arrival.wait(arrived).unwrap();
        }
    }
}

impl Kicks for Socket {
    fn arrived(&self) -> usize {
        *self.arrived.lock().unwrap()
    }

    fn take(&self, number: usize) {
        let mut arrived = self.arrived.lock().unwrap();
        *arrived = arrived.checked_sub(number).expect("that many");
    }
}

/// An end's way to be woken.
struct End {
    bell: Bell,
    socket: Socket,
    /// Of the other end's tasks.
    notifying: AtomicU32,
}

impl End {
    fn new() -> Self {
        Self {
            bell: Bell::new(),
            socket: Socket::new(),
            notifying: AtomicU32::new(0),
        }
    }

    fn announce(&self, change: Wanted) {
        let kick = || self.socket.kick();
        self.bell.announce(&self.notifying, change, || false, kick);
    }
}

const BYTES: Wanted = Wanted {
    bytes: true,
    room: false,
};
const ROOM: Wanted = Wanted {
    bytes: false,
    room: true,
};

/// A number of bytes instead of a ring with stores: these models are about who is woken.
struct Stream {
    ring: Ring,
    stores: Room,
    claim: Mutex<()>,
    reader: End,
    writer: End,
}

/// No buffers, no bytes.
struct Room(usize);

impl Stores for Room {
    const BUFFER_LEN: usize = 1;

    fn inline(&self) -> (*mut u8, usize) {
        (INLINE_BASE as *mut u8, self.0)
    }

    fn claim_buffer(&self) -> Option<u32> {
        None
    }

    fn release_buffer(&self, _: u32) {}

    fn buffer(&self, _: u32) -> Option<*mut u8> {
        None
    }
}

impl Stream {
    fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            ring: Ring::new(),
            stores: Room(room),
            claim: Mutex::new(()),
            reader: End::new(),
            writer: End::new(),
        })
    }

    fn has_room(&self) -> bool {
        self.ring.room(&self.stores) != Ok(0)
    }

    fn write(&self, want: usize) -> usize {
        let done = self.ring.produce(&self.stores, want, |stretch| stretch.len);
        self.reader.announce(BYTES);
        done.unwrap()
    }

    fn write_all(&self, mut want: usize) {
        while want > 0 {
            want -= self.write(want);
            let is_there = || self.has_room();
            let quiet = || {
                let is_there = |wanted: Wanted| wanted.room && self.has_room();
                self.writer.bell.quiet(&self.writer.socket, is_there);
            };
            let sleep = || {
                self.writer.socket.sleep();
                true
            };
            if want > 0 {
                self.writer.bell.wait(ROOM, is_there, quiet, sleep);
            }
        }
    }

    fn read(&self, want: usize) -> usize {
        let held = self.claim.lock().unwrap();
        let done = self.ring.consume(&self.stores, want, |stretch| stretch.len);
        drop(held);
        self.writer.announce(ROOM);
        done.unwrap()
    }

    fn wait_for_bytes(&self) {
        let is_there = || !self.ring.is_empty();
        let quiet = || {
            let _held = self.claim.lock().unwrap();
            let is_there = |wanted: Wanted| wanted.bytes && !self.ring.is_empty();
            self.reader.bell.quiet(&self.reader.socket, is_there);
        };
        let sleep = || {
            self.reader.socket.sleep();
            true
        };
        assert!(self.reader.bell.wait(BYTES, is_there, quiet, sleep));
    }

    fn read_all(&self, mut want: usize) {
        while want > 0 {
            self.wait_for_bytes();
            want -= self.read(want);
        }
    }
}

/// Tasks of the two ends, until all are done. Gives how many kicks there were.
fn run(stream: &Arc<Stream>, writes: &[usize], reads: &[usize]) -> (u32, u32) {
    let spawn = |work: fn(&Stream, usize), amount| {
        let stream = stream.clone();
        thread::spawn(move || work(&stream, amount))
    };
    let (last, others) = reads.split_last().unwrap();
    let tasks: Vec<_> = writes
        .iter()
        .map(|amount| spawn(Stream::write_all, *amount))
        .chain(others.iter().map(|amount| spawn(Stream::read_all, *amount)))
        .collect();
    stream.read_all(*last);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    let sent = |end: &End| end.socket.sent.load(Ordering::Relaxed);
    (sent(&stream.reader), sent(&stream.writer))
}

#[test]
fn a_sleeping_reader_is_woken() {
    check(4, || {
        let stream = Stream::new(8);
        let (kicks, _) = run(&stream, &[1], &[1]);
        assert!(kicks <= 1);
    });
}

#[test]
fn a_reader_is_woken_again() {
    check(3, || {
        let stream = Stream::new(8);
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                stream.write(1);
                stream.write(1);
            })
        };
        stream.read_all(1);
        stream.read_all(1);
        writer.join().unwrap();
        assert!(stream.reader.socket.sent.load(Ordering::Relaxed) <= 2);
    });
}

#[test]
fn of_two_readers_none_sleeps_on_what_the_other_has_left() {
    check(3, || {
        let stream = Stream::new(8);
        let (kicks, _) = run(&stream, &[2], &[1, 1]);
        assert!(kicks <= 1);
    });
}

#[test]
fn two_writes_wake_two_readers() {
    check(2, || {
        let stream = Stream::new(8);
        let other = {
            let stream = stream.clone();
            thread::spawn(move || stream.read_all(1))
        };
        let writer = {
            let stream = stream.clone();
            thread::spawn(move || {
                stream.write(1);
                stream.write(1);
            })
        };
        stream.read_all(1);
        other.join().unwrap();
        writer.join().unwrap();
        assert!(stream.reader.socket.sent.load(Ordering::Relaxed) <= 2);
    });
}

#[test]
fn a_writer_is_woken_when_there_is_room() {
    check(3, || {
        let stream = Stream::new(1);
        let (to_reader, to_writer) = run(&stream, &[2], &[2]);
        assert!(to_reader <= 2 && to_writer <= 2);
    });
}

/// Linux's side of an epoll set: an arrival at one of its sockets wakes one of those who sleep.
struct Epoll {
    has_news: Mutex<bool>,
    news: Condvar,
}

/// A set of streams.
struct Set {
    queue: Queue,
    links: Vec<Link>,
    streams: Vec<Arc<Stream>>,
    sleepers: AtomicU32,
    epoll: Epoll,
}

impl Set {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Queue::new(),
            links: (0..len).map(|_| Link::new()).collect(),
            streams: (0..len).map(|_| Stream::new(8)).collect(),
            sleepers: AtomicU32::new(0),
            epoll: Epoll {
                has_news: Mutex::new(false),
                news: Condvar::new(),
            },
        })
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(index as usize)
    }

    /// A write by the peer of one of the streams.
    fn write(&self, index: u32) {
        let stream = &self.streams[index as usize];
        let done = stream
            .ring
            .produce(&stream.stores, 1, |stretch| stretch.len);
        assert_eq!(done, Ok(1));
        let end = &stream.reader;
        let others = || {
            self.queue.put_after_fence(index, self.link(index).unwrap());
            self.sleepers.load(Ordering::Relaxed) != 0
        };
        let kick = || {
            end.socket.kick();
            self.wake_one();
        };
        end.bell.announce(&end.notifying, BYTES, others, kick);
    }

    fn wake_one(&self) {
        *self.epoll.has_news.lock().unwrap() = true;
        self.epoll.news.notify_one();
    }

    /// Edge-triggered, as the registrations of sockets with a ring have to be.
    fn sleep(&self) {
        let mut has_news = self.epoll.has_news.lock().unwrap();
        loop {
            while !*has_news {
                has_news = self.epoll.news.wait(has_news).unwrap();
            }
            *has_news = false;
            // Linux looks again at what it reports.
            if self.streams.iter().any(|s| s.reader.socket.arrived() > 0) {
                return;
            }
        }
    }

    /// One ready stream. Edge-triggered for the program: it reads what there is.
    fn wait(&self) -> u32 {
        loop {
            if let Some(index) = self.take_one() {
                return index;
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            loom::sync::atomic::fence(Ordering::SeqCst);
            if self.queue.is_empty() {
                self.sleep();
            }
            self.sleepers.fetch_sub(1, Ordering::Release);
            // Before the queue is taken: what is put in from here on kicks again.
            for stream in &self.streams {
                if stream.reader.socket.arrived() > 0 {
                    let _held = stream.claim.lock().unwrap();
                    let is_there = |_| !stream.ring.is_empty();
                    stream.reader.bell.quiet(&stream.reader.socket, is_there);
                }
            }
        }
    }

    fn take_one(&self) -> Option<u32> {
        let mut taken = self.queue.take(self.links.len(), |index| self.link(index));
        while let Some(index) = taken.next(|index| self.link(index)) {
            if !self.streams[index as usize].ring.is_empty() {
                let left_some = taken.put_back(&self.queue, |index| self.link(index));
                loom::sync::atomic::fence(Ordering::SeqCst);
                if left_some && self.sleepers.load(Ordering::Relaxed) != 0 {
                    // A change of a registration does this, when it finds the socket ready (which it is, for writing).
                    self.wake_one();
                }
                return Some(index);
            }
        }
        None
    }

    /// Reads until so many bytes have come.
    fn read_all(&self, mut want: usize) {
        while want > 0 {
            let index = self.wait();
            let stream = &self.streams[index as usize];
            want -= stream.read(want);
        }
    }
}

fn spawn_write(set: &Arc<Set>, indices: &'static [u32]) -> thread::JoinHandle<()> {
    let set = set.clone();
    thread::spawn(move || indices.iter().for_each(|index| set.write(*index)))
}

#[test]
fn a_set_wakes_its_sleeper_for_every_write() {
    check(3, || {
        let set = Set::new(1);
        let writer = spawn_write(&set, &[0, 0]);
        set.read_all(2);
        writer.join().unwrap();
        assert!(set.streams[0].reader.socket.sent.load(Ordering::Relaxed) <= 2);
    });
}

#[test]
fn a_set_wakes_its_sleeper_for_each_of_two_streams() {
    check(2, || {
        let set = Set::new(2);
        let writers = [spawn_write(&set, &[0]), spawn_write(&set, &[1])];
        set.read_all(2);
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
    });
}
