//! Start, readiness, drain and shutdown.

pub mod drain;
