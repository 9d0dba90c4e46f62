//! Leaving: readiness falls at once; for a while connections are still taken, since others learn late that this replica
//! leaves; then what is in flight ends, and what has not by the end of the drain time is cut.
//!
//! Control side. No hook is needed. The times are those of net-kourier's Envoy (`DRAIN_TIME_SECONDS`).
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::live::Live;
use crate::http::guide::Order;
use crate::lifecycle::drain::Drain;
use crate::worker::Workers;

/// What connections get to write out what they hold, once nothing is in flight or the time is over.
const FLUSH: Duration = Duration::from_millis(200);

/// What the drain acts on.
pub struct Drainer {
    /// Fails readiness.
    pub live: Arc<Live>,
    /// Knows what is in flight.
    pub drain: Arc<Drain>,
    /// What connections are told.
    pub order: watch::Sender<Option<Order>>,
    /// Closes the listeners.
    pub close: watch::Sender<bool>,
    /// From the signal to the moment in which what remains is cut.
    pub time: Duration,
    /// How much of that new connections are still taken.
    pub settle: Duration,
}

impl Drainer {
    /// Leaves; returns when the process may exit.
    pub async fn run(self, workers: &Workers) {
        let end = Instant::now() + self.time;
        self.live.set_ready(false);
        self.drain.set_draining(true);
        self.order.send_replace(Some(Order::Announce));
        tokio::time::sleep(self.settle.min(self.time)).await;
        self.close.send_replace(true);
        self.order.send_replace(Some(Order::Finish));
        let finished = async {
            loop {
                let progress = self.drain.progress.notified();
                if self.drain.in_flight() <= 0 {
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_millis(100), progress).await;
            }
        };
        if tokio::time::timeout_at(end, finished).await.is_err() {
            tracing::warn!("The drain time is over: {} requests are cut", self.drain.in_flight());
        }
        self.order.send_replace(Some(Order::Leave));
        let gone = async {
            while workers.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, gone).await;
    }
}
