//! What is known of one address, and what follows from it: may it be used, should it be probed.

use std::net::SocketAddr;

use super::rules::{MeshMode, Rules};
use super::words::{ProbeKey, Wanted};

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The queue answered that it is ready.
    Passed,
    /// No answer, or 502 or 503: a mesh in between could have caused it, as could a pod that is not there yet.
    Silent,
    /// Any other answer. It proves that there is no mesh in between.
    Answered,
}

/// Why a request could not be handed to a pod; in either case no byte of it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Refused, reset or timed out while connecting.
    Unreachable,
    /// The TLS handshake failed or its certificate was not the expected one. Waiting seldom helps, so such a pod is
    /// still used when there is no other: the caller learns the reason.
    Tls,
}

/// How soon the next probe follows a failed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once, then after short pauses.
    Usual,
    /// As usual, then ever more seldom, up to 30 s: requests go through the cluster IP meanwhile.
    Fallback,
    /// First after 100 ms, twice as long for each strike, up to 5 s: a request could not be handed to it.
    Aside {
        /// How often that has happened in a row, from 1.
        strikes: u8,
    },
}

/// Where Kubernetes lists an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Ready,
    NotReady,
    /// Nowhere any more, but requests still run on it.
    Gone,
}

/// How far an address may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Usable {
    No,
    /// Only while there is no better one.
    LastResort,
    Yes,
}

/// What our own probes and requests found of an address.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// Changes when what was known no longer counts; results of older epochs are ignored.
    pub(super) epoch: u32,
    pub(super) passed: bool,
    /// The last failed probe of this epoch.
    pub(super) failed: Option<Outcome>,
    pub(super) aside: Option<Failure>,
    /// Failures in a row, over epochs.
    pub(super) strikes: u8,
    /// What the prober was last asked for, and in which epoch.
    pub(super) asked: Option<(u32, Pace)>,
}

impl Health {
    pub(super) fn new(epoch: u32) -> Self {
        Self { epoch, passed: false, failed: None, aside: None, strikes: 0, asked: None }
    }

    /// Forgets what probes found.
    pub(super) fn renew(&mut self, epoch: u32) {
        *self = Self { strikes: self.strikes, asked: self.asked, ..Self::new(epoch) };
    }

    /// Puts the address aside until it passes a probe.
    pub(super) fn put_aside(&mut self, epoch: u32, why: Failure) {
        let passed = self.passed && why == Failure::Tls;
        self.renew(epoch);
        self.passed = passed;
        self.aside = Some(why);
        self.strikes = self.strikes.saturating_add(1);
    }

    /// Asks the prober for what it was not asked yet.
    pub(super) fn ask(&mut self, target: u32, address: SocketAddr, pace: Option<Pace>, wanted: &mut Vec<Wanted>) {
        let asking = pace.map(|pace| (self.epoch, pace));
        let asked = std::mem::replace(&mut self.asked, asking);
        if asked == asking {
            return;
        }
        if let Some((epoch, _)) = asked
            && asking.is_none_or(|(new, _)| new != epoch)
        {
            wanted.push(Wanted::Stop { key: ProbeKey { target, epoch } });
        }
        if let Some((epoch, pace)) = asking {
            wanted.push(Wanted::Probe { key: ProbeKey { target, epoch }, address, pace });
        }
    }

    pub(super) fn probed(&mut self, outcome: Outcome) {
        if outcome == Outcome::Passed {
            self.passed = true;
            self.aside = None;
            self.failed = None;
        } else {
            self.failed = Some(outcome);
        }
    }
}

/// One address of a revision.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) address: SocketAddr,
    pub(super) listed: Listed,
    pub(super) health: Health,
    /// Our requests on it.
    pub(super) running: u32,
    /// Where it stands in the balance; derived.
    pub(super) place: Place,
}

/// Whose pod it is; derived from the usable ones and the activators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not usable now.
    Out,
    /// In our slice.
    Own,
    /// In another activator's slice.
    Others,
}

impl Pod {
    /// Trusted without a probe.
    fn trusted(&self, rules: &Rules) -> bool {
        self.listed == Listed::Ready && rules.policy.mesh == MeshMode::Disabled
    }

    pub(super) fn usable(&self, rules: &Rules) -> Usable {
        if self.listed == Listed::Gone || rules.policy.mesh == MeshMode::Enabled {
            return Usable::No;
        }
        let answers = self.health.passed && (self.listed == Listed::Ready || rules.probe_optimisation);
        match self.health.aside {
            None if answers || self.trusted(rules) => Usable::Yes,
            Some(Failure::Tls) if answers || self.trusted(rules) => Usable::LastResort,
            _ => Usable::No,
        }
    }

    /// The probe that it needs now. A healthy pod needs none.
    pub(super) fn wants(&self, rules: &Rules, in_fallback: bool) -> Option<Pace> {
        if self.listed == Listed::Gone || rules.policy.mesh == MeshMode::Enabled {
            None
        } else if self.health.aside.is_some() {
            Some(Pace::Aside { strikes: self.health.strikes })
        } else if self.health.passed || self.trusted(rules) {
            None
        } else if in_fallback {
            Some(Pace::Fallback)
        } else {
            Some(Pace::Usual)
        }
    }
}
