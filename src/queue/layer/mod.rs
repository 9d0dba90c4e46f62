//! The queue's behaviours, a file each; `stack.rs` puts them in order.

pub mod concurrency;
pub mod forwarded;
pub mod marks;
pub mod observe;
pub mod probe;
pub mod strict;
