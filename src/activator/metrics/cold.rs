//! Cold starts by their parts, of each revision that had any.
//!
//! One is recorded when the first request of a wake is sent on: so seldom that a lock costs nothing.
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::activator::throttle::ColdStart;
use crate::telemetry::histogram::{Bounds, Total};

/// In nanoseconds, printed as seconds: from what is lost between a pod and its request to the pull of an image.
pub static BOUNDS: Bounds = Bounds {
    upper: &[
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
        20_000_000_000,
        30_000_000_000,
        60_000_000_000,
        120_000_000_000,
    ],
    unit: 1e9,
};

/// The values of the label `phase`: the parts, and all of them together.
pub const PHASES: [&str; 4] = ["pod", "ready", "sent", "total"];

/// The histograms of one revision, made with its first cold start.
#[derive(Debug, Default)]
pub struct ColdStarts(Mutex<Option<Box<[Total; PHASES.len()]>>>);

impl ColdStarts {
    /// Counts one.
    pub fn record(&self, ColdStart { pod, ready, sent }: ColdStart) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = totals.get_or_insert_default();
        for (total, time) in totals.iter_mut().zip([pod, ready, sent, pod + ready + sent]) {
            count(total, time);
        }
    }

    /// Each phase and its histogram; nothing before the first cold start.
    #[must_use]
    pub fn totals(&self) -> Vec<(&'static str, Total)> {
        let totals = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        totals.into_iter().flat_map(|totals| PHASES.into_iter().zip(*totals)).collect()
    }
}

fn count(total: &mut Total, time: Duration) {
    let value = super::nanos(time);
    let index = BOUNDS.upper.iter().position(|upper| value <= *upper).unwrap_or(BOUNDS.upper.len());
    if let Some(bucket) = total.buckets.get_mut(index) {
        *bucket += 1;
    }
    total.sum = total.sum.wrapping_add(value);
}
