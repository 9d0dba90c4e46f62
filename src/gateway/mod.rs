//! The gateway role: Knative's ingress.
pub mod access_log;
pub mod backends;
pub mod config;
pub mod kourier;
pub mod objects;
pub mod route;
pub mod status;
