//! Which request may go to which pod, and which must wait: one owner of the truth for each revision.
//!
//! [`Throttle`] is a state machine without I/O, clock or threads: the control side tells it what Kubernetes lists and
//! what probes found, the data side what arrives, ends and fails; it says which pods are usable, which waiting requests
//! may go, and what should be probed. [`Revision`] is the handle that workers and the control side share.
//!
//! Rules that hold after every input: no request waits beside free capacity; no pod runs more than it may; the one that
//! waited longest goes first; usable pods, slices and wanted probes are functions of the inputs, which
//! [`Throttle::resync`] computes again from nothing and compares.
//! Source: `knative.dev/serving/pkg/activator/net/{throttler,lb_policy,revision_backends}.go`; where these rules are
//! stricter than Go's it is said beside them.

mod assign;
mod balance;
mod budget;
mod pod;
mod revision;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod waiting;
mod waking;
mod words;

pub use assign::Activators;
pub use budget::Budget;
pub use pod::{Failure, Outcome, Pace};
pub use revision::{Command, Entry, Refused, Revision, Slot, Wait, WeakRevision};
pub use rules::{Choice, MeshMode, Policy, Rules, Slicing};
pub use state::Throttle;
pub use waking::{ColdStart, Woke};
pub use words::{Arrived, Counts, Difference, ProbeKey, SlotKey, Ticket, Wanted};
