//! Who gets a request, and who of the waiting goes next. Constant work, or logarithmic in the number of pods.

use super::super::pod::{Listed, Place};
use super::super::rules::Choice;
use super::super::waiting::State;
use super::super::words::{CLUSTER, SlotKey};
use super::{Target, Throttle};

impl Throttle {
    pub(super) fn dispatch(&mut self) {
        while let Some(first) = self.waiting.first() {
            let Some(slot) = self.choose() else { break };
            self.wakers.extend(self.waiting.decide(first, State::Granted(slot)));
        }
    }

    /// Takes a slot, if one is free.
    pub(super) fn choose(&mut self) -> Option<SlotKey> {
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
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap_or_default() % bound.max(1)
    }

    pub(super) fn release(&mut self, slot: SlotKey) {
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
}
