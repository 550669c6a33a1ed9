//! Bells between threads, on the CPU's own atomics: what the models cannot show.
#![cfg(not(loom))]

use pegasus_sync::{Bell, Kicks, Wanted};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const STRESS_TIME: Duration = Duration::from_millis(800);
/// Nobody sleeps so long but for a lost wake-up.
const FOREVER: Duration = Duration::from_secs(20);
const BYTES: Wanted = Wanted {
    bytes: true,
    room: false,
};

/// Linux's side: kicks that have arrived.
struct Socket {
    arrived: Mutex<usize>,
    arrival: Condvar,
}

impl Socket {
    fn kick(&self) {
        *self.arrived.lock().expect("lock") += 1;
        self.arrival.notify_all();
    }

    fn sleep(&self) {
        let arrived = self.arrived.lock().expect("lock");
        let (_arrived, timeout) = self
            .arrival
            .wait_timeout_while(arrived, FOREVER, |arrived| *arrived == 0)
            .expect("lock");
        assert!(!timeout.timed_out(), "a wake-up was lost");
    }
}

impl Kicks for Socket {
    fn arrived(&self) -> usize {
        *self.arrived.lock().expect("lock")
    }

    fn take(&self, number: usize) {
        *self.arrived.lock().expect("lock") -= number;
    }
}

/// Work that one thread makes and two do, one piece at a time, sleeping when there is none.
struct Work {
    made: AtomicU64,
    done: AtomicU64,
    is_over: AtomicBool,
    claim: Mutex<()>,
    bell: Bell,
    notifying: AtomicU32,
    socket: Socket,
}

impl Work {
    fn is_there(&self) -> bool {
        let done = self.done.load(Ordering::Acquire);
        self.made.load(Ordering::Acquire) != done || self.is_over.load(Ordering::Acquire)
    }

    fn announce(&self) {
        let kick = || self.socket.kick();
        self.bell.announce(&self.notifying, BYTES, || false, kick);
    }

    /// Gives how often it slept.
    fn do_all(&self) -> u64 {
        let mut sleeps = 0;
        loop {
            let quiet = || {
                let _held = self.claim.lock().expect("lock");
                self.bell.quiet(&self.socket, |_| self.is_there());
            };
            let sleep = || {
                sleeps += 1;
                self.socket.sleep();
                true
            };
            self.bell.wait(BYTES, || self.is_there(), quiet, sleep);
            let _held = self.claim.lock().expect("lock");
            let done = self.done.load(Ordering::Acquire);
            if self.made.load(Ordering::Acquire) != done {
                self.done.store(done + 1, Ordering::Release);
            } else if self.is_over.load(Ordering::Acquire) {
                return sleeps;
            }
        }
    }
}

#[test]
fn no_sleeper_is_forgotten() {
    let work = Work {
        made: AtomicU64::new(0),
        done: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        claim: Mutex::new(()),
        bell: Bell::new(),
        notifying: AtomicU32::new(0),
        socket: Socket {
            arrived: Mutex::new(0),
            arrival: Condvar::new(),
        },
    };
    let sleeps = std::thread::scope(|scope| {
        let sleepers = [(); 2].map(|()| scope.spawn(|| work.do_all()));
        let began = Instant::now();
        let mut made = 0u64;
        while began.elapsed() < STRESS_TIME {
            made += 1 + made % 2;
            work.made.store(made, Ordering::Release);
            work.announce();
            // Mostly one after the other, so that the two sides meet where one falls asleep.
            while !made.is_multiple_of(16) && work.done.load(Ordering::Acquire) != made {
                assert!(
                    began.elapsed() < STRESS_TIME + FOREVER,
                    "a wake-up was lost"
                );
                std::hint::spin_loop();
            }
        }
        work.is_over.store(true, Ordering::Release);
        work.announce();
        sleepers.map(|sleeper| sleeper.join().expect("a sleeper"))
    });
    assert_eq!(work.made.into_inner(), work.done.into_inner());
    assert!(sleeps.iter().sum::<u64>() > 10, "{sleeps:?} sleeps");
}
