//! The host side of a reset: what the controller and `evenkeel-node` say to each other
//! ([`protocol`]), and what the binary does on the host (everything else; start at [`verbs`]).
//!
//! An order runs at most once per id. [`journal`] is the truth about it; [`runner`] is the
//! detached process that carries it out; [`accept`] decides whether it may begin.
//!
//! An SSH session or the [`agent`] brings the orders; both run the same [`verbs`].
//!
//! Deliberately absent: async, listening on the network, Kubernetes, the CCE API and every decision about *which*
//! node is reset. Linux only; nothing depends on the processor.

pub mod accept;
pub mod agent;
pub mod host;
pub mod journal;
pub mod leftovers;
pub mod login;
pub mod output;
pub mod protocol;
pub mod prove;
pub mod runner;
pub mod script;
pub mod sshd;
pub mod store;
pub mod sweep;
pub mod verbs;
