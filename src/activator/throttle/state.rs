//! The throttle of one revision: a state machine that owns the truth about its pods and its waiting requests.
//!
//! Called under the lock of [`super::Revision`], from workers and from the control side. No I/O, no clock. What a
//! request does is constant work, or logarithmic in the number of pods; what Kubernetes or a probe says may look at
//! every pod.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use smallvec::SmallVec;

use super::assign::Activators;
use super::balance::Balance;
use super::pod::{Failure, Health, Listed, Outcome, Pace, Place, Pod, Usable};
use super::rules::{Choice, MeshMode, Policy, Rules};
use super::waiting::{State, Waiting};

/// A request's right to run on a pod, or on the cluster IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotKey {
    /// The pod's index, or [`CLUSTER`].
    target: u32,
    /// The epoch of what was known of it when the slot was given.
    epoch: u32,
}

impl ProbeKey {
    /// Any key.
    #[cfg(test)]
    pub(in super::super) fn of(target: u32) -> Self {
        Self { target, epoch: 0 }
    }
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

/// The index that stands for the cluster IP.
const CLUSTER: u32 = u32::MAX;

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

#[derive(Debug)]
struct Cluster {
    address: Option<SocketAddr>,
    health: Health,
    running: u32,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Nowhere,
    Pods,
    ClusterIp,
}

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    rules: Rules,
    // What was told.
    pods: Slab<Pod>,
    cluster: Cluster,
    activators: Option<Arc<Activators>>,
    gone: bool,
    epochs: u32,
    // What follows from it.
    target: Target,
    cluster_capacity: u32,
    /// Usable pods of ours, and of other activators.
    own: Balance,
    others: Balance,
    /// Own pods in the string order of addresses, for Go's choices.
    in_order: Vec<u32>,
    next_in_order: usize,
    /// Counts choices; starts above what pods get that were never chosen.
    turn: u64,
    random: u64,
    waiting: Waiting,
    running: usize,
    /// Addresses that the prober was asked to probe.
    probed: usize,
    // What was not yet taken by the caller.
    wakers: SmallVec<[Waker; 4]>,
    wanted: Vec<Wanted>,
}

impl Throttle {
    /// A throttle that knows of no pods. `seed` decides what is left to chance.
    #[must_use]
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            pods: Slab::new(),
            cluster: Cluster { address: None, health: Health::new(0), running: 0 },
            activators: None,
            gone: false,
            epochs: 0,
            target: Target::Nowhere,
            cluster_capacity: 0,
            own: Balance::default(),
            others: Balance::default(),
            in_order: Vec::new(),
            next_in_order: 0,
            turn: 1 << 32,
            random: seed | 1,
            waiting: Waiting::default(),
            running: 0,
            probed: 0,
            wakers: SmallVec::new(),
            wanted: Vec::new(),
        }
    }

    /// The wakers of requests that were decided since the last call; wake them without holding the lock.
    pub fn take_wakers(&mut self) -> SmallVec<[Waker; 4]> {
        std::mem::take(&mut self.wakers)
    }

    /// What the prober should do since the last call.
    pub fn take_wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.wanted)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Numbers for metrics and reports.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            waiting: self.waiting.len(),
            running: self.running,
            listed: self.listed(),
            usable: self.own.len() + self.others.len(),
            own: self.own.len(),
            fallback: self.target == Target::ClusterIp,
        }
    }

    // From the control side.

    /// What Kubernetes lists: the whole list, in any order. Requests that run on a pod that is no longer listed are
    /// not touched.
    pub fn endpoints(&mut self, ready: &[SocketAddr], not_ready: &[SocketAddr]) {
        let mut listed: HashMap<SocketAddr, Listed> = not_ready.iter().map(|a| (*a, Listed::NotReady)).collect();
        listed.extend(ready.iter().map(|a| (*a, Listed::Ready)));
        let mut left = Vec::new();
        for (index, pod) in &mut self.pods {
            let now = listed.remove(&pod.address).unwrap_or(Listed::Gone);
            if pod.listed == Listed::Ready && now == Listed::NotReady
                || pod.listed == Listed::Gone && now != Listed::Gone
            {
                // What its last probe said was about another state of it, or another pod.
                self.epochs = self.epochs.wrapping_add(1);
                pod.health.renew(self.epochs);
            }
            pod.listed = now;
            if now == Listed::Gone && pod.running == 0 {
                left.push(index);
            }
        }
        let mut new: Vec<_> = listed.into_iter().collect();
        new.sort_unstable_by_key(|(address, _)| *address);
        for (address, listed) in new {
            self.epochs = self.epochs.wrapping_add(1);
            let health = Health::new(self.epochs);
            self.pods.insert(Pod { address, listed, health, running: 0, place: Place::Out });
        }
        if self.listed() == 0 && self.cluster.health.passed {
            self.renew_cluster();
        }
        self.refresh();
        for index in left {
            self.remove(index);
        }
    }

    /// The address of the revision's private service, or that there is none.
    pub fn cluster_ip(&mut self, address: Option<SocketAddr>) {
        if self.cluster.address != address {
            self.cluster.address = address;
            self.renew_cluster();
            self.refresh();
        }
    }

    /// The activators in the revision's path.
    pub fn activators(&mut self, activators: Arc<Activators>) {
        if self.activators.as_deref() != Some(&*activators) {
            self.activators = Some(activators);
            self.place();
            self.refresh();
        }
    }

    /// What a probe found. Results of an older epoch, or that nobody asked for, are ignored; false then.
    pub fn probed(&mut self, key: ProbeKey, outcome: Outcome) -> bool {
        let Some(health) = self.health(key.target) else { return false };
        if health.epoch != key.epoch || health.asked.is_none_or(|(epoch, _)| epoch != key.epoch) {
            return false;
        }
        let news = outcome == Outcome::Passed || health.failed != Some(outcome);
        health.probed(outcome);
        if news {
            self.refresh();
        }
        true
    }

    /// The revision was deleted: who waits is refused, what runs may end.
    pub fn close(&mut self) {
        self.gone = true;
        self.endpoints(&[], &[]);
        while let Some(first) = self.waiting.first() {
            self.wakers.extend(self.waiting.decide(first, State::Refused));
        }
    }

    // From the data side.

    /// A request arrives. `again`: it was sent to a pod that did not take it, and goes before all that wait.
    pub fn arrived(&mut self, again: bool) -> Arrived {
        if self.gone {
            return Arrived::Gone;
        }
        // Who waits, waits for lack of capacity; so there is none for a newcomer.
        if self.waiting.is_empty()
            && let Some(slot) = self.choose()
        {
            return Arrived::Go(slot);
        }
        if self.waiting.len() >= self.rules.policy.queue_depth && !again {
            return Arrived::Full;
        }
        if self.waiting.is_empty() && self.probed > 0 {
            self.wanted.push(Wanted::Hurry);
        }
        Arrived::Wait(Ticket(self.waiting.push(again)))
    }

    /// Asks what became of a waiting request; `None` while it waits, and then `waker` is called when that changes.
    /// After `Some` the ticket is used up.
    pub fn poll(&mut self, ticket: Ticket, waker: &Waker) -> Option<Result<SlotKey, ()>> {
        match self.waiting.poll(ticket.0, waker) {
            State::Waiting => None,
            State::Granted(slot) => Some(Ok(slot)),
            State::Refused => Some(Err(())),
        }
    }

    /// The slot that a waiting request was granted, without using the ticket up.
    #[cfg(test)]
    pub(super) fn peek(&self, ticket: Ticket) -> Option<SlotKey> {
        match self.waiting.state(ticket.0) {
            Some(State::Granted(slot)) => Some(slot),
            _ => None,
        }
    }

    /// Whether what a slot relies on is still what is known.
    #[cfg(test)]
    pub(super) fn is_current(&mut self, slot: SlotKey) -> bool {
        self.health(slot.target).is_some_and(|health| health.epoch == slot.epoch)
    }

    /// A waiting request leaves. If it was granted a slot that it has not seen, the next one gets it.
    pub fn cancelled(&mut self, ticket: Ticket) {
        if let Some(State::Granted(slot)) = self.waiting.remove(ticket.0) {
            self.completed(slot, false);
        }
    }

    /// A request has ended, or will not be sent. `reached`: the pod took it, so that its failures in a row end, and it
    /// is no longer put aside.
    pub fn completed(&mut self, slot: SlotKey, reached: bool) {
        let mut news = false;
        if reached
            && let Some(health) = self.health(slot.target)
            && health.epoch == slot.epoch
        {
            health.strikes = 0;
            news = health.aside.take().is_some();
        }
        self.release(slot);
        if news {
            self.refresh();
        } else {
            self.dispatch();
        }
    }

    /// A pod took no byte of a request: it is put aside until it passes a probe, the slot is free.
    pub fn failed(&mut self, slot: SlotKey, why: Failure) {
        self.release(slot);
        let epoch = self.epochs.wrapping_add(1);
        if let Some(health) = self.health(slot.target)
            && health.epoch == slot.epoch
        {
            health.put_aside(epoch, why);
            self.epochs = epoch;
            self.refresh();
        } else {
            self.dispatch();
        }
    }

    /// Where a slot leads, and whether that is the cluster IP.
    #[must_use]
    pub fn address(&self, slot: SlotKey) -> Option<(SocketAddr, bool)> {
        if slot.target == CLUSTER {
            self.cluster.address.map(|address| (address, true))
        } else {
            self.pods.get(slot.target as usize).map(|pod| (pod.address, false))
        }
    }

    // Choosing.

    fn dispatch(&mut self) {
        while let Some(first) = self.waiting.first() {
            let Some(slot) = self.choose() else { break };
            self.wakers.extend(self.waiting.decide(first, State::Granted(slot)));
        }
    }

    /// Takes a slot, if one is free.
    fn choose(&mut self) -> Option<SlotKey> {
        let target = match self.target {
            Target::Nowhere => return None,
            Target::ClusterIp => {
                if self.cluster.running >= self.cluster_capacity {
                    return None;
                }
                self.cluster.running += 1;
                self.running += 1;
                return Some(SlotKey { target: CLUSTER, epoch: self.cluster.health.epoch });
            }
            Target::Pods => self.choose_pod()?,
        };
        let pod = self.pods.get_mut(target)?;
        pod.running += 1;
        self.running += 1;
        self.turn += 1;
        let turn = Some(self.turn);
        match pod.place {
            Place::Own => self.own.update(target, pod.running, turn),
            Place::Others => self.others.update(target, pod.running, turn),
            Place::Out => {}
        }
        Some(SlotKey { target: u32::try_from(target).unwrap_or(CLUSTER), epoch: pod.health.epoch })
    }

    fn choose_pod(&mut self) -> Option<usize> {
        let limit = self.rules.own_limit();
        if let Some((best, running)) = self.own.best()
            && running < limit
        {
            return Some(match self.rules.policy.choice {
                Choice::LeastLoaded => best,
                Choice::Original => self.choose_as_go(limit).unwrap_or(best),
            });
        }
        if !self.rules.policy.borrow {
            return None;
        }
        let limit = self.rules.borrowed_limit(self.activator_count());
        self.others.best().filter(|(_, running)| *running < limit).map(|(pod, _)| pod)
    }

    fn choose_as_go(&mut self, limit: u32) -> Option<usize> {
        match self.rules.concurrency {
            0 => {
                let count = self.own.len();
                let first = self.below(count);
                // Two different ones, if there are two.
                let second = (first + 1 + self.below(count.saturating_sub(1))) % count.max(1);
                let (first, second) = (self.own.nth(first)?, self.own.nth(second)?);
                let coin = self.below(2) == 0;
                Some(if second.1 < first.1 || second.1 == first.1 && coin { second.0 } else { first.0 })
            }
            1..=3 => self.first_free(0, limit).map(|(_, pod)| pod),
            _ => {
                let start = if self.next_in_order >= self.in_order.len() { 0 } else { self.next_in_order };
                let (at, pod) = self.first_free(start, limit)?;
                self.next_in_order = at + 1;
                Some(pod)
            }
        }
    }

    /// The first own pod with a free slot from place `start` on, and its place.
    fn first_free(&self, start: usize, limit: u32) -> Option<(usize, usize)> {
        let count = self.in_order.len();
        (0..count).map(|i| (start + i) % count).find_map(|at| {
            let pod = *self.in_order.get(at)? as usize;
            (self.pods.get(pod)?.running < limit).then_some((at, pod))
        })
    }

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap_or_default() % bound.max(1)
    }

    fn release(&mut self, slot: SlotKey) {
        self.running -= 1;
        if slot.target == CLUSTER {
            self.cluster.running -= 1;
            return;
        }
        let target = slot.target as usize;
        let Some(pod) = self.pods.get_mut(target) else { return };
        pod.running -= 1;
        match pod.place {
            Place::Own => self.own.update(target, pod.running, None),
            Place::Others => self.others.update(target, pod.running, None),
            Place::Out if pod.listed == Listed::Gone && pod.running == 0 => self.remove(target),
            Place::Out => {}
        }
    }

    fn activator_count(&self) -> usize {
        self.activators.as_ref().map_or(1, |activators| activators.count())
    }

    // What follows from the inputs.

    fn listed(&self) -> usize {
        self.pods.iter().filter(|(_, pod)| pod.listed != Listed::Gone).count()
    }

    fn health(&mut self, target: u32) -> Option<&mut Health> {
        if target == CLUSTER {
            Some(&mut self.cluster.health)
        } else {
            self.pods.get_mut(target as usize).map(|pod| &mut pod.health)
        }
    }

    fn renew_cluster(&mut self) {
        self.epochs = self.epochs.wrapping_add(1);
        self.cluster.health.renew(self.epochs);
    }

    fn remove(&mut self, index: usize) {
        self.pods.try_remove(index);
        if self.pods.is_empty() {
            self.pods = Slab::new();
        }
    }

    /// Brings everything that follows from the inputs up to date, and sends out who may go.
    fn refresh(&mut self) {
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

    fn place(&mut self) {
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
