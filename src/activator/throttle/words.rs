//! What a throttle is told and what it says: keys, answers, wishes and numbers.

use std::net::SocketAddr;

use super::pod::Pace;

/// A request's right to run on a pod, or on the cluster IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    /// The pod's index, or [`CLUSTER`].
    pub(super) target: u32,
    /// The epoch of what was known of it when the slot was given.
    pub(super) epoch: u32,
}

impl SlotKey {
    /// The probe that found what the slot relies on.
    #[must_use]
    pub fn probe(self) -> ProbeKey {
        ProbeKey { target: self.target, epoch: self.epoch }
    }
}

/// What a probe is for: an address in one epoch of what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeKey {
    pub(super) target: u32,
    pub(super) epoch: u32,
}

impl ProbeKey {
    /// Any key.
    #[cfg(test)]
    pub(in super::super) fn of(target: u32) -> Self {
        Self { target, epoch: 0 }
    }
}

/// The index that stands for the cluster IP.
pub(super) const CLUSTER: u32 = u32::MAX;

/// A waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) u32);

/// What a request finds when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It may go.
    Go(SlotKey),
    /// It must wait.
    Wait(Ticket),
    /// Too many wait already.
    Full,
    /// The revision is gone.
    Gone,
}

/// What the prober should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Probe this address until told otherwise; when it is probed already, go on at this pace.
    Probe {
        /// Whose results these will be.
        key: ProbeKey,
        /// Where to.
        address: SocketAddr,
        /// How soon.
        pace: Pace,
    },
    /// No longer needed.
    Stop {
        /// As it was asked for.
        key: ProbeKey,
    },
    /// A request has begun to wait: probe all addresses of this revision now.
    Hurry,
}

/// What a full recomputation found to differ from what was kept up to date step by step: always a defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another set of pods, or the cluster IP, should be in use.
    Target,
    /// A pod was taken for ours, another's or not usable, and is not.
    Place(SocketAddr),
    /// A pod's number of running requests.
    Running(SocketAddr),
    /// A probe should or should not be running.
    Probe(SocketAddr),
    /// Requests waited beside free capacity; this many could go.
    Waiting(usize),
}

/// Numbers for metrics and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that hold a slot.
    pub running: usize,
    /// Addresses that Kubernetes lists.
    pub listed: usize,
    /// Pods that may be used, ours and others'.
    pub usable: usize,
    /// Pods of our slice among them.
    pub own: usize,
    /// Whether requests go through the cluster IP.
    pub fallback: bool,
}
