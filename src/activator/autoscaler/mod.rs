//! The link to the autoscaler: which revisions have requests, told at once when one wakes up and each second after.
//!
//! Control side. Workers poke through a channel; [`report::Reporter`] keeps what was last said of each revision,
//! [`link::run`] keeps the WebSocket. While the link is down reports go on being made, and when it is back the last
//! value of each revision is sent at once, so that an autoscaler that restarted knows what its predecessor knew.
//! Source: `knative.dev/serving/pkg/activator/{stat_reporter,handler/concurrency_reporter}.go`,
//! `knative.dev/pkg/websocket/connection.go`.

pub mod link;
pub mod report;

pub use link::Status;
pub use report::{Poke, Reporter};
