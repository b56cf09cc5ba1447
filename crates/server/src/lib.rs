//! The control plane: HTTP API, store, one actor per cluster, Kubernetes and machine clients.
//!
//! [`app`](crate::app) alone names concrete types; every other module speaks through traits.

pub mod http;
pub mod secrets;
pub mod kube;
pub mod store;
pub mod machines;
pub mod records;
pub mod sync;
pub mod app;
pub mod config;
pub mod telemetry;
