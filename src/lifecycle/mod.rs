//! Start, readiness, drain and shutdown.

pub mod drain;
pub mod signals;
