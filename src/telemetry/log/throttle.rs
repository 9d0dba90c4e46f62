//! Once per reason and period: for causes that come with each request (a peer that is down, a bad certificate).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reasons that are remembered; the oldest is forgotten first.
const REASONS: usize = 64;

/// Lets each distinct reason through once in a period. Usually a `static` by the place that logs.
///
/// ```
/// # use std::time::Duration;
/// static FAILURES: lockkeeper::telemetry::log::Throttle = lockkeeper::telemetry::log::Throttle::every(Duration::from_secs(10));
/// assert!(FAILURES.allows("refused"));
/// assert!(!FAILURES.allows("refused"));
/// ```
#[derive(Debug)]
pub struct Throttle {
    period: Duration,
    seen: Mutex<Vec<(u64, Instant)>>,
}

impl Throttle {
    /// A throttle with the given period.
    pub const fn every(period: Duration) -> Self {
        Self { period, seen: Mutex::new(Vec::new()) }
    }

    /// True if `reason` was not let through within the period.
    pub fn allows(&self, reason: &str) -> bool {
        self.allows_at(reason, Instant::now())
    }

    fn allows_at(&self, reason: &str, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        reason.hash(&mut hasher);
        let hash = hasher.finish();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|(_, at)| now.saturating_duration_since(*at) < self.period);
        if seen.iter().any(|(known, _)| *known == hash) {
            return false;
        }
        if seen.len() >= REASONS {
            seen.remove(0);
        }
        seen.push((hash, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_reason_repeats_then_it_passes_once_a_period() {
        let throttle = Throttle::every(Duration::from_secs(10));
        let start = Instant::now();

        assert!(throttle.allows_at("refused", start));
        assert!(!throttle.allows_at("refused", start + Duration::from_secs(9)));
        assert!(throttle.allows_at("eof", start + Duration::from_secs(9)));
        assert!(throttle.allows_at("refused", start + Duration::from_secs(10)));
    }

    #[test]
    fn when_reasons_never_repeat_then_memory_stays_bounded() {
        let throttle = Throttle::every(Duration::from_secs(10));
        let now = Instant::now();

        for i in 0..10_000 {
            throttle.allows_at(&i.to_string(), now);
        }

        assert_eq!(throttle.seen.lock().map_or(0, |seen| seen.len()), REASONS);
    }
}
