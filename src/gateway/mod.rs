//! The gateway role: Knative's ingress, in place of net-kourier's controller and its Envoy.
//!
//! Control side: [`control`] feeds [`state`] with Kubernetes objects ([`objects`]) and publishes what follows in
//! [`live`]; [`status`] asks the replicas and writes how far each object has come, on the one that leads ([`leader`]). Data side: [`serve`] takes
//! connections on the [`listeners`] and sends requests through [`edge`].
pub mod access_log;
pub mod admin;
pub mod authz;
pub mod backends;
pub mod certificates;
pub mod config;
pub mod config_maps;
pub mod control;
pub mod drain;
pub mod dump;
pub mod edge;
pub mod encryption;
pub mod events;
pub mod kourier;
pub mod leader;
pub mod listeners;
pub mod live;
pub mod objects;
pub mod route;
pub mod run;
pub mod serve;
pub mod state;
pub mod status;
pub mod tls_settings;
pub mod traces;

pub use run::run;
