//! epoll(7) sets that have TCP sockets in them.
//!
//! Linux's set stays the one that sleeps, and knows all other descriptors. A socket's membership is an *item* here: Linux's
//! registration of it carries the item's number instead of the program's data, and once the
//! socket runs over rings it asks for wake-up bytes and the peer's end only. Whoever changes a ring puts
//! its items on the set's queue ([`set`]); epoll_wait(2) takes them from there, as Linux takes its ready list: what
//! is not ready any more is dropped, what is level-triggered and still ready is queued again ([`wait`]). So a
//! wait costs nothing for idle members.
//!
//! **Bound.** A busy set looks at Linux's set at least every [`wait::LOOK_AT_KERNEL_CYCLES`] (25 to 50 µs), or with every
//! epoll_wait(2) if those come more rarely.

pub mod control;
pub mod set;
pub mod wait;
