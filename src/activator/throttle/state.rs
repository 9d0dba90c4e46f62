//! The throttle of one revision: a state machine that owns the truth about its pods and its waiting requests.
//!
//! Called under the lock of [`super::Revision`], from workers and from the control side. No I/O, no clock. What a
//! request does is constant work, or logarithmic in the number of pods; what Kubernetes or a probe says may look at
//! every pod.

mod choose;
mod derive;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use smallvec::SmallVec;

use super::assign::Activators;
use super::balance::Balance;
use super::pod::{Failure, Health, Listed, Outcome, Place, Pod};
use super::rules::Rules;
use super::waiting::{State, Waiting};
use super::words::{Arrived, CLUSTER, Counts, ProbeKey, SlotKey, Ticket, Wanted};

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

    fn activator_count(&self) -> usize {
        self.activators.as_ref().map_or(1, |activators| activators.count())
    }

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
}
