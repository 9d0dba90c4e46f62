//! A map by name that is published whole and changes a little at a time: the gateway's routes by host, its certificates by
//! server name.
//!
//! It consists of shards. The control side makes a copy, changes a few names and publishes it; the copy shares all shards
//! with its predecessor but those that changed. The data side looks a name up without locks or allocation.
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// Names are spread over this many maps: of 30,000, a change copies about 30.
const SHARDS: usize = 1024;

type Shard<V> = HashMap<Box<str>, V, RandomState>;

/// The map.
pub struct Shards<V> {
    shards: Box<[Arc<Shard<V>>]>,
    hasher: RandomState,
}

// Derived, it would ask `V: Clone`.
impl<V> Clone for Shards<V> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone() }
    }
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        // One empty shard stands in for all.
        let shards = std::iter::repeat_n(Arc::new(Shard::default()), SHARDS).collect();
        Self { shards, hasher: RandomState::default() }
    }
}

impl<V> fmt::Debug for Shards<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<V> Shards<V> {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&V> {
        self.shards.get(self.shard(name))?.get(name)
    }

    /// Every name with its value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(name, value)| (&**name, value))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    fn shard(&self, name: &str) -> usize {
        usize::try_from(self.hasher.hash_one(name) % SHARDS as u64).unwrap_or(0)
    }
}

impl<V: Clone> Shards<V> {
    /// Gives a name its value, or takes it out.
    pub fn set(&mut self, name: &str, value: Option<V>) {
        let at = self.shard(name);
        let Some(shard) = self.shards.get_mut(at) else { return };
        let shard = Arc::make_mut(shard);
        match value {
            Some(value) => shard.insert(name.into(), value),
            None => shard.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_copy_when_it_changes_then_the_original_does_not_and_they_share_the_rest() {
        let mut before = Shards::default();
        for number in 0..5000 {
            before.set(&number.to_string(), Some(number));
        }
        let mut after = before.clone();
        after.set("7", Some(70));
        after.set("8", None);
        after.set("new", Some(1));

        assert_eq!(
            (before.get("7"), before.get("8"), before.get("new"), before.len()),
            (Some(&7), Some(&8), None, 5000)
        );
        assert_eq!((after.get("7"), after.get("8"), after.get("new"), after.len()), (Some(&70), None, Some(&1), 5000));
        assert_eq!(after.iter().map(|(_, number)| number).sum::<i32>(), (0..5000).sum::<i32>() + 70 - 7 - 8 + 1);
        let same = before.shards.iter().zip(&after.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(same >= SHARDS - 3, "{same}");
    }
}
