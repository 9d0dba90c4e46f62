//! The activator's behaviours, a file each; `stack.rs` puts them in order.

pub mod activate;
pub mod observe;
pub mod probe;
pub mod route;
