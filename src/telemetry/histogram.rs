//! Histograms that one worker writes and a scrape reads.
//!
//! Each worker owns its cells: an update is a load and a store of plain atomics, without a lock, an atomic
//! read-modify-write or a shared cache line. A scrape adds up the cells of all workers; it may miss the newest updates,
//! never tear one. Values are integers (nanoseconds, bytes) and become floats only when they are printed.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets that any of our histograms may have, the last one (above all bounds) included.
const BUCKETS: usize = 16;

/// Upper bounds of a histogram's buckets and the size of its unit.
#[derive(Debug)]
pub struct Bounds {
    /// Ascending and inclusive, at most 15.
    pub upper: &'static [u64],
    /// One printed unit, in values: 1e9 where nanoseconds are printed as seconds.
    pub unit: f64,
}

/// The worker's cells of one series.
#[derive(Debug, Default)]
pub struct Cells {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Cells {
    /// Counts a value. Only the worker that owns the cells may call this.
    pub fn observe(&self, bounds: &Bounds, value: u64) {
        let index = bounds.upper.iter().position(|upper| value <= *upper).unwrap_or(bounds.upper.len());
        if let Some(bucket) = self.buckets.get(index) {
            add(bucket, 1);
        }
        add(&self.sum, value);
    }

    /// Adds these cells to `total`.
    pub fn add_to(&self, total: &mut Total) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Ordering::Relaxed);
        }
        total.sum += self.sum.load(Ordering::Relaxed);
    }
}

/// Adds to a counter that only the calling thread writes.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

/// The cells of all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Values in each bucket (not cumulative).
    pub buckets: [u64; BUCKETS],
    /// Sum of all values.
    pub sum: u64,
}

impl Total {
    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { upper: &[0, 5, 10], unit: 1.0 };

    #[test]
    fn when_a_value_is_a_bound_then_it_is_inside() {
        let cells = Cells::default();
        for value in [0, 1, 5, 6, 10, 11, 1000] {
            cells.observe(&BOUNDS, value);
        }

        let mut total = Total::default();
        cells.add_to(&mut total);

        assert_eq!(total.buckets.get(..5), Some(&[1, 2, 2, 2, 0][..]));
        assert_eq!((total.sum, total.count()), (1033, 7));
    }

    proptest! {
        #[test]
        fn when_workers_count_apart_then_the_total_is_as_if_one_had_counted(values in prop::collection::vec(0_u64..20, 0..50)) {
            let (one, shards) = (Cells::default(), [Cells::default(), Cells::default()]);
            for (i, value) in values.iter().enumerate() {
                one.observe(&BOUNDS, *value);
                shards.get(i % 2).into_iter().for_each(|cells| cells.observe(&BOUNDS, *value));
            }
            let (mut whole, mut sum) = (Total::default(), Total::default());
            one.add_to(&mut whole);
            shards.iter().for_each(|cells| cells.add_to(&mut sum));
            prop_assert_eq!(whole, sum);
        }
    }
}
