//! The roles' vocabulary: names, formats and objects that Knative's components share.
pub mod certificates;
pub mod cluster_domain;
pub mod config_map;
pub mod endpoints;
#[cfg(test)]
mod footprint;
pub mod ingress;
pub mod logging;
pub mod names;
pub mod network;
pub mod observability;
pub mod revision;
pub mod secret;
pub mod service;
pub mod stat;
