//! The host side of a reset: what the controller and `evenkeel-node` say to each other
//! ([`protocol`]), and what the binary does on the host (everything else).
//!
//! Deliberately absent: async, network, Kubernetes, the CCE API and every decision about *which*
//! node is reset. Linux only; nothing depends on the processor.

pub mod protocol;
