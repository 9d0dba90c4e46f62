//! Tests of the prober: the schedule in a simulated network and time, the rest with real sockets.
#![allow(clippy::unwrap_used)]

mod network;
mod schedule;
mod sockets;
