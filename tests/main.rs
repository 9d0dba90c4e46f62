//! One test binary for all of lockkeeper: one link, one harness. It starts the real executable on free ports.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test stops at the first surprise, and exports nothing")]
#![allow(clippy::needless_pass_by_value, reason = "builders read better with values")]

mod activator;
mod architecture;
mod certs;
mod deploy;
mod gateway;
mod harness;
mod kube;
mod local;
mod mistakes;
mod queue;
mod support;
