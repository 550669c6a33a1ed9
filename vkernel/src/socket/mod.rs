//! TCP sockets that the vkernel knows, and the connections between them that run in memory.
//!
//! Every socket is a real one of Linux's, and Linux carries out every handshake: addresses, ports, backlogs, filters and
//! policies are its own. When both ends of an established connection turn out to be in the group
//! ([`directory`]), they are *linked*: each end goes over from Linux's stream to a ring ([`connection`]), at a position that it
//! publishes, so that not a byte is lost or doubled. From then on Linux's connection carries only single
//! bytes that wake a peer asleep in the kernel ([`wake`]), and at last the end of the connection, which is always
//! Linux's own: a killed process needs nobody to clean up for it.
//!
//! ```text
//! Fresh ──first call on a connected socket──► Searching ──both found──► Linked ──peer gone──► Linux's again
//!                                                │ a few calls without a peer
//!                                                └──────► Kernel, for good
//! ```
//!
//! * [`descriptors`]: numbers to sockets. [`pools`]: the records. [`lifecycle`]: making, closing, going back. [`arrivals`]: who accepts is told.
//! * [`send`], [`receive`]: moving bytes. [`readiness`]: what poll(2) would say. [`wait`]: spinning, then sleeping.

pub mod arrivals;
pub mod connection;
pub mod descriptors;
pub mod directory;
pub mod lifecycle;
pub mod pools;
pub mod readiness;
pub mod receive;
pub mod returning;
pub mod segments;
pub mod send;
pub mod wait;
pub mod wake;
