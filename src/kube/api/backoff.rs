//! How long a watch that failed waits before it is tried again.
//!
//! client-go waits for 0.8 s, doubled up to 30 s, up to as long again at random, so that half a minute and more may
//! pass after an outage in which it acts on what was. Here the last wait is two seconds, up to half of it more at
//! random: what changed meanwhile acts within four seconds of the return of a server that refused connections; where
//! packets were lost, TCP's own pauses come on top. The server can afford it. Only activators and gateways watch, a few
//! kinds each; the random part keeps them apart; a watch that goes on where it was costs no list; while there is no
//! connection, all watches of a process ask for one twice a second at most ([`super::transport`]); and a server that
//! has too much to do says when it wants to be asked again.
//!
//! Source: client-go's `tools/cache/reflector.go` (`NewReflectorWithOptions`).
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The first wait, doubled up to the last.
pub(super) const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(2);
/// Longest wait that a server can ask for, with `Retry-After`; client-go's longest.
const ASKED: Duration = Duration::from_secs(30);

/// The waits of one watch.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Nothing has failed since it was new, or since the last success.
    pub(super) fn is_fresh(&self) -> bool {
        self.next == FIRST
    }

    /// Something went well.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now, and no shorter than the server `asked` for.
    pub(super) fn wait(&mut self, asked: Option<Duration>) -> Duration {
        let wait = self.next.max(asked.unwrap_or_default().min(ASKED));
        self.next = (self.next * 2).min(LAST);
        wait + random(wait / 2)
    }
}

/// From zero up to `limit`.
pub(super) fn random(limit: Duration) -> Duration {
    let drawn = RandomState::new().hash_one(0) % 1000;
    limit.mul_f64(drawn as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However long the server is gone, what changed is known three seconds after its return.
    #[test]
    fn given_a_server_that_is_gone_for_a_minute_when_its_return_is_awaited_then_no_wait_is_over_three_seconds() {
        let mut backoff = Backoff::new();
        let (mut gone, mut attempts) = (Duration::ZERO, 0);
        while gone < Duration::from_secs(60) {
            let wait = backoff.wait(None);
            assert!((FIRST..=Duration::from_secs(3)).contains(&wait), "{wait:?}");
            gone += wait;
            attempts += 1;
        }
        assert!((20..=35).contains(&attempts), "{attempts}");
        backoff.reset();
        assert!(backoff.is_fresh() && backoff.wait(None) < FIRST * 2);
        assert!(!backoff.is_fresh());
    }

    /// Watches that lost the same server do not come back in step.
    #[test]
    fn given_many_watches_when_they_wait_then_they_come_back_apart() {
        let mut waits: Vec<Duration> = (0..100).map(|_| Backoff { next: LAST }.wait(None)).collect();
        waits.sort_unstable();
        assert!(waits[90] - waits[10] > LAST / 4, "{waits:?}");
    }

    /// A server that is overloaded is left alone for as long as it asks, within reason.
    #[test]
    fn given_a_server_that_asks_for_time_when_it_is_tried_again_then_no_sooner() {
        let seconds = Duration::from_secs;
        for (asked, least, most) in [(0, FIRST, FIRST * 2), (10, seconds(10), seconds(15)), (3600, ASKED, ASKED * 2)] {
            let wait = Backoff::new().wait(Some(seconds(asked)));
            assert!((least..=most).contains(&wait), "{asked} s: {wait:?}");
        }
    }
}
