//! The loads: which containers, which programs, and how their answers are read.

pub mod http;
pub mod memcached;
pub mod neighbours;
pub mod redis;
pub mod sockets;
pub mod threads;
