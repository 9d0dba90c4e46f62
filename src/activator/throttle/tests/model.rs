//! The throttle as one would describe it on paper: lists that are searched from the front.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::*;

/// What is known of one listed address.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) ready: bool,
    pub(super) passed: bool,
    pub(super) failed: Option<Outcome>,
    pub(super) aside: Option<Failure>,
}

/// Whether a slot leads to a pod or to the cluster IP.
pub(super) type Where = (SocketAddr, bool);

#[derive(Debug)]
pub(super) struct Model {
    pub(super) rules: Rules,
    pub(super) listed: BTreeMap<SocketAddr, Known>,
    pub(super) running: BTreeMap<SocketAddr, u32>,
    pub(super) cluster: Option<SocketAddr>,
    pub(super) cluster_passed: bool,
    pub(super) cluster_aside: Option<Failure>,
    pub(super) cluster_running: u32,
    pub(super) activators: Option<Arc<Activators>>,
    pub(super) queue: VecDeque<Ticket>,
    /// The last division, since it is asked for after every step.
    divided: RefCell<(Vec<SocketAddr>, Option<Arc<Activators>>, Vec<bool>)>,
}

impl Model {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            listed: BTreeMap::new(),
            running: BTreeMap::new(),
            cluster: None,
            cluster_passed: false,
            cluster_aside: None,
            cluster_running: 0,
            activators: None,
            queue: VecDeque::new(),
            divided: RefCell::default(),
        }
    }

    pub(super) fn endpoints(&mut self, ready: &[SocketAddr], not_ready: &[SocketAddr]) {
        let before = std::mem::take(&mut self.listed);
        for (address, is_ready) in not_ready.iter().map(|a| (a, false)).chain(ready.iter().map(|a| (a, true))) {
            let new = Known { ready: is_ready, passed: false, failed: None, aside: None };
            let known = match before.get(address) {
                Some(known) if !known.ready || is_ready => Known { ready: is_ready, ..known.clone() },
                _ => new,
            };
            self.listed.insert(*address, known);
        }
        if self.listed.is_empty() {
            self.forget_cluster();
        }
    }

    pub(super) fn forget_cluster(&mut self) {
        if self.cluster_passed {
            (self.cluster_passed, self.cluster_aside) = (false, None);
        }
    }

    pub(super) fn failed(&mut self, (address, is_cluster): Where, why: Failure) {
        if is_cluster {
            self.cluster_passed &= why == Failure::Tls;
            self.cluster_aside = Some(why);
        } else if let Some(known) = self.listed.get_mut(&address) {
            known.passed &= why == Failure::Tls;
            known.failed = None;
            known.aside = Some(why);
        }
    }

    pub(super) fn reached(&mut self, (address, is_cluster): Where) {
        if is_cluster {
            self.cluster_aside = None;
        } else if let Some(known) = self.listed.get_mut(&address) {
            known.aside = None;
        }
    }

    /// The addresses that may be used, those of the last resort only if there is no other.
    pub(super) fn usable(&self) -> Vec<SocketAddr> {
        if self.rules.policy.mesh == MeshMode::Enabled {
            return Vec::new();
        }
        let trusts = self.rules.policy.mesh == MeshMode::Disabled;
        let sound =
            |known: &Known| known.ready && trusts || known.passed && (known.ready || self.rules.probe_optimisation);
        let with = |aside| {
            let fits = move |known: &Known| sound(known) && known.aside == aside;
            self.listed.iter().filter(move |(_, known)| fits(known)).map(|(address, _)| *address).collect::<Vec<_>>()
        };
        let best = with(None);
        if best.is_empty() { with(Some(Failure::Tls)) } else { best }
    }

    /// A pod that answers ends the use of the cluster IP.
    pub(super) fn settle(&mut self) {
        if self.rules.policy.mesh == MeshMode::Auto && !self.usable().is_empty() {
            self.forget_cluster();
        }
    }

    fn count(&self) -> usize {
        self.activators.as_ref().map_or(1, |a| a.count())
    }

    pub(super) fn on(&self, address: SocketAddr) -> u32 {
        self.running.get(&address).copied().unwrap_or(0)
    }

    /// The places that a request may go to now; empty if it must wait.
    pub(super) fn free(&self) -> Vec<Where> {
        let usable = self.usable();
        if usable.is_empty() {
            let ready = self.listed.values().filter(|known| known.ready).count();
            let capacity = match (ready, self.rules.concurrency as usize) {
                (0, _) => 0,
                (_, 0) => usize::MAX,
                (ready, limit) => (ready * limit / self.count()).max(1),
            };
            let open = self.cluster_passed
                && self.cluster_aside != Some(Failure::Unreachable)
                && self.rules.policy.mesh != MeshMode::Disabled
                && (self.cluster_running as usize) < capacity;
            return self.cluster.filter(|_| open).map(|address| (address, true)).into_iter().collect();
        }
        let limit = if self.rules.concurrency == 0 { u32::MAX } else { self.rules.concurrency };
        let ours = self.divide(&usable);
        let least = |mine: bool, limit: u32| {
            let kind = usable.iter().zip(&ours).filter(|(_, ours)| **ours == mine).map(|(address, _)| *address);
            let free: Vec<_> = kind.filter(|address| self.on(*address) < limit).collect();
            let best = free.iter().map(|address| self.on(*address)).min();
            let any = mine && self.rules.policy.choice == Choice::Original;
            let best = free.into_iter().filter(move |address| any || Some(self.on(*address)) == best);
            best.map(|address| (address, false)).collect::<Vec<_>>()
        };
        let own = least(true, limit);
        if own.is_empty() && self.rules.policy.borrow {
            return least(false, limit.div_ceil(u32::try_from(self.count()).unwrap()));
        }
        own
    }

    fn divide(&self, usable: &[SocketAddr]) -> Vec<bool> {
        let Some(activators) = self.activators.as_ref().filter(|_| self.rules.concurrency > 0) else {
            return vec![true; usable.len()];
        };
        let mut divided = self.divided.borrow_mut();
        if divided.0 != usable || divided.1.as_ref() != Some(activators) {
            let ours = activators.ours(usable, self.rules.policy.slicing);
            *divided = (usable.to_vec(), Some(activators.clone()), ours);
        }
        divided.2.clone()
    }

    pub(super) fn start(&mut self, (address, is_cluster): Where) {
        if is_cluster {
            self.cluster_running += 1;
        } else {
            *self.running.entry(address).or_default() += 1;
        }
    }

    pub(super) fn end(&mut self, (address, is_cluster): Where) {
        if is_cluster {
            self.cluster_running -= 1;
        } else {
            *self.running.get_mut(&address).unwrap() -= 1;
        }
    }

    /// Which addresses are to be probed.
    pub(super) fn probes(&self) -> Vec<SocketAddr> {
        let Policy { mesh, pod_addressability, .. } = *self.rules.policy;
        let trusts = mesh == MeshMode::Disabled;
        let wants = |known: &Known| known.aside.is_some() || !(known.passed || known.ready && trusts);
        let pods = self.listed.iter().filter(|(_, known)| mesh != MeshMode::Enabled && wants(known));
        let mut probes: Vec<_> = pods.map(|(address, _)| *address).collect();
        let silent = self.listed.values().all(|known| known.failed == Some(Outcome::Silent));
        let needed = match mesh {
            MeshMode::Disabled => false,
            MeshMode::Enabled => true,
            MeshMode::Auto => !pod_addressability && self.usable().is_empty() && silent,
        };
        if needed && !self.listed.is_empty() && (!self.cluster_passed || self.cluster_aside.is_some()) {
            probes.extend(self.cluster);
        }
        probes
    }
}
