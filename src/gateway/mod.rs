//! The gateway role: Knative's ingress.
pub mod access_log;
pub mod backends;
pub mod certificates;
pub mod config;
pub mod edge;
pub mod kourier;
pub mod listeners;
pub mod live;
pub mod objects;
pub mod route;
pub mod serve;
pub mod state;
pub mod status;
