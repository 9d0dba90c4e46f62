//! The queue role: the sidecar in each revision's pod, in place of Knative's queue-proxy.
//!
//! [`run`] starts it; `stack` has the order of its behaviours.

pub mod admin;
pub mod breaker;
mod certificates;
pub mod config;
pub mod connections;
pub mod drain;
pub mod layer;
pub mod metrics;
pub mod readiness;
pub mod run;
pub mod serve;
pub mod stack;
pub mod statistics;

pub use run::run;
