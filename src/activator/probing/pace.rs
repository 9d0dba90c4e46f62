//! How long to wait after a failed probe.

use std::time::Duration;

use super::super::throttle::Pace;

/// The first pause; each is twice the one before it.
const FIRST: Duration = Duration::from_millis(5);
/// The longest pause while a request waits. A pod becomes able to answer at any moment of a pause, so half of it is
/// what a held request loses on average.
pub(super) const WAITED_FOR: Duration = Duration::from_millis(10);
/// The same, when the pod answers that it is not ready: each probe makes its queue ask the application.
const WAITED_FOR_ANSWERING: Duration = Duration::from_millis(20);
/// How long the shortest pauses are kept up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest pause while requests go through the cluster IP.
const FALLBACK: Duration = Duration::from_secs(30);
/// The pauses for a pod that a request could not be handed to.
const ASIDE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// What each address that is being probed adds to the pauses of all, so that 2,000 probes a second are the most.
const EACH: Duration = Duration::from_micros(500);

/// What a pause depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    pub(super) pace: Pace,
    /// Failed probes in a row.
    pub(super) failures: u32,
    /// How long this address has been probed.
    pub(super) age: Duration,
    /// Whether requests wait for it.
    pub(super) is_waited_for: bool,
    /// Whether something answered.
    pub(super) answered: bool,
    /// Addresses that are being probed.
    pub(super) crowd: usize,
    /// The longest pause while nobody waits: `PROBE_FREQUENCY`.
    pub(super) frequency: Duration,
}

impl Situation {
    /// The pause after the last failure.
    pub(super) fn pause(self) -> Duration {
        match self.pace {
            Pace::Usual => {
                let longest = match self.is_waited_for {
                    false => self.frequency,
                    true if self.answered || self.age > PATIENCE => WAITED_FOR_ANSWERING,
                    true => WAITED_FOR,
                };
                let crowded = EACH.saturating_mul(u32::try_from(self.crowd).unwrap_or(u32::MAX));
                doubled(FIRST, self.failures.saturating_sub(1), longest.max(crowded).min(self.frequency))
            }
            Pace::Fallback => doubled(FIRST, self.failures.saturating_sub(1), FALLBACK),
            Pace::Aside { strikes } => aside(strikes, self.failures),
        }
    }
}

/// The pause before a pod that failed `strikes` times in a row is probed, after `failures` failed probes.
pub(super) fn aside(strikes: u8, failures: u32) -> Duration {
    doubled(ASIDE.0, u32::from(strikes.saturating_sub(1)).saturating_add(failures), ASIDE.1)
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(24)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(situation: Situation, count: u32) -> Vec<u128> {
        (1..=count).map(|failures| Situation { failures, ..situation }.pause().as_millis()).collect()
    }

    const USUAL: Situation = Situation {
        pace: Pace::Usual,
        failures: 0,
        age: Duration::ZERO,
        is_waited_for: false,
        answered: false,
        crowd: 1,
        frequency: Duration::from_millis(200),
    };

    /// A3 of the issue.
    #[test]
    fn given_nobody_waits_then_pauses_double_up_to_the_frequency() {
        assert_eq!(pauses(USUAL, 8), [5, 10, 20, 40, 80, 160, 200, 200]);
    }

    #[test]
    fn given_a_request_waits_then_pauses_stay_short_and_grow_with_age_answers_and_crowd() {
        let waited_for = Situation { is_waited_for: true, ..USUAL };
        assert_eq!(pauses(waited_for, 4), [5, 10, 10, 10]);
        assert_eq!(pauses(Situation { answered: true, ..waited_for }, 4), [5, 10, 20, 20]);
        assert_eq!(pauses(Situation { age: Duration::from_secs(11), ..waited_for }, 4), [5, 10, 20, 20]);
        assert_eq!(pauses(Situation { crowd: 100, ..waited_for }, 5), [5, 10, 20, 40, 50]);
        assert_eq!(pauses(Situation { crowd: 10_000, ..waited_for }, 7), [5, 10, 20, 40, 80, 160, 200]);
    }

    /// A2 and A3: put aside from 100 ms to 5 s, over probes that pass; a fallback is probed at least every 30 s.
    #[test]
    fn given_a_pod_put_aside_or_a_fallback_then_pauses_double_to_their_own_bound() {
        let aside = |strikes| Situation { pace: Pace::Aside { strikes }, ..USUAL };
        assert_eq!(pauses(aside(1), 6), [200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(pauses(aside(4), 3), [1600, 3200, 5000]);
        assert_eq!(pauses(aside(255), 1), [5000]);
        assert_eq!(super::aside(1, 0), Duration::from_millis(100));
        let fallback = pauses(Situation { pace: Pace::Fallback, ..USUAL }, 20);
        assert_eq!((fallback[0], fallback[7], fallback[19]), (5, 640, 30_000));
    }
}
