//! Leaving: signals, the hook of the user container, the quiet period, the end (`pkg/queue/sharedmain`, `pkg/queue/health`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::http::guide::Order;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::signals::Signals;
use crate::worker::Workers;

/// What is left for last words when the grace period is over.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// What connections get to write out what they hold, once nothing is in flight.
const FLUSH: Duration = Duration::from_millis(80);

/// The stages that the admin server and the listeners follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// No signal yet.
    Serving,
    /// Signal received.
    Signalled,
    /// Nothing has come for the quiet period, and nothing is in flight but upgraded connections. The application may be told
    /// to leave: it alone can end those in its protocol's words, and may wait with that for its own signal.
    Released,
    /// Nothing is in flight any more.
    Drained,
}

/// Settings of the drain.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Nothing but probes for this long before listeners close.
    pub quiet: Duration,
    /// From the signal to the moment in which what remains is cut.
    pub grace: Duration,
}

/// What the drain acts on.
pub struct Drainer {
    /// State that the data side sees.
    pub drain: Arc<Drain>,
    /// What connections are told.
    pub order: watch::Sender<Option<Order>>,
    /// Closes the data listeners.
    pub close: watch::Sender<bool>,
    /// For hooks that wait.
    pub stage: watch::Sender<Stage>,
    /// Settings.
    pub settings: Settings,
}

impl Drainer {
    /// Waits for a signal, then leaves; returns when the process may exit.
    pub async fn run(self, mut signals: Signals, workers: &Workers) {
        signals.received().await;
        let began = Instant::now();
        tracing::info!("Received TERM signal, attempting to gracefully shutdown servers.");
        signals.exit_at_next();
        self.drain.set_draining(true);
        self.stage.send_replace(Stage::Signalled);
        self.order.send_replace(Some(Order::Announce));
        tracing::info!("Sleeping {:?} to allow K8s propagation of non-ready state", self.settings.quiet);
        let grace = tokio::time::sleep(self.settings.grace.saturating_sub(LAST_WORDS));
        let leave = async {
            self.quiet(began).await;
            self.finish(workers).await;
        };
        let whole = tokio::select! {
            () = leave => true,
            () = grace => false,
        };
        if !whole {
            // A revision whose grace is shorter than the quiet period ends here with nothing in flight: no failure.
            match self.drain.in_flight() {
                ..=0 => tracing::info!("Shutting down server: main"),
                cut => tracing::warn!("Hijack connection drain failed: {cut} requests are cut"),
            }
            self.close.send_replace(true);
            self.order.send_replace(Some(Order::Leave));
            tokio::time::sleep(LAST_WORDS).await;
        }
        self.stage.send_replace(Stage::Drained);
    }

    /// Waits until no request has come for the quiet period.
    async fn quiet(&self, began: Instant) {
        loop {
            let last = self.drain.last_request().max(began);
            let until = last + self.settings.quiet;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    async fn finish(&self, workers: &Workers) {
        tracing::info!("Shutting down server: main");
        self.close.send_replace(true);
        self.order.send_replace(Some(Order::Finish));
        loop {
            let progress = self.drain.progress.notified();
            let in_flight = self.drain.in_flight();
            if in_flight <= 0 {
                break;
            }
            if in_flight <= self.drain.upgraded() {
                self.stage.send_replace(Stage::Released);
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), progress).await;
        }
        self.stage.send_replace(Stage::Drained);
        let flushed = async {
            while workers.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }
}

/// Answers `/wait-for-drain`: returns when the application may be told to leave, or when no signal came and the drain was
/// taken back.
pub async fn hook(drain: Arc<Drain>, mut stage: watch::Receiver<Stage>, reset: Duration) {
    drain.set_draining(true);
    let signalled = tokio::time::timeout(reset, stage.wait_for(|s| *s >= Stage::Signalled)).await.is_ok();
    if !signalled {
        drain.set_draining(false);
        return;
    }
    let _ = stage.wait_for(|s| *s >= Stage::Released).await;
}
