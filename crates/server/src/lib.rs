//! The control plane: HTTP API, store, one actor per cluster, Kubernetes and machine clients.
//!
//! [`app`](crate::app) alone names concrete types; every other module speaks through traits.

mod addresses;
pub mod agents;
pub mod app;
pub mod config;
pub mod http;
pub mod kube;
pub mod machines;
pub mod records;
pub mod secrets;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod windows;
