//! From bytes to plans: how a program is laid out in memory, what its first stack looks like, and
//! how a `syscall` instruction becomes a jump.
//!
//! Everything here is a pure function. The caller reads the bytes (of a file, of a code page) and
//! carries the plan out (maps, copies, patches); this crate decides and checks.
//!
//! * [`elf`] – ELF headers to a list of mapping steps, as Linux's `binfmt_elf` would map them.
//! * [`script`] – the `#!` line, as Linux's `binfmt_script` reads it.
//! * [`stack`] – argv, envp and the auxiliary vector as the bytes of the initial stack.
//! * [`code`] – which `syscall` sites can be rewritten, and to what bytes.
//!
//! Neighbours: `vkernel` and `runtime` call it; it calls nobody.
//!
//! It never performs I/O, never reads or writes memory other than its arguments and its results,
//! keeps no state, and does not panic on any input.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod code;
pub mod elf;
pub mod script;
pub mod stack;

mod errno;
