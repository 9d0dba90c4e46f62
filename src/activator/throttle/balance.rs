//! The pods of one kind in the order in which they should get requests: fewest running first, then longest unused.
//!
//! A binary heap whose entries can be moved and taken out, so that choosing, and the end of a request, cost a few
//! comparisons whatever the number of pods.

/// A heap of pods, addressed by their index in the throttle.
#[derive(Debug, Default)]
pub(super) struct Balance {
    heap: Vec<Entry>,
    /// Where each pod stands in `heap`, by its index; [`NONE`] if nowhere.
    at: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    turn: u64,
    running: u32,
    pod: u32,
}

const NONE: u32 = u32::MAX;

impl Entry {
    fn order(&self) -> (u32, u64) {
        (self.running, self.turn)
    }
}

impl Balance {
    /// The best pod and what it runs.
    pub(super) fn best(&self) -> Option<(usize, u32)> {
        self.heap.first().map(|entry| (entry.pod as usize, entry.running))
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The pod at a place, in no particular order, and what it runs.
    pub(super) fn nth(&self, index: usize) -> Option<(usize, u32)> {
        self.heap.get(index).map(|entry| (entry.pod as usize, entry.running))
    }

    /// What a pod runs, as far as this heap knows.
    pub(super) fn running(&self, pod: usize) -> Option<u32> {
        self.position(pod).and_then(|at| self.heap.get(at)).map(|entry| entry.running)
    }

    pub(super) fn insert(&mut self, pod: usize, running: u32, turn: u64) {
        debug_assert!(self.position(pod).is_none());
        if self.at.len() <= pod {
            self.at.resize(pod + 1, NONE);
        }
        let at = self.heap.len();
        self.heap.push(Entry { turn, running, pod: u32::try_from(pod).unwrap_or(NONE) });
        self.settle(at);
    }

    pub(super) fn remove(&mut self, pod: usize) {
        let Some(at) = self.position(pod) else { return };
        self.heap.swap_remove(at);
        self.set_position(pod, NONE);
        if at < self.heap.len() {
            self.settle(at);
        }
        if self.heap.is_empty() {
            *self = Self::default();
        }
    }

    /// Tells what a pod runs now; `turn`, if it was just chosen.
    pub(super) fn update(&mut self, pod: usize, running: u32, turn: Option<u64>) {
        let Some(at) = self.position(pod) else { return };
        if let Some(entry) = self.heap.get_mut(at) {
            entry.running = running;
            entry.turn = turn.unwrap_or(entry.turn);
        }
        self.settle(at);
    }

    fn position(&self, pod: usize) -> Option<usize> {
        self.at.get(pod).filter(|at| **at != NONE).map(|at| *at as usize)
    }

    fn set_position(&mut self, pod: usize, at: u32) {
        if let Some(slot) = self.at.get_mut(pod) {
            *slot = at;
        }
    }

    /// Moves the entry at `at` up or down to where it belongs.
    fn settle(&mut self, mut at: usize) {
        while at > 0 && self.less(at, (at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let smaller = if self.less(right, left) { right } else { left };
            if !self.less(smaller, at) {
                break;
            }
            self.swap(at, smaller);
            at = smaller;
        }
        if let Some(pod) = self.heap.get(at).map(|entry| entry.pod as usize) {
            self.set_position(pod, u32::try_from(at).unwrap_or(NONE));
        }
    }

    /// Whether the entry at `a` goes before the one at `b`; what does not exist goes last.
    fn less(&self, a: usize, b: usize) -> bool {
        match (self.heap.get(a), self.heap.get(b)) {
            (Some(a), Some(b)) => a.order() < b.order(),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for at in [a, b] {
            if let Some(pod) = self.heap.get(at).map(|entry| entry.pod as usize) {
                self.set_position(pod, u32::try_from(at).unwrap_or(NONE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever happens to it, the best one is the least by running and turn.
        #[test]
        fn given_any_changes_then_the_best_is_that_of_a_sorted_list(steps in prop::collection::vec((0..12_usize, 0..3_u8, 0..4_u32), 0..200)) {
            let mut balance = Balance::default();
            let mut list: BTreeMap<usize, (u32, u64)> = BTreeMap::new();
            for (turn, (pod, what, running)) in steps.into_iter().enumerate() {
                let turn = turn as u64;
                match what {
                    0 => {
                        balance.remove(pod);
                        list.remove(&pod);
                    }
                    1 if !list.contains_key(&pod) => {
                        balance.insert(pod, running, turn);
                        list.insert(pod, (running, turn));
                    }
                    _ => {
                        balance.update(pod, running, Some(turn));
                        list.entry(pod).and_modify(|e| *e = (running, turn));
                    }
                }
                let best = list.iter().min_by_key(|(_, order)| **order).map(|(pod, order)| (*pod, order.0));
                prop_assert_eq!(balance.best(), best);
                prop_assert_eq!(balance.len(), list.len());
                for (pod, order) in &list {
                    prop_assert_eq!(balance.running(*pod), Some(order.0));
                }
            }
        }
    }
}
