//! The whole chain on one machine: gateway, activator, queue and a sample application, each a process of its own, with
//! certificates made for them; for a first look and for `local --check`. Neither control nor data side: it starts this
//! executable as a user would.
pub mod app;
pub mod autoscaler;
pub mod chain;
pub mod check;
pub mod client;
pub mod front;
pub mod manifests;
pub mod pki;
pub mod process;
pub mod report;
pub mod rotate;
pub mod rotate_ca;
pub mod run;
pub mod topology;
pub mod wake;
