//! The queue role: the sidecar in each revision's pod, in place of Knative's queue-proxy.
//!
//! [`run`] starts it; `stack` has the order of its behaviours.

mod admin;
pub mod breaker;
pub mod config;
mod drain;
mod layer;
pub mod metrics;
pub mod readiness;
mod run;
mod serve;
mod stack;
pub mod statistics;

pub use run::run;
