//! Names and formats that Knative's components share.
pub mod ingress;
pub mod names;
pub mod stat;
