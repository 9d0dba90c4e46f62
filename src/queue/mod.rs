//! The queue role: the sidecar in each revision's pod.
pub mod breaker;
pub mod config;
pub mod metrics;
pub mod readiness;
pub mod statistics;
