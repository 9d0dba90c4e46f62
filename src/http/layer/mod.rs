//! Behaviours that several roles have in common, a file each.

pub mod in_flight;
pub mod timeouts;
