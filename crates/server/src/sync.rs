//! The actor of a cluster and the ports through which it sees and acts.

pub mod board;
pub mod ports;
