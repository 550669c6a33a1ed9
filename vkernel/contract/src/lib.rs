//! What the `pegasus` program and the vkernel image agree on.
//!
//! The two are linked separately (the image is freestanding, at a fixed address), so everything
//! one reads of the other goes through the `repr(C)` types and constants of this crate: where
//! things are mapped ([`layout`]), how the image is entered ([`boot`]) and the records in the
//! shared heap that a host tool may read ([`record`]).
//!
//! This crate holds no behaviour beyond address arithmetic. A change to any type here is a change of
//! [`CONTRACT_VERSION`].
#![no_std]
#![forbid(unsafe_code)]

pub mod anchor;
pub mod boot;
pub mod layout;
pub mod network;
pub mod record;
pub mod schedule;
pub mod socket;

/// Checked by both sides at start; they are built together, so a mismatch is a build error.
pub const CONTRACT_VERSION: u32 = 7;
