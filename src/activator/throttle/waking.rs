//! When a revision that requests waited for woke up, for who measures cold starts.
//!
//! Beside the state machine, which has no clock. Written by the control side and the prober, read by the first request
//! that is granted a slot afterwards, under the lock of the revision's handle.
use std::time::{Duration, Instant};

/// A revision without a usable pod got one while requests waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woke {
    /// When Kubernetes first listed an address.
    pub listed: Instant,
    /// When the first pod, or the cluster IP, could be used.
    pub usable: Instant,
}

/// The parts of a cold start, as its first request saw them. Together they are the time from its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdStart {
    /// From the arrival to the first address: scaling up, scheduling, pulling the image.
    pub pod: Duration,
    /// From there until a pod could be used: the application's start.
    pub ready: Duration,
    /// From there until the request was sent on.
    pub sent: Duration,
}

impl Woke {
    /// The parts for a request that came at `arrived` and was sent on at `now`; none if a pod was there when it came.
    #[must_use]
    pub fn seen_by(&self, arrived: Instant, now: Instant) -> Option<ColdStart> {
        let listed = self.listed.max(arrived);
        (self.usable >= arrived).then(|| ColdStart {
            pod: listed - arrived,
            ready: self.usable.saturating_duration_since(listed),
            sent: now.saturating_duration_since(self.usable),
        })
    }
}

/// What is remembered of the way from nothing to a usable pod.
#[derive(Debug, Default)]
pub(super) struct Waking {
    listed: Option<Instant>,
    awake: bool,
    woke: Option<Box<Woke>>,
}

impl Waking {
    /// Whether no pod could be used so far.
    pub(super) fn is_asleep(&self) -> bool {
        !self.awake
    }

    /// Addresses are listed, and something can be used, or not; `waited_for`: requests waited before it was so.
    pub(super) fn see(&mut self, listed: bool, usable: bool, waited_for: bool, now: Instant) {
        self.listed = if listed { self.listed.or(Some(now)) } else { None };
        if usable && !self.awake {
            self.woke = waited_for.then(|| Box::new(Woke { listed: self.listed.unwrap_or(now), usable: now }));
        } else if !usable {
            self.woke = None;
        }
        self.awake = usable;
    }

    /// For the first request that goes on.
    pub(super) fn take(&mut self) -> Option<Box<Woke>> {
        self.woke.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_request_that_waits_when_its_revision_wakes_then_the_parts_add_up_once() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut waking = Waking::default();
        waking.see(true, false, true, at(100));
        waking.see(true, false, true, at(150));
        assert!(waking.is_asleep());
        waking.see(true, true, true, at(400));
        let woke = waking.take().map(|woke| *woke);
        let parts = woke.and_then(|woke| woke.seen_by(at(10), at(403)));
        let millis = Duration::from_millis;
        assert_eq!(parts, Some(ColdStart { pod: millis(90), ready: millis(300), sent: millis(3) }));
        assert!(waking.take().is_none(), "once");
        // It came when the pod was listed already; or when it could be used.
        let late = woke.and_then(|woke| woke.seen_by(at(200), at(403)));
        assert_eq!(late, Some(ColdStart { pod: millis(0), ready: millis(200), sent: millis(3) }));
        assert_eq!(woke.and_then(|woke| woke.seen_by(at(401), at(403))), None);

        // Another pod is no cold start; nor is waking for nobody; nor a wake that was over before anybody went on.
        waking.see(true, true, true, at(500));
        assert!(waking.take().is_none());
        waking.see(false, false, false, at(600));
        waking.see(true, true, false, at(700));
        assert!(waking.take().is_none());
        waking.see(false, false, false, at(800));
        waking.see(true, true, true, at(900));
        waking.see(false, false, false, at(901));
        assert!(waking.take().is_none());
    }
}
