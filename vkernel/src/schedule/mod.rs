//! Running threads on workers, where a wait is a switch in user space.
//!
//! Every thread has a *home task*, the kernel task that the container knows it by: it has the container's namespaces, credentials,
//! descriptors and limits, gets its signals, and makes its calls. A thread that keeps waiting for what other threads are about to
//! do, and has one CPU for all of them, or (switched off, see [`crowd`]) several that are not enough for all, goes *away*: a
//! [`worker`], a task of the instance confined to one CPU, runs it in turns with others, and the home task sleeps ([`away`]). The
//! thread comes home by itself before it makes a call that depends on which task makes it; and it is sent home
//!
//! * when a signal or a doorbell is pending, which Linux gives to the home task;
//! * when its wait takes long, or nobody on the worker has anything to do: then it sleeps in Linux;
//! * after a few milliseconds without a wait: who computes is Linux's to schedule;
//! * and every [`away::LEASE_CYCLES`] in any case, so that what has been done to the home task meanwhile (freezer, SIGSTOP, affinity,
//!   priority) takes effect.
//!
//! Workers poll: a waiting thread looks whether it can go on, and passes the CPU to the next one on its worker. Nobody has to be told to
//! wake it, so all waits work as they do on a home task.
//!
//! A worker that is killed itself takes the processes of its threads with it: Linux clears a word in its record, which their home tasks
//! look at once a second while they sleep.
//!
//! **Kills.** A home task can be killed at any moment; its threads' memory may go only when no worker is using it. Whoever
//! reclaims that memory marks the process's record and waits until each worker has gone through all its threads once; a worker looks at the mark
//! before it runs a thread. Workers belong to the instance and are not killed with a container.
//!
//! **Memory order.** A thread is published to a worker by the inbox, after its context is complete, and to its home task by
//! [`away::Away::place`], after the worker has left its stack: both release and acquire.

pub mod away;
pub mod cpu_time;
pub mod crowd;
mod monitor;
mod worker;

pub use away::{Away, note_pending};
pub use monitor::begin as begin_monitor;
