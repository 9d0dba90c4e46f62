//! Logs, metrics and traces; no sockets here (`control` sends and serves what is made here).
//!
//! Control side and data side write logs ([`log`]) through a non-blocking [`writer`]: a reader of stdout that stalls
//! costs lines, never requests; so does the [`request_log`]. Metrics are kept per worker ([`histogram`], [`series`]), what
//! is rare together ([`causes`]), and summed when somebody asks ([`registry`]); the spans of [`trace`] wait in a queue for the control side, and [`otlp`]
//! makes messages of both. What is on and where it goes comes from [`observability`].

pub mod causes;
pub(crate) mod go_format;
pub mod histogram;
pub(crate) mod json;
pub mod log;
pub mod observability;
pub mod otlp;
pub(crate) mod process;
pub mod registry;
pub mod request_log;
pub mod series;
pub mod trace;
pub mod writer;

/// The commit that this binary was built from, if the build knew it (`LOCKKEEPER_COMMIT` at compile time).
pub fn commit() -> Option<&'static str> {
    option_env!("LOCKKEEPER_COMMIT").filter(|c| !c.is_empty())
}
