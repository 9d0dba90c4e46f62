//! The activator: holds requests while their revision has no pod that can take them, and sends them on when it has.

pub mod autoscaler;
mod certificates;
pub mod config;
mod config_maps;
pub mod directory;
pub mod drain;
pub mod encryption;
pub mod health;
pub mod layer;
pub mod metrics;
pub mod probing;
pub mod revisions;
pub mod run;
pub mod serve;
pub mod stack;
pub mod statistics;
pub mod throttle;
pub mod upstream;
pub mod worker;

pub use run::run;
