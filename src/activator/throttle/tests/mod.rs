//! Tests of the whole throttle: any order of events against an obvious model, and the rules one by one.
#![allow(clippy::unwrap_used)]

mod handle;
mod model;
mod orders;
mod rules;
mod spread;

use std::net::SocketAddr;

/// The `n`-th address of the tests.
fn pod(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8012))
}
