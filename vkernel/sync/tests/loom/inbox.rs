//! An inbox, its owner, and two who put something in.

use super::check;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use pegasus_sync::Inbox;
use pegasus_sync::atomic::{AtomicU32, Ordering};

/// Sleeping on a word as futex(2) has it.
#[derive(Default)]
struct Futex {
    lock: Mutex<()>,
    woken: Condvar,
}

impl Futex {
    fn wait(&self, word: &AtomicU32) {
        let held = self.lock.lock().unwrap();
        if word.load(Ordering::SeqCst) == 1 {
            drop(self.woken.wait(held).unwrap());
        }
    }

    fn wake(&self) {
        let _held = self.lock.lock().unwrap();
        self.woken.notify_all();
    }
}

/// Two tasks put something into an inbox; its owner, which sleeps in between, gets both, once.
#[test]
fn an_inbox_wakes_its_owner_for_each_value() {
    check(3, || {
        let shared = Arc::new((Inbox::<2>::new(), Futex::default()));
        let givers: Vec<_> = [1, 2]
            .into_iter()
            .map(|value| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (inbox, futex) = &*shared;
                    assert!(inbox.offer(value, |_| futex.wake()));
                })
            })
            .collect();
        let (inbox, futex) = &*shared;
        let mut sum = 0;
        while sum != 3 {
            let before = sum;
            inbox.take(|value| sum += value);
            if sum == before {
                inbox.wait(|word| futex.wait(word));
            }
        }
        givers.into_iter().for_each(|giver| giver.join().unwrap());
    });
}
