//! zap's sampling: of equal messages in one second the first 100 pass, then each 100th.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Equal messages that pass in one second, and then each how many-th (zapdriver's production configuration).
const FIRST: u64 = 100;
const THEN_EACH: u64 = 100;
/// Counters; two messages that share one only matter when both are floods.
const COUNTERS: usize = 256;

/// Counts messages. Lock-free, shared by all threads.
pub(super) struct Sampler {
    hasher: RandomState,
    /// Upper half: the second that is counted; lower half: how many.
    counters: [AtomicU64; COUNTERS],
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), counters: [const { AtomicU64::new(0) }; COUNTERS] }
    }

    /// True if a message from `place` at `second` (of any clock) may be written.
    pub(super) fn passes(&self, place: (&str, u32), message: &str, second: u64) -> bool {
        let hash = self.hasher.hash_one((place, message));
        let Some(counter) = self.counters.get(hash as usize % COUNTERS) else { return true };
        let second = second & 0xffff_ffff;
        let update = |old: u64| Some(if old >> 32 == second { old.saturating_add(1) } else { second << 32 | 1 });
        let old = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).unwrap_or_else(|old| old);
        let count = if old >> 32 == second { (old & 0xffff_ffff) + 1 } else { 1 };
        count <= FIRST || (count - FIRST).is_multiple_of(THEN_EACH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_equal_messages_flood_then_the_first_hundred_and_each_hundredth_pass() {
        let sampler = Sampler::new();

        let passed = |second| (0..1000).filter(|_| sampler.passes(("a.rs", 1), "same", second)).count();

        assert_eq!(passed(7), 109);
        assert_eq!(passed(8), 109);
    }
}
