//! Waiting for what must happen, with a deadline and never a fixed time.
use std::time::{Duration, Instant};

/// How long to wait for what must happen: seconds in `LOCKKEEPER_TEST_PATIENCE`, default 20.
pub fn patience() -> Duration {
    let seconds = std::env::var("LOCKKEEPER_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Asks again and again until there is an answer; panics with `what` after [`patience`].
#[track_caller]
pub fn eventually_some<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        // Looked at before it is asked: what happened while the machine stood still has happened.
        let late = start.elapsed() >= patience();
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(!late, "did not happen within {:?}: {what}", patience());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks again and again until it is so.
#[track_caller]
pub fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    eventually_some(what, || ask().then_some(()));
}
