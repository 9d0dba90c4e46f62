//! Series of an instrument: bounded in number whatever clients send, found without allocating.
//!
//! All workers share one [`Table`] of label sets; each has a [`Shard`] of it with its own cells. A worker finds a
//! series by comparing with the one it used last, then among at most 64. Only a label set that the worker has never
//! seen takes the table's lock.
//!
//! Client-controlled labels can't grow the table: the first [`OPEN`] label sets get their own series at once; then only
//! one that comes often does, until [`EXACT`] are in use, so that a flood of random hosts does not keep the real one
//! out. Everything else is folded step by step ([`Labels::folded`]) into the rest of the 64.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Series of an instrument at most.
pub const LIMIT: usize = 64;
/// Label sets that get a series of their own without having earned it.
const OPEN: usize = 32;
/// Label sets with a series of their own at most.
const EXACT: usize = 48;
/// How many series there may be before a label set has to be folded to the given step. Step 0 is exact.
const ROOM: [usize; 4] = [EXACT, 58, LIMIT - 1, LIMIT];
/// How often a label set must come, within [`WINDOW`] others, to earn a series.
const OFTEN: u8 = 64;
const WINDOW: u32 = 4096;
/// Counters of a worker for label sets that wait for a series: with random ones each counts to about 16 in a window.
const SKETCH: usize = 512;

/// A set of labels that is looked up by reference and kept as an owned value.
pub trait Labels {
    /// What the table keeps.
    type Owned;

    /// True if `owned` was made of these labels.
    fn is(&self, owned: &Self::Owned) -> bool;

    /// A cheap hash; need not be strong, equality is checked.
    fn hash(&self) -> u64;

    /// These labels with less detail: step 1, 2 or 3; step 3 must be the same for all.
    fn folded(&self, step: usize) -> Self;

    /// Makes what the table keeps.
    fn to_owned(&self) -> Self::Owned;
}

/// Equality of two labels, without a look at the text of those that are empty or the same constant.
///
/// A comparison of no bytes still reaches `memcmp` with an address that nothing is mapped at; glibc's AVX-512 one loads
/// from it with an empty mask, which costs some 200 cycles each time on AMD's Zen 4. Six a request were 4 per cent of it.
pub fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && (a.is_empty() || std::ptr::eq(a, b) || a == b)
}

/// The label sets of an instrument and every worker's cells.
pub struct Table<K, C> {
    keys: Mutex<Vec<Arc<K>>>,
    shards: Box<[[OnceLock<Box<C>>; LIMIT]]>,
}

impl<K, C> Table<K, C> {
    /// An empty table for so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
            shards: (0..workers).map(|_| [const { OnceLock::new() }; LIMIT]).collect(),
        })
    }

    /// Calls `visit` for each series with the cells of those workers that have any.
    pub fn each(&self, mut visit: impl FnMut(&K, &mut dyn Iterator<Item = &C>)) {
        // The keys are cloned, not visited under the lock: a worker may be waiting for it.
        let keys = self.keys().clone();
        for (index, key) in keys.iter().enumerate() {
            let mut cells = self.shards.iter().filter_map(|shard| shard.get(index)?.get()).map(|cells| &**cells);
            visit(key, &mut cells);
        }
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Arc<K>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's part of a [`Table`]. Belongs to its thread.
pub struct Shard<K, C> {
    table: Arc<Table<K, C>>,
    worker: usize,
    last: Cell<usize>,
    /// Series that this worker has met: hash and key by index, absent for those of others.
    known: RefCell<Vec<Known<K>>>,
    earning: RefCell<Option<Box<Earning>>>,
}

struct Known<K> {
    hash: u64,
    key: Arc<K>,
    index: usize,
}

struct Earning {
    hasher: RandomState,
    seen: [u8; SKETCH],
    window: u32,
}

impl<K, C: Default> Shard<K, C> {
    /// The part of worker `worker`. Workers beyond the table's number count nothing.
    pub fn new(table: &Arc<Table<K, C>>, worker: usize) -> Self {
        Self {
            table: Arc::clone(table),
            worker,
            last: Cell::new(0),
            known: RefCell::default(),
            earning: RefCell::default(),
        }
    }

    /// Calls `update` with the cells of these labels, or of those that they are folded into.
    pub fn with<L: Labels<Owned = K>>(&self, labels: &L, update: impl FnOnce(&C)) {
        let Some(index) = self.find(labels) else { return };
        let cells = self.table.shards.get(self.worker).and_then(|shard| shard.get(index));
        if let Some(cells) = cells {
            update(cells.get_or_init(Box::default));
        }
    }

    fn find<L: Labels<Owned = K>>(&self, labels: &L) -> Option<usize> {
        {
            let known = self.known.borrow();
            if let Some(last) = known.get(self.last.get())
                && labels.is(&last.key)
            {
                return Some(last.index);
            }
        }
        let hash = labels.hash();
        self.lookup(labels, hash).or_else(|| {
            let room = if self.table.keys().len() < OPEN || self.earned(hash) { ROOM[0] } else { 0 };
            self.admit(labels, hash, room).or_else(|| {
                (1..ROOM.len()).find_map(|step| {
                    let folded = labels.folded(step);
                    let hash = folded.hash();
                    self.lookup(&folded, hash).or_else(|| self.admit(&folded, hash, ROOM[step]))
                })
            })
        })
    }

    fn lookup<L: Labels<Owned = K>>(&self, labels: &L, hash: u64) -> Option<usize> {
        let known = self.known.borrow();
        let (position, found) =
            known.iter().enumerate().find(|(_, known)| known.hash == hash && labels.is(&known.key))?;
        self.last.set(position);
        Some(found.index)
    }

    /// Finds the labels among those of all workers, or adds them while there are fewer than `room`.
    fn admit<L: Labels<Owned = K>>(&self, labels: &L, hash: u64, room: usize) -> Option<usize> {
        let mut keys = self.table.keys();
        let index = match keys.iter().position(|key| labels.is(key)) {
            Some(index) => index,
            None if keys.len() < room => {
                keys.push(Arc::new(labels.to_owned()));
                keys.len() - 1
            }
            None => return None,
        };
        let key = Arc::clone(keys.get(index)?);
        drop(keys);
        let mut known = self.known.borrow_mut();
        known.push(Known { hash, key, index });
        self.last.set(known.len() - 1);
        Some(index)
    }

    /// Counts a label set without a series; true once it came often.
    fn earned(&self, hash: u64) -> bool {
        let mut earning = self.earning.borrow_mut();
        let earning = earning
            .get_or_insert_with(|| Box::new(Earning { hasher: RandomState::new(), seen: [0; SKETCH], window: 0 }));
        earning.window += 1;
        if earning.window >= WINDOW {
            earning.window = 0;
            earning.seen.iter_mut().for_each(|seen| *seen /= 2);
        }
        // Keyed, so that nobody can make another label set's counter rise.
        let slot = earning.hasher.hash_one(hash) as usize % SKETCH;
        earning.seen.get_mut(slot).is_some_and(|seen| {
            *seen = seen.saturating_add(1);
            *seen >= OFTEN
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::histogram::add;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A host, folded to "other".
    #[derive(Clone, Copy)]
    struct Host(u64);

    impl Labels for Host {
        type Owned = u64;
        fn is(&self, owned: &u64) -> bool {
            self.0 == *owned
        }
        fn hash(&self) -> u64 {
            self.0
        }
        fn folded(&self, _: usize) -> Self {
            Self(u64::MAX)
        }
        fn to_owned(&self) -> u64 {
            self.0
        }
    }

    fn counts(table: &Table<u64, AtomicU64>) -> Vec<(u64, u64)> {
        let mut counts = Vec::new();
        table.each(|key, cells| counts.push((*key, cells.map(|c| c.load(Ordering::Relaxed)).sum())));
        counts
    }

    #[test]
    fn when_two_workers_count_the_same_labels_then_the_table_has_them_once() {
        let table = Table::new(2);
        let workers: [Shard<u64, AtomicU64>; 2] = [Shard::new(&table, 0), Shard::new(&table, 1)];
        for worker in &workers {
            worker.with(&Host(7), |n| add(n, 1));
            worker.with(&Host(8), |n| add(n, 1));
            worker.with(&Host(7), |n| add(n, 1));
        }

        assert_eq!(counts(&table), [(7, 4), (8, 2)]);
    }

    /// O2: clients can't make more than 64 series, and a host that comes often has its own even after a flood.
    #[test]
    fn given_a_flood_of_labels_when_one_comes_often_then_it_earns_a_series_and_all_are_bounded() {
        let table = Table::new(1);
        let worker: Shard<u64, AtomicU64> = Shard::new(&table, 0);
        for i in 0..100_000 {
            worker.with(&Host(1000 + i), |n| add(n, 1));
        }
        assert!(counts(&table).len() <= OPEN + 1);

        for i in 0..20_000 {
            worker.with(&Host(200_000 + i), |n| add(n, 1));
            if i % 4 == 0 {
                worker.with(&Host(7), |n| add(n, 1));
            }
        }

        let counts = counts(&table);
        assert!(counts.len() <= LIMIT, "{}", counts.len());
        assert!(counts.iter().any(|(key, n)| *key == 7 && *n > 4000), "{counts:?}");
        assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), 125_000);
    }
}
