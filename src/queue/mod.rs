//! The queue role: the sidecar in each revision's pod.
pub mod metrics;
pub mod breaker;
pub mod config;
pub mod readiness;
pub mod statistics;
