//! The means that cases use: processes with deadlines, the engine's client, the case table and the
//! runner. Nothing in here knows what is being tested.

pub mod case;
pub mod command;
pub mod container;
pub mod context;
pub mod host;
pub mod inspect;
pub mod kcmp;
pub mod machine;
pub mod runner;
pub mod site;
