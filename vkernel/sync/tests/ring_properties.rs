//! Rings against a naive queue, against memory that an enemy writes, and between threads.
#![cfg(not(loom))]

use pegasus_sync::{Corrupt, Ring, Stores, Stretch};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An inline store and some buffers, far apart in one piece of memory.
struct Memory<const INLINE: usize, const BUFFER: usize> {
    bytes: Vec<AtomicU8>,
    /// 1 for a buffer in use.
    claimed: Vec<AtomicU32>,
    is_exhausted: AtomicBool,
}

const BUFFERS: usize = 3;

impl<const INLINE: usize, const BUFFER: usize> Memory<INLINE, BUFFER> {
    fn new() -> Self {
        let len = (INLINE + BUFFER) * (BUFFERS + 1) * 2;
        Self {
            bytes: (0..len).map(|_| AtomicU8::new(0)).collect(),
            claimed: (0..BUFFERS).map(|_| AtomicU32::new(0)).collect(),
            is_exhausted: AtomicBool::new(false),
        }
    }

    fn address(&self, offset: usize) -> *mut u8 {
        self.bytes[offset].as_ptr()
    }

    fn offset_of_buffer(number: usize) -> usize {
        (INLINE + BUFFER) * 2 * (number + 1)
    }

    /// The bytes of a stretch, which must lie in one store.
    fn bytes(&self, stretch: Stretch) -> &[AtomicU8] {
        let from = stretch.address as usize - self.address(0) as usize;
        let to = from + stretch.len;
        assert!(stretch.len > 0);
        let is_in_buffer = (0..BUFFERS).any(|number| {
            let base = Self::offset_of_buffer(number);
            from >= base && to <= base + BUFFER
        });
        assert!(to <= INLINE || is_in_buffer, "outside: {from}..{to}");
        &self.bytes[from..to]
    }

    fn buffers_in_use(&self) -> u32 {
        self.claimed.iter().map(|b| b.load(Ordering::SeqCst)).sum()
    }
}

impl<const INLINE: usize, const BUFFER: usize> Stores for Memory<INLINE, BUFFER> {
    const BUFFER_LEN: usize = BUFFER;

    fn inline(&self) -> (*mut u8, usize) {
        (self.address(0), INLINE)
    }

    fn claim_buffer(&self) -> Option<u32> {
        if self.is_exhausted.load(Ordering::SeqCst) {
            return None;
        }
        let free = |buffer: &AtomicU32| buffer.swap(1, Ordering::SeqCst) == 0;
        let number = self.claimed.iter().position(free)?;
        Some(number as u32)
    }

    fn release_buffer(&self, number: u32) {
        self.claimed[number as usize].store(0, Ordering::SeqCst);
    }

    fn buffer(&self, number: u32) -> Option<*mut u8> {
        let number = number as usize;
        (number < BUFFERS).then(|| self.address(Self::offset_of_buffer(number)))
    }
}

/// The byte at a position of every stream here.
fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

const INLINE: usize = 24;
const BUFFER: usize = 100;
type Small = Memory<INLINE, BUFFER>;

/// `copied_max`: so many bytes can be copied before a fault.
#[derive(Debug, Clone)]
enum Step {
    Produce {
        want: usize,
        copied_max: usize,
    },
    Consume {
        want: usize,
        copied_max: usize,
    },
    Peek {
        skip: usize,
        want: usize,
        copied_max: usize,
    },
    /// So many small writes, as much being read after each: an empty ring's buffer is given back.
    Chat {
        count: usize,
        len: usize,
    },
    Exhausted(bool),
    Dispose,
}

fn amount() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..=INLINE / 2,
        4 => 0..=BUFFER + INLINE,
        1 => Just(INLINE),
        1 => Just(BUFFER),
        1 => Just(usize::MAX),
    ]
}

fn copied_max() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(usize::MAX), 1 => 0..BUFFER]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (amount(), copied_max())
            .prop_map(|(want, copied_max)| Step::Produce { want, copied_max }),
        8 => (amount(), copied_max())
            .prop_map(|(want, copied_max)| Step::Consume { want, copied_max }),
        2 => (amount(), amount(), copied_max())
            .prop_map(|(skip, want, copied_max)| Step::Peek { skip, want, copied_max }),
        2 => (1..100usize, 1..=INLINE / 2).prop_map(|(count, len)| Step::Chat { count, len }),
        1 => any::<bool>().prop_map(Step::Exhausted),
    ]
}

/// A ring, and what should be in it.
struct Pair {
    ring: Ring,
    memory: Small,
    queue: VecDeque<u8>,
    written: u64,
    read: u64,
    buffer_from: u64,
}

impl Pair {
    fn new() -> Self {
        Self {
            ring: Ring::new(),
            memory: Small::new(),
            queue: VecDeque::new(),
            written: 0,
            read: 0,
            buffer_from: 0,
        }
    }

    fn room(&self) -> usize {
        if self.ring.has_buffer() {
            BUFFER - (self.written - self.buffer_from.max(self.read)) as usize
        } else {
            INLINE - self.queue.len()
        }
    }

    fn produce(&mut self, want: usize, copied_max: usize) {
        let had_buffer = self.ring.has_buffer();
        let mut budget = copied_max;
        let mut position = self.written;
        let done = self.ring.produce(&self.memory, want, |stretch| {
            let bytes = self.memory.bytes(stretch);
            let count = bytes.len().min(budget);
            for byte in &bytes[..count] {
                byte.store(byte_at(position), Ordering::Relaxed);
                position += 1;
            }
            budget -= count;
            count
        });
        let does_not_fit = want > INLINE - self.queue.len().min(INLINE);
        let is_exhausted = self.memory.is_exhausted.load(Ordering::SeqCst);
        if !had_buffer {
            assert_eq!(self.ring.has_buffer(), does_not_fit && !is_exhausted);
            self.buffer_from = self.written;
        }
        assert_eq!(done, Ok(want.min(copied_max).min(self.room())));
        for position in self.written..position {
            self.queue.push_back(byte_at(position));
        }
        self.written = position;
    }

    fn peek(&self, skip: usize, want: usize, copied_max: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        let done = self.ring.peek(&self.memory, skip, want, |stretch| {
            copy_out(self.memory.bytes(stretch), &mut seen, copied_max)
        });
        assert_eq!(done, Ok(seen.len()));
        let there = self.queue.len().saturating_sub(skip);
        assert_eq!(seen.len(), there.min(want).min(copied_max));
        seen
    }

    fn consume(&mut self, want: usize, copied_max: usize) {
        let expected = self.peek(0, want, copied_max);
        let mut seen = Vec::new();
        let done = self.ring.consume(&self.memory, want, |stretch| {
            copy_out(self.memory.bytes(stretch), &mut seen, copied_max)
        });
        assert_eq!(done, Ok(seen.len()));
        assert_eq!(seen, expected);
        assert!(self.queue.drain(..seen.len()).eq(seen.iter().copied()));
        self.read += seen.len() as u64;
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Produce { want, copied_max } => self.produce(want, copied_max),
            Step::Consume { want, copied_max } => self.consume(want, copied_max),
            Step::Peek {
                skip,
                want,
                copied_max,
            } => {
                let seen = self.peek(skip, want, copied_max);
                let there = self.queue.iter().skip(skip).take(seen.len());
                assert!(there.eq(&seen));
            }
            Step::Chat { count, len } => {
                let was_empty = self.queue.is_empty();
                for _ in 0..count {
                    self.produce(len, usize::MAX);
                    self.consume(len, usize::MAX);
                }
                assert!(!was_empty || count < 64 || !self.ring.has_buffer());
            }
            Step::Exhausted(is_exhausted) => {
                self.memory
                    .is_exhausted
                    .store(is_exhausted, Ordering::SeqCst);
            }
            Step::Dispose => self.ring.dispose(&self.memory),
        }
    }

    fn check(&self) {
        assert_eq!(self.ring.len(), self.queue.len());
        assert_eq!(self.ring.is_empty(), self.queue.is_empty());
        assert_eq!(self.ring.written(), self.written);
        assert_eq!(self.ring.read(), self.read);
        assert_eq!(self.ring.room(&self.memory), Ok(self.room()));
        let in_use = self.memory.buffers_in_use();
        assert_eq!(in_use, u32::from(self.ring.has_buffer()));
    }
}

fn copy_out(from: &[AtomicU8], to: &mut Vec<u8>, total_max: usize) -> usize {
    let count = from.len().min(total_max - to.len());
    to.extend(
        from[..count]
            .iter()
            .map(|byte| byte.load(Ordering::Relaxed)),
    );
    count
}

/// Where the fields lie.
#[derive(Debug, Clone, Copy)]
enum Field {
    Tail,
    BufferFrom,
    Buffer,
    SmallWrites,
    Head,
}

const FIELDS: [Field; 5] = [
    Field::Tail,
    Field::BufferFrom,
    Field::Buffer,
    Field::SmallWrites,
    Field::Head,
];

#[derive(Debug, Clone, Copy)]
struct Scribble {
    field: Field,
    value: u64,
}

fn scribble() -> impl Strategy<Value = Scribble> {
    let value = prop_oneof![
        Just(0),
        0..=BUFFERS as u64 + 1,
        0..400u64,
        any::<u64>(),
        (0..300u64).prop_map(|below| u64::MAX - below),
        (0..300u64).prop_map(|above| (1 << 63) - 150 + above),
    ];
    (prop::sample::select(&FIELDS), value).prop_map(|(field, value)| Scribble { field, value })
}

impl Scribble {
    fn apply(self, ring: &Ring) {
        let base = std::ptr::from_ref(ring).cast::<u8>();
        let (offset, is_wide) = match self.field {
            Field::Tail => (0, true),
            Field::BufferFrom => (8, true),
            Field::Buffer => (16, false),
            Field::SmallWrites => (20, false),
            Field::Head => (64, true),
        };
        let address = base.wrapping_add(offset).cast_mut();
        if is_wide {
            // SAFETY: an aligned atomic of this size lies there, in a ring that lives as long as this call.
            let field = unsafe { AtomicU64::from_ptr(address.cast()) };
            field.store(self.value, Ordering::SeqCst);
        } else {
            // SAFETY: as above.
            let field = unsafe { AtomicU32::from_ptr(address.cast()) };
            field.store(self.value as u32, Ordering::SeqCst);
        }
    }
}

/// Does one step while the fields are being written. Nothing is known of the result but its bounds.
fn step_among_enemies(ring: &Ring, memory: &Small, step: &Step, during: &[Scribble]) {
    let mut writes = during.iter();
    let mut copies = 0;
    let mut copy = |stretch: Stretch, budget: usize| {
        if let Some(write) = writes.next() {
            write.apply(ring);
        }
        copies += 1;
        assert!(copies <= 2 * (INLINE + BUFFER), "endless");
        memory.bytes(stretch).len().min(budget)
    };
    let check = |result: Result<usize, Corrupt>, want: usize| {
        let done = result.unwrap_or(0);
        assert!(done <= want.min(INLINE + BUFFER));
    };
    match *step {
        Step::Produce { want, copied_max } => {
            check(ring.produce(memory, want, |s| copy(s, copied_max)), want);
        }
        Step::Consume { want, copied_max } => {
            check(ring.consume(memory, want, |s| copy(s, copied_max)), want);
        }
        Step::Peek {
            skip,
            want,
            copied_max,
        } => check(ring.peek(memory, skip, want, |s| copy(s, copied_max)), want),
        Step::Chat { count, len } => {
            for _ in 0..count {
                let _ = ring.produce(memory, len, |s| memory.bytes(s).len());
                let _ = ring.consume(memory, len, |s| memory.bytes(s).len());
            }
        }
        Step::Exhausted(value) => memory.is_exhausted.store(value, Ordering::SeqCst),
        Step::Dispose => ring.dispose(memory),
    }
    let _ = (ring.len(), ring.is_empty(), ring.has_buffer());
    assert!(ring.room(memory).unwrap_or(0) <= BUFFER);
    let places = [ring.next_to_read(memory), ring.next_to_write(memory)];
    for address in places.into_iter().flatten() {
        // Within a store.
        memory.bytes(Stretch { address, len: 1 });
    }
}

fn hostile_step() -> impl Strategy<Value = (Vec<Scribble>, Step, Vec<Scribble>)> {
    let step = prop_oneof![20 => step(), 1 => Just(Step::Dispose)];
    let before = prop::collection::vec(scribble(), 0..3);
    let during = prop::collection::vec(scribble(), 0..3);
    (before, step, during)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn a_ring_is_a_queue(steps in prop::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step);
            pair.check();
        }
        pair.consume(usize::MAX, usize::MAX);
        pair.ring.dispose(&pair.memory);
        assert_eq!(pair.memory.buffers_in_use(), 0);
    }

    #[test]
    fn an_enemy_gets_nothing_but_wrong_bytes(steps in prop::collection::vec(hostile_step(), 1..60)) {
        let ring = Ring::new();
        let memory = Small::new();
        for (before, step, during) in &steps {
            before.iter().for_each(|write| write.apply(&ring));
            step_among_enemies(&ring, &memory, step, during);
        }
    }
}

/// Numbers for sizes: an xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

const STRESS_TIME: Duration = Duration::from_millis(1200);
/// On a machine that has other things to do.
const STRESS_TIME_MAX: Duration = Duration::from_secs(20);
const LARGE_BUFFER: usize = 4096;
type Large = Memory<256, LARGE_BUFFER>;

/// Writes for some time: small amounts, each waiting until all has been read, and large ones, in turns. Gives how many
/// bytes, and how often a buffer was attached.
fn write_for_long(ring: &Ring, memory: &Large) -> (u64, u64) {
    let mut random = Random(0x1234_5678_9abc_def1);
    let began = Instant::now();
    let (mut position, mut writes, mut growths) = (0, 0u64, 0);
    let is_to_go_on = |growths| {
        let is_long = began.elapsed() > STRESS_TIME;
        !is_long || growths < 3 && began.elapsed() < STRESS_TIME_MAX
    };
    while is_to_go_on(growths) {
        let is_chat = (writes >> 7).is_multiple_of(2);
        let want = 1 + random.below(if is_chat { 100 } else { 6000 });
        let is_faulty = random.below(8) == 0;
        let mut budget = if is_faulty { random.below(64) } else { want };
        let had_buffer = ring.has_buffer();
        let done = ring.produce(memory, want, |stretch| {
            let bytes = memory.bytes(stretch);
            let count = bytes.len().min(budget);
            for byte in &bytes[..count] {
                byte.store(byte_at(position), Ordering::Relaxed);
                position += 1;
            }
            budget -= count;
            count
        });
        assert!(done.is_ok());
        writes += 1;
        growths += u64::from(!had_buffer && ring.has_buffer());
        let is_to_wait = || is_chat && !ring.is_empty() || ring.room(memory) == Ok(0);
        while is_to_wait() && began.elapsed() < STRESS_TIME_MAX {
            std::thread::yield_now();
        }
    }
    (position, growths)
}

/// Reads until there is nothing more and `is_over`, checking each byte. Gives how many.
fn read_for_long(ring: &Ring, memory: &Large, is_over: &AtomicBool) -> u64 {
    let mut random = Random(0xfeed_5678_9abc_def3);
    let mut position = 0;
    loop {
        let was_over = is_over.load(Ordering::SeqCst);
        let want = 1 + random.below(3000);
        let done = ring.consume(memory, want, |stretch| {
            let bytes = memory.bytes(stretch);
            for byte in bytes {
                assert_eq!(byte.load(Ordering::Relaxed), byte_at(position));
                position += 1;
            }
            bytes.len()
        });
        match done {
            Ok(0) if was_over => return position,
            Ok(0) => std::thread::yield_now(),
            done => assert!(done.is_ok()),
        }
    }
}

#[test]
fn a_stream_between_two_threads_arrives_whole() {
    let memory = Large::new();
    let ring = Ring::new();
    let is_over = AtomicBool::new(false);
    let (written, growths, read) = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| read_for_long(&ring, &memory, &is_over));
        // Is neither side, and has no claim: what it is told must be possible all the same.
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                assert!(ring.room(&memory).is_ok_and(|room| room <= LARGE_BUFFER));
                assert!(ring.len() <= LARGE_BUFFER + 256);
                std::thread::yield_now();
            }
        });
        let (written, growths) = write_for_long(&ring, &memory);
        is_over.store(true, Ordering::SeqCst);
        (written, growths, consumer.join().expect("the consumer"))
    });
    assert_eq!(written, read);
    assert!(written > 100_000, "only {written} bytes");
    assert!(growths > 1, "grown {growths} times");
    ring.dispose(&memory);
    assert_eq!(memory.buffers_in_use(), 0);
}

#[test]
fn fields_may_change_at_any_moment() {
    let memory = Small::new();
    let ring = Ring::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(0x1_2345);
            while !is_over.load(Ordering::Relaxed) {
                let value = match random.below(3) {
                    0 => random.below(400) as u64,
                    1 => random.below(usize::MAX) as u64,
                    _ => u64::MAX - random.below(400) as u64,
                };
                let field = FIELDS[random.below(FIELDS.len())];
                Scribble { field, value }.apply(&ring);
            }
        });
        let mut random = Random(0x9_8765);
        let began = Instant::now();
        while began.elapsed() < STRESS_TIME / 3 {
            let want = 1 + random.below(200);
            let all = |stretch| memory.bytes(stretch).len();
            let _ = ring.produce(&memory, want, all);
            let _ = ring.consume(&memory, want, all);
            let _ = ring.peek(&memory, random.below(50), want, all);
            let _ = (ring.room(&memory), ring.len());
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn positions_past_the_last_number_are_an_error() {
    let memory = Small::new();
    let ring = Ring::new();
    for field in [Field::Tail, Field::Head] {
        let value = u64::MAX - 3;
        Scribble { field, value }.apply(&ring);
    }
    assert_eq!(ring.produce(&memory, 8, |s| s.len), Ok(8));
    assert_eq!(ring.produce(&memory, 8, |s| s.len), Err(Corrupt));
    assert_eq!(ring.consume(&memory, 8, |s| s.len), Err(Corrupt));
    assert_eq!(ring.room(&memory), Err(Corrupt));
}
