//! The one task that tries the application, and the handle by which workers ask it.
//!
//! [`start`] is called on the control side; [`Handle`] goes to every worker. Rules: aggressive mode tries at once and
//! then until it is good or 10 s are over; standard mode tries once a round. All containers are tried at the same time
//! and all must be good. Who asks during a round shares its result; no result outlives its round, so that a restart of
//! the application shows at once. At most one log line in 10 s for each cause.
//! Source: `knative.dev/serving/pkg/queue/readiness/probe.go`.
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Probe;
use super::attempt::{Attempt, Failure};

/// Least time between two log lines of one cause.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Causes remembered for the log; texts may hold what the application answers, so they are bounded.
const MAX_CAUSES: usize = 32;

/// The times of a round in aggressive mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long a round goes on trying.
    pub(super) window: Duration,
    /// Limit of one try.
    pub(super) attempt: Duration,
    /// From the start of one try to the start of the next.
    pub(super) retry: Duration,
    /// The same while nothing listens: such tries cost the application nothing and an early success is worth most.
    pub(super) retry_refused: Duration,
}

/// `PollTimeout`, `aggressiveProbeTimeout` and `retryInterval` of the Go file; the last one is ours.
pub(super) const TIMING: Timing = Timing {
    window: Duration::from_secs(10),
    attempt: Duration::from_millis(100),
    retry: Duration::from_millis(50),
    retry_refused: Duration::from_millis(20),
};

type Ask = oneshot::Sender<bool>;

/// Asks the prober; cheap to clone, usable from any runtime.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: Option<mpsc::UnboundedSender<Ask>>,
}

impl Handle {
    /// A handle that says ready without trying anything: no probe was set.
    pub fn always_ready() -> Self {
        Self { asks: None }
    }

    /// Whether the application is ready, now. Joins the round under way, else begins one; dropping the future does not
    /// end the round.
    pub async fn check(&self) -> bool {
        let Some(asks) = &self.asks else { return true };
        let (answer, result) = oneshot::channel();
        asks.send(answer).is_ok() && result.await.unwrap_or(false)
    }
}

/// Starts the prober on the current runtime (the control side). Without probes the application is always ready.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start(probes: Vec<Probe>, auto_detect_http2: bool) -> Handle {
    start_with(probes, auto_detect_http2, TIMING)
}

pub(super) fn start_with(probes: Vec<Probe>, auto_detect_http2: bool, timing: Timing) -> Handle {
    if probes.is_empty() {
        return Handle::always_ready();
    }
    let containers = probes.into_iter().map(|probe| Container::new(&probe, auto_detect_http2, timing)).collect();
    let (asks, asked) = mpsc::unbounded_channel();
    tokio::spawn(serve(asked, containers));
    Handle { asks: Some(asks) }
}

/// Runs a round whenever somebody asks; ends with the last handle.
async fn serve(mut asked: mpsc::UnboundedReceiver<Ask>, mut containers: Vec<Container>) {
    let mut log = Log::default();
    while let Some(first) = asked.recv().await {
        let mut waiting = vec![first];
        let complaints = {
            let mut round = pin!(round(&mut containers));
            loop {
                tokio::select! {
                    complaints = &mut round => break complaints,
                    Some(ask) = asked.recv() => waiting.push(ask),
                }
            }
        };
        let is_ready = complaints.is_none();
        for ask in waiting {
            let _ = ask.send(is_ready);
        }
        complaints.into_iter().flatten().for_each(|complaint| log.write(complaint));
    }
}

/// A container's part of a round.
type Running<'c> = Pin<Box<dyn Future<Output = Result<(), Option<Complaint>>> + Send + 'c>>;

/// Tries all containers at once; what is wrong, if anything is. The list may be empty: not ready, but nothing to say.
async fn round(containers: &mut [Container]) -> Option<Vec<Complaint>> {
    let mut tries: Vec<Option<Running<'_>>> =
        containers.iter_mut().map(|container| Some(Box::pin(container.run()) as Running<'_>)).collect();
    let mut complaints = Vec::new();
    let mut is_ready = true;
    poll_fn(|cx| {
        for slot in &mut tries {
            let Some(Poll::Ready(result)) = slot.as_mut().map(|one| one.as_mut().poll(cx)) else { continue };
            *slot = None;
            if let Err(complaint) = result {
                is_ready = false;
                complaints.extend(complaint);
            }
        }
        if tries.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (!is_ready).then_some(complaints)
}

/// A container with its probe.
struct Container {
    attempt: Attempt,
    /// `None`: standard mode, one try.
    aggressive: Option<Timing>,
    /// Limit of one try in standard mode.
    limit: Option<Duration>,
    /// Good tries in a row that are needed in aggressive mode.
    threshold: u32,
    /// Good tries in a row so far; kept between rounds.
    good: u32,
}

impl Container {
    fn new(probe: &Probe, auto_detect_http2: bool, timing: Timing) -> Self {
        let seconds = u64::try_from(probe.timeout_seconds).unwrap_or_default();
        Self {
            attempt: Attempt::new(probe, auto_detect_http2),
            aggressive: probe.is_aggressive().then_some(timing),
            limit: (seconds > 0).then(|| Duration::from_secs(seconds)),
            threshold: u32::try_from(probe.success_threshold).unwrap_or_default(),
            good: 0,
        }
    }

    async fn run(&mut self) -> Result<(), Option<Complaint>> {
        // What can never be good is not tried again and again for 10 s.
        match self.aggressive.filter(|_| !matches!(self.attempt, Attempt::Never(_))) {
            Some(timing) => self.repeat(timing).await,
            None => self.attempt.run(self.limit).await.map_err(|failure| Some(Complaint { failure, times: None })),
        }
    }

    async fn repeat(&mut self, timing: Timing) -> Result<(), Option<Complaint>> {
        let deadline = Instant::now() + timing.window;
        let mut complaint: Option<Complaint> = None;
        let mut failures = 0_u32;
        loop {
            let started = Instant::now();
            let pause = match self.attempt.run(Some(timing.attempt)).await {
                Ok(()) => {
                    self.good = self.good.saturating_add(1);
                    if self.good >= self.threshold {
                        return Ok(());
                    }
                    timing.retry
                }
                Err(failure) => {
                    self.good = 0;
                    failures += 1;
                    let pause = if failure.refused { timing.retry_refused } else { timing.retry };
                    complaint = Some(Complaint { failure, times: Some(failures) });
                    pause
                }
            };
            sleep_until((started + pause).min(deadline)).await;
            if Instant::now() >= deadline {
                return Err(complaint);
            }
        }
    }
}

/// Why a container is not ready.
struct Complaint {
    failure: Failure,
    /// Failed tries of the round, in aggressive mode.
    times: Option<u32>,
}

/// Writes each cause at most once in [`LOG_INTERVAL`].
#[derive(Default)]
struct Log {
    written: HashMap<String, Instant>,
}

impl Log {
    fn write(&mut self, complaint: Complaint) {
        let Complaint { failure, times } = complaint;
        if !self.is_due(&failure.text, Instant::now()) {
            return;
        }
        match times {
            Some(times) => tracing::warn!("aggressive probe error (failed {times} times): {}", failure.text),
            None => tracing::warn!("readiness probe error: {}", failure.text),
        }
    }

    fn is_due(&mut self, cause: &str, now: Instant) -> bool {
        self.written.retain(|_, at| now.duration_since(*at) < LOG_INTERVAL);
        if self.written.contains_key(cause) || self.written.len() >= MAX_CAUSES {
            return false;
        }
        self.written.insert(cause.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_cause_that_was_logged_then_it_is_due_again_after_the_interval_and_others_at_once() {
        let mut log = Log::default();
        let start = Instant::now();
        assert!(log.is_due("refused", start));
        assert!(!log.is_due("refused", start + LOG_INTERVAL / 2));
        assert!(log.is_due("timeout", start + LOG_INTERVAL / 2));
        assert!(log.is_due("refused", start + LOG_INTERVAL));
    }
}
