//! What the machine takes for itself: bounds of time hold on it as on an idle one, less what everything here stood still.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How often the heart beats.
const BEAT: Duration = Duration::from_millis(5);

/// A thread that does nothing but wake up: what it wakes up too late, the machine was busy elsewhere.
pub struct Stalls {
    lost: Arc<AtomicU64>,
    _stop: Sender<()>,
}

impl Stalls {
    /// Watches from now on, until it is dropped.
    pub fn watch() -> Self {
        let (stop, stopped) = channel();
        let lost = Arc::new(AtomicU64::new(0));
        let adds = lost.clone();
        std::thread::spawn(move || {
            loop {
                let before = Instant::now();
                if stopped.recv_timeout(BEAT) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let late = before.elapsed().saturating_sub(BEAT);
                adds.fetch_add(u64::try_from(late.as_nanos()).unwrap(), Ordering::Relaxed);
            }
        });
        Self { lost, _stop: stop }
    }

    /// How long `work` took, less the time that was lost meanwhile.
    pub fn timed(&self, work: impl FnOnce()) -> Duration {
        let (start, before) = (Instant::now(), self.lost.load(Ordering::Relaxed));
        work();
        let lost = self.lost.load(Ordering::Relaxed) - before;
        start.elapsed().saturating_sub(Duration::from_nanos(lost))
    }
}

/// The middle one of an odd number.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
