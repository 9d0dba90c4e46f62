//! Which pods are ours, when several activators serve one revision.
//!
//! All activators compute the whole division from the same two lists and take their own part: nobody talks to anybody.
//! Each pod has one owner while there are at least as many pods as activators, and shares differ by one at most; with
//! fewer pods each activator owns one, and pods are shared as evenly.
//! Source of the original division: `throttler.go` (`assignSlice`, `pickIndices`, `inferIndex`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::rules::Slicing;

/// The activators in a revision's path, and which of them this one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activators {
    /// A hash of each one's address, in the string order of addresses.
    hashes: Box<[u64]>,
    index: usize,
}

impl Activators {
    /// The activators among a revision's public endpoints. `None` if `own` is not among them: then this activator is
    /// not in the path (yet, or the list holds pods), and what was known before stays true.
    #[must_use]
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a str>, own: &str) -> Option<Self> {
        let sorted: BTreeSet<&str> = addresses.into_iter().collect();
        let index = sorted.iter().position(|address| *address == own)?;
        Some(Self { hashes: sorted.iter().map(|address| hash(address.as_bytes())).collect(), index })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    /// Which of `pods` are ours; true at the same places.
    pub(super) fn ours(&self, pods: &[SocketAddr], slicing: Slicing) -> Vec<bool> {
        if self.count() <= 1 || pods.len() <= 1 {
            return vec![true; pods.len()];
        }
        match slicing {
            Slicing::Original => self.consecutive(pods),
            Slicing::Rendezvous => self.rendezvous(pods),
        }
    }

    fn consecutive(&self, pods: &[SocketAddr]) -> Vec<bool> {
        let mut sorted: Vec<(String, usize)> = pods.iter().enumerate().map(|(i, pod)| (pod.to_string(), i)).collect();
        sorted.sort();
        let mut ours = vec![false; pods.len()];
        let mut take = |position: usize| {
            if let Some(mine) = sorted.get(position).and_then(|(_, pod)| ours.get_mut(*pod)) {
                *mine = true;
            }
        };
        let (count, activators, index) = (pods.len(), self.count(), self.index);
        if activators > count {
            take(index % count);
            return ours;
        }
        let (size, rest) = (count / activators, count % activators);
        (index * size..(index + 1) * size).for_each(&mut take);
        if index < rest {
            take(count - rest + index);
        }
        ours
    }

    fn rendezvous(&self, pods: &[SocketAddr]) -> Vec<bool> {
        let pods: Vec<u64> = pods.iter().map(|pod| hash(pod.to_string().as_bytes())).collect();
        let me = self.hashes.get(self.index).copied().unwrap_or_default();
        if pods.len() >= self.count() {
            let owners = divide(&pods, &self.hashes);
            owners.into_iter().map(|owner| owner == self.index).collect()
        } else {
            let mine = divide(&self.hashes, &pods);
            let at = self.hashes.iter().position(|hash| *hash == me).and_then(|i| mine.get(i));
            (0..pods.len()).map(|pod| Some(&pod) == at).collect()
        }
    }
}

/// Gives each of `items` one of `bins`: the one with the highest score for it that still has room, where room is such
/// that no bin gets two more than another. Items choose in the order of their hashes.
fn divide(items: &[u64], bins: &[u64]) -> Vec<usize> {
    let (size, mut extra) = (items.len() / bins.len(), items.len() % bins.len());
    let mut held = vec![0; bins.len()];
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|item| items.get(*item));
    let mut owner = vec![0; items.len()];
    for item in order {
        let hash = items.get(item).copied().unwrap_or_default();
        let has_room = |held: usize| held < size || held == size && extra > 0;
        let free = bins.iter().enumerate().zip(&held).filter(|(_, held)| has_room(**held));
        let Some((bin, _)) = free.map(|((bin, name), _)| (bin, mix(hash ^ mix(*name)))).max_by_key(|(_, score)| *score)
        else {
            break;
        };
        if let (Some(held), Some(owner)) = (held.get_mut(bin), owner.get_mut(item)) {
            extra -= usize::from(*held == size);
            *held += 1;
            *owner = bin;
        }
    }
    owner
}

/// FNV-1a and a finish. Written out here because activators of different builds must agree on it.
fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finish of splitmix64: every bit of the result depends on every bit of the input.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pods(count: u8) -> Vec<SocketAddr> {
        (0..count).map(|i| SocketAddr::from(([10, 0, 0, i], 8012))).collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("10.4.{i}.7")).collect()
    }

    fn slices(names: &[String], pods: &[SocketAddr], slicing: Slicing) -> Vec<Vec<bool>> {
        let addresses = || names.iter().map(String::as_str);
        names.iter().map(|own| Activators::new(addresses(), own).unwrap().ours(pods, slicing)).collect()
    }

    /// How many pods each activator has, and how many activators each pod.
    fn shares(slices: &[Vec<bool>]) -> (Vec<usize>, Vec<usize>) {
        let per_activator = slices.iter().map(|slice| slice.iter().filter(|mine| **mine).count()).collect();
        let per_pod = (0..slices[0].len()).map(|pod| slices.iter().filter(|slice| slice[pod]).count()).collect();
        (per_activator, per_pod)
    }

    #[test]
    fn given_enough_pods_then_each_has_one_owner_and_shares_differ_by_one_at_most() {
        for slicing in [Slicing::Original, Slicing::Rendezvous] {
            for activators in 1..8 {
                for count in activators..60 {
                    let pods = pods(count.try_into().unwrap());
                    let (per_activator, per_pod) = shares(&slices(&names(activators), &pods, slicing));
                    assert!(per_pod.iter().all(|owners| *owners == 1), "{slicing:?} {activators} {count}: {per_pod:?}");
                    let (least, most) = (per_activator.iter().min().unwrap(), per_activator.iter().max().unwrap());
                    assert!(most - least <= 1, "{slicing:?} {activators} {count}: {per_activator:?}");
                }
            }
        }
    }

    #[test]
    fn given_fewer_pods_than_activators_then_each_activator_has_one_and_pods_are_shared_evenly() {
        for slicing in [Slicing::Original, Slicing::Rendezvous] {
            for activators in 3..12_usize {
                for count in 2..activators {
                    let pods = pods(count.try_into().unwrap());
                    let (per_activator, per_pod) = shares(&slices(&names(activators), &pods, slicing));
                    assert!(per_activator.iter().all(|n| *n == 1), "{slicing:?} {activators} {count}");
                    let (least, most) = (per_pod.iter().min().unwrap(), per_pod.iter().max().unwrap());
                    assert!(most - least <= 1, "{slicing:?} {activators} {count}: {per_pod:?}");
                }
            }
        }
    }

    /// What the A5 asks: a newcomer takes its own share, and little else moves.
    #[test]
    fn given_one_more_activator_then_hardly_more_pods_move_than_it_gets() {
        let pods = pods(200);
        for activators in 2..8 {
            let (before, after) = (
                slices(&names(activators), &pods, Slicing::Rendezvous),
                slices(&names(activators + 1), &pods, Slicing::Rendezvous),
            );
            let stayed: usize = (0..activators)
                .map(|a| before[a].iter().zip(&after[a]).filter(|(before, after)| **before && **after).count())
                .sum();
            let (moved, share) = (pods.len() - stayed, pods.len() / (activators + 1));
            println!("{activators}: moved {moved}, share {share}");
            assert!(moved <= share * 3 / 2, "{activators} activators: {moved} moved, a share is {share}");
        }
    }

    /// Go's test of its division (throttler_test.go, TestPickIndices): 11 pods on 3 activators.
    #[test]
    fn given_the_original_division_then_the_rest_goes_to_the_first_ones() {
        let slices = slices(&names(3), &pods(11), Slicing::Original);
        let sorted = {
            let mut sorted: Vec<(String, usize)> =
                pods(11).iter().enumerate().map(|(i, p)| (p.to_string(), i)).collect();
            sorted.sort();
            sorted.into_iter().map(|(_, i)| i).collect::<Vec<_>>()
        };
        let positions = |slice: &[bool]| (0..11).filter(|p| slice[sorted[*p]]).collect::<Vec<_>>();
        assert_eq!(positions(&slices[0]), [0, 1, 2, 9]);
        assert_eq!(positions(&slices[1]), [3, 4, 5, 10]);
        assert_eq!(positions(&slices[2]), [6, 7, 8]);
    }

    #[test]
    fn given_a_list_without_us_then_there_is_no_division() {
        assert_eq!(Activators::new(["10.0.0.1"], "10.0.0.2"), None);
    }
}
