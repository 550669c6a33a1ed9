//! What can be seen of all that runs: for `pegasus ss`, `top`, `metrics` and `events`.
//!
//! [`instances`] finds the address spaces of this host and who is in them; [`links`] says which containers a
//! connection over rings joins; [`sample`] counts what each container has, [`ledger`] what it has done since; the
//! others make something to read of that: [`board`] a table, [`exposition`] Prometheus' text, which [`http`] hands out.

pub mod board;
pub mod cpu;
pub mod exposition;
pub mod http;
pub mod instances;
pub mod ledger;
pub mod links;
pub mod sample;
pub mod screen;
