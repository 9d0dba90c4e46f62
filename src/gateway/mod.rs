//! The gateway role: Knative's ingress.
pub mod route;
pub mod status;
