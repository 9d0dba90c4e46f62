//! The gateway role: Knative's ingress.
pub mod access_log;
pub mod route;
pub mod status;
