//! The whole chain on one machine: a sample application, certificates, the queue role and the activator that wakes it,
//! for a first look and for `local --check`. Neither control nor data side: it starts this executable as a user would.
pub mod app;
pub mod autoscaler;
pub mod check;
pub mod client;
pub mod pki;
pub mod process;
pub mod report;
pub mod rotate;
pub mod run;
pub mod topology;
pub mod wake;
