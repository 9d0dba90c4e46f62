//! Leaving: everything is served as before while the world notices, then listeners close and what is in flight ends.
//!
//! Unlike the original, HTTP/2 connections without TLS and upgraded ones end like the others, and the process exits as
//! soon as nothing is in flight. Source: `knative.dev/serving/cmd/activator/main.go`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::health::Health;
use crate::http::guide::Order;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::signals::Signals;
use crate::worker::Workers;

/// What is left for last words when the grace period is over.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// What connections get to write out what they hold, once nothing is in flight.
const FLUSH: Duration = Duration::from_millis(80);

/// What the drain acts on.
pub struct Drainer {
    /// Fails readiness.
    pub health: Arc<Health>,
    /// Knows what is in flight.
    pub drain: Arc<Drain>,
    /// What connections are told.
    pub order: watch::Sender<Option<Order>>,
    /// Closes the listeners.
    pub close: watch::Sender<bool>,
    /// How long everything is served as before.
    pub time: Duration,
    /// From the signal to the moment in which what remains is cut; none is never.
    pub grace: Option<Duration>,
}

impl Drainer {
    /// Waits for a signal, then leaves; returns when the process may exit.
    pub async fn run(self, mut signals: Signals, workers: &Workers) {
        signals.received().await;
        tracing::info!("Received SIGTERM");
        signals.exit_at_next();
        self.health.leave();
        tracing::info!("Sleeping {:?} to allow K8s propagation of non-ready state", self.time);
        let grace = async {
            match self.grace {
                Some(grace) => tokio::time::sleep(grace.saturating_sub(LAST_WORDS)).await,
                None => std::future::pending().await,
            }
        };
        let whole = tokio::select! {
            () = self.finish(workers) => true,
            () = grace => false,
        };
        if !whole {
            tracing::warn!("The grace period is over: {} requests are cut", self.drain.in_flight());
            self.close.send_replace(true);
            self.order.send_replace(Some(Order::Leave));
            tokio::time::sleep(LAST_WORDS).await;
        }
        tracing::info!("Servers shutdown.");
    }

    async fn finish(&self, workers: &Workers) {
        tokio::time::sleep(self.time).await;
        tracing::info!("Done waiting, shutting down servers.");
        self.drain.set_draining(true);
        self.close.send_replace(true);
        self.order.send_replace(Some(Order::Finish));
        loop {
            let progress = self.drain.progress.notified();
            if self.drain.in_flight() <= 0 {
                break;
            }
            let _ = tokio::time::timeout(Duration::from_millis(500), progress).await;
        }
        let flushed = async {
            while workers.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }
}
