//! The activator: holds requests while their revision has no pod that can take them, and sends them on when it has.

pub mod autoscaler;
pub mod config;
pub mod probing;
pub mod statistics;
pub mod throttle;
