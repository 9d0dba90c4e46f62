//! What follows from what a throttle was told: usable pods, slices, wanted probes. Functions of the inputs, computed
//! when those change and once more, from nothing, by [`Throttle::resync`].

use std::net::SocketAddr;

use super::super::balance::Balance;
use super::super::pod::{Failure, Listed, Outcome, Pace, Place, Pod, Usable};
use super::super::rules::{Choice, MeshMode, Policy};
use super::super::words::{CLUSTER, Difference, ProbeKey, Wanted};
use super::{Cluster, Target, Throttle};

impl Throttle {
    /// Brings everything that follows from the inputs up to date, and sends out who may go.
    pub(super) fn refresh(&mut self) {
        let tier = self.tier();
        if tier > Usable::No && self.rules.policy.mesh == MeshMode::Auto && self.cluster.health.passed {
            self.renew_cluster();
        }
        self.target = self.derive_target(tier);
        self.cluster_capacity = self.derive_cluster_capacity();
        if self.pods.iter().any(|(_, pod)| self.is_chosen(pod, tier) != (pod.place != Place::Out)) {
            self.place();
        }
        self.ask(tier);
        self.dispatch();
    }

    /// The best use that any pod allows; only pods of that kind are used.
    fn tier(&self) -> Usable {
        self.pods.iter().map(|(_, pod)| pod.usable(&self.rules)).max().unwrap_or(Usable::No)
    }

    fn is_chosen(&self, pod: &Pod, tier: Usable) -> bool {
        tier > Usable::No && pod.usable(&self.rules) == tier
    }

    fn derive_target(&self, tier: Usable) -> Target {
        let Cluster { address, health, .. } = &self.cluster;
        if tier > Usable::No {
            Target::Pods
        } else if address.is_some()
            && health.passed
            && health.aside != Some(Failure::Unreachable)
            && self.rules.policy.mesh != MeshMode::Disabled
            && self.listed() > 0
        {
            Target::ClusterIp
        } else {
            Target::Nowhere
        }
    }

    /// Requests that may run through the cluster IP: an equal part of what all ready pods may run.
    fn derive_cluster_capacity(&self) -> u32 {
        let ready = self.pods.iter().filter(|(_, pod)| pod.listed == Listed::Ready).count();
        if ready == 0 || self.rules.concurrency == 0 {
            return if ready == 0 { 0 } else { u32::MAX };
        }
        let all = (self.rules.concurrency as usize).saturating_mul(ready);
        u32::try_from((all / self.activator_count()).max(1)).unwrap_or(u32::MAX)
    }

    /// Where each pod belongs.
    fn derive_places(&self) -> Vec<(usize, Place)> {
        let tier = self.tier();
        let (mut chosen, out): (Vec<_>, Vec<_>) = self.pods.iter().partition(|(_, pod)| self.is_chosen(pod, tier));
        let mut places: Vec<_> = out.into_iter().map(|(index, _)| (index, Place::Out)).collect();
        chosen.sort_unstable_by_key(|(_, pod)| pod.address);
        // Without a limit all activators use all pods.
        let ours = match &self.activators {
            Some(activators) if self.rules.concurrency > 0 => {
                let addresses: Vec<_> = chosen.iter().map(|(_, pod)| pod.address).collect();
                activators.ours(&addresses, self.rules.policy.slicing)
            }
            _ => vec![true; chosen.len()],
        };
        let place = |ours| if ours { Place::Own } else { Place::Others };
        places.extend(chosen.into_iter().zip(ours).map(|((index, _), ours)| (index, place(ours))));
        places
    }

    pub(super) fn place(&mut self) {
        for (index, place) in self.derive_places() {
            let Some(pod) = self.pods.get_mut(index) else { continue };
            let before = std::mem::replace(&mut pod.place, place);
            let running = pod.running;
            if before != place {
                self.own.remove(index);
                self.others.remove(index);
                // Before all that were used; which of the new ones is first differs from activator to activator.
                let turn = self.below(1 << 31) as u64;
                match place {
                    Place::Own => self.own.insert(index, running, turn),
                    Place::Others => self.others.insert(index, running, turn),
                    Place::Out => {}
                }
            }
        }
        if self.rules.policy.choice == Choice::Original {
            let own = self.pods.iter().filter(|(_, pod)| pod.place == Place::Own);
            let mut in_order: Vec<_> = own.map(|(index, pod)| (pod.address.to_string(), index)).collect();
            in_order.sort();
            self.in_order = in_order.into_iter().map(|(_, index)| u32::try_from(index).unwrap_or(CLUSTER)).collect();
        }
    }

    /// The probe that the cluster IP needs now: while no pod can be addressed and nothing speaks against a mesh.
    fn cluster_wants(&self, tier: Usable) -> Option<Pace> {
        let Policy { mesh, pod_addressability, .. } = *self.rules.policy;
        let health = &self.cluster.health;
        let mut listed = self.pods.iter().filter(|(_, pod)| pod.listed != Listed::Gone).peekable();
        listed.peek()?;
        let needed = match mesh {
            MeshMode::Disabled => false,
            MeshMode::Enabled => true,
            MeshMode::Auto => {
                !pod_addressability
                    && tier == Usable::No
                    && listed.all(|(_, pod)| pod.health.failed == Some(Outcome::Silent))
            }
        };
        if health.aside.is_some() {
            return needed.then_some(Pace::Aside { strikes: health.strikes });
        }
        (needed && !health.passed).then_some(Pace::Usual)
    }

    /// Tells the prober what has changed.
    fn ask(&mut self, tier: Usable) {
        let in_fallback = self.target == Target::ClusterIp;
        self.probed = 0;
        for (index, pod) in &mut self.pods {
            let pace = pod.wants(&self.rules, in_fallback);
            self.probed += usize::from(pace.is_some());
            pod.health.ask(u32::try_from(index).unwrap_or(CLUSTER), pod.address, pace, &mut self.wanted);
        }
        let pace = self.cluster_wants(tier);
        self.probed += usize::from(pace.is_some());
        if let Some(address) = self.cluster.address {
            self.cluster.health.ask(CLUSTER, address, pace, &mut self.wanted);
        } else if let Some((epoch, _)) = self.cluster.health.asked.take() {
            self.wanted.push(Wanted::Stop { key: ProbeKey { target: CLUSTER, epoch } });
        }
    }

    /// All probes that are wanted now, to compare with those that run.
    #[must_use]
    pub fn probes(&self) -> Vec<(ProbeKey, SocketAddr, Pace)> {
        let pods = self.pods.iter().map(|(index, pod)| (index, &pod.health, Some(pod.address)));
        let all = pods.chain([(CLUSTER as usize, &self.cluster.health, self.cluster.address)]);
        all.filter_map(|(index, health, address)| {
            let (epoch, pace) = health.asked?;
            Some((ProbeKey { target: u32::try_from(index).ok()?, epoch }, address?, pace))
        })
        .collect()
    }

    /// Computes everything that follows from the inputs again and compares it with what was kept up to date. What
    /// differs is a defect; it is put right, and who waited for it may go. Call it every 30 s.
    pub fn resync(&mut self) -> Vec<Difference> {
        let mut differences = Vec::new();
        let tier = self.tier();
        if self.target != self.derive_target(tier) || self.cluster_capacity != self.derive_cluster_capacity() {
            differences.push(Difference::Target);
        }
        let in_fallback = self.target == Target::ClusterIp;
        for (index, place) in self.derive_places() {
            let Some(pod) = self.pods.get(index) else { continue };
            let held = (self.own.running(index), self.others.running(index));
            let expected = match place {
                Place::Own => (Some(pod.running), None),
                Place::Others => (None, Some(pod.running)),
                Place::Out => (None, None),
            };
            if pod.place != place
                || (held.0.is_some(), held.1.is_some()) != (expected.0.is_some(), expected.1.is_some())
            {
                differences.push(Difference::Place(pod.address));
            } else if held != expected {
                differences.push(Difference::Running(pod.address));
            }
            if pod.health.asked != pod.wants(&self.rules, in_fallback).map(|pace| (pod.health.epoch, pace)) {
                differences.push(Difference::Probe(pod.address));
            }
        }
        if let Some(address) = self.cluster.address {
            let running: u32 = self.pods.iter().map(|(_, pod)| pod.running).sum();
            if self.running != running as usize + self.cluster.running as usize {
                differences.push(Difference::Running(address));
            }
            if self.cluster.health.asked != self.cluster_wants(tier).map(|pace| (self.cluster.health.epoch, pace)) {
                differences.push(Difference::Probe(address));
            }
        }
        if !differences.is_empty() {
            (self.own, self.others) = (Balance::default(), Balance::default());
            for (_, pod) in &mut self.pods {
                pod.place = Place::Out;
            }
            self.running = self.pods.iter().map(|(_, pod)| pod.running as usize).sum::<usize>();
            self.running += self.cluster.running as usize;
            self.place();
        }
        let waited = self.waiting.len();
        self.refresh();
        if self.waiting.len() < waited {
            differences.push(Difference::Waiting(waited - self.waiting.len()));
        }
        differences
    }
}
