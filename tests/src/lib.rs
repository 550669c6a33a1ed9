//! The end-to-end suite of Pegasus.
//!
//! Every case drives a real Docker Engine as a user would and judges what a user sees: output, exit
//! status, `/proc` from the host. Where Linux's behaviour is the standard, the same container runs
//! under runc in the same run and the two are compared, so that no expectation has to be written
//! down twice.
//!
//! [`harness`] holds the means (engine client, deadlines, case table, runner), [`cases`] what is
//! tested, one theme per module, and `programs/` the sources of the programs that run inside
//! containers. [`conformance`] runs suites written by others. `cargo xtask test` prepares engine and images and then calls [`run`].
#![deny(unsafe_code)]

pub mod cases;
pub mod conformance;
pub mod harness;

pub use harness::runner::{Options, Summary, run};
pub use harness::site::Site;
