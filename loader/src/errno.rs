//! The Linux error numbers that this crate's errors translate to.
//!
//! Neighbours: `elf`, `script` and `stack` each have an `errno()` that returns one of these. Values
//! are those of `asm-generic/errno-base.h` and `asm-generic/errno.h`, positive.
//!
//! Never holds numbers that nothing here returns.

/// Input/output error: the kernel's answer to a short read of an interpreter.
pub const EIO: i32 = 5;
/// Argument list too long.
pub const E2BIG: i32 = 7;
/// Exec format error.
pub const ENOEXEC: i32 = 8;
/// Cannot allocate memory: also the kernel's answer to mapping beyond the user address space.
pub const ENOMEM: i32 = 12;
/// Permission denied.
pub const EACCES: i32 = 13;
/// Invalid argument.
pub const EINVAL: i32 = 22;
/// Accessing a corrupted shared library: the kernel's answer to a bad ELF interpreter.
pub const ELIBBAD: i32 = 80;
