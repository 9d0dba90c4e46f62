//! lockkeeper: the data plane of Knative Serving in one binary, a role for each place in the path of a request.
//!
//! The modules below stand in the order of their dependencies: a module may use those above it, never those below
//! (`tests/architecture.rs` holds them to it). A request enters through [`net`] and [`worker`], becomes HTTP in
//! [`http`] and meets a role's behaviour in [`queue`]; a certificate enters through [`tls`].
#![deny(unsafe_code)]

pub mod config;
pub mod lifecycle;
pub mod memory;
pub mod shards;
pub mod telemetry;

pub mod net;
pub mod tls;

pub mod kube;

pub mod worker;

pub mod http;

pub mod control;
pub mod knative;

pub mod activator;
pub mod gateway;
pub mod queue;

pub mod certs;
pub mod local;

pub mod cli;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
