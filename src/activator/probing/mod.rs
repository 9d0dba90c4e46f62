//! Finds out which pods can take requests, the moment they can.
//!
//! A revision's throttle says which addresses it wants probed ([`super::throttle::Wanted`]); [`run`] probes them and
//! tells it what was found. Each pod is probed on its own and each result is acted on as it comes, so no pod and no
//! revision waits for another. `schedule` decides what is probed when, without I/O or clock; `attempt` is one probe.
//!
//! It has a thread of its own: the control side may be busy with a large answer of the API server at the very moment
//! in which a pod becomes able to answer. The socket of a probe that passed is handed to the throttle, and the worker
//! that sends the first request on takes it from there.
//! Source: `knative.dev/serving/pkg/activator/net/revision_backends.go`, which probes all pods of a revision in rounds.

mod attempt;
mod pace;
mod prober;
mod schedule;
#[cfg(test)]
mod tests;

pub use prober::{Counters, Settings, run, start};
