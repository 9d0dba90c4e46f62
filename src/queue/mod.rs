//! The queue role: the sidecar in each revision's pod.
pub mod metrics;
