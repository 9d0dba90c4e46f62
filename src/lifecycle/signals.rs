//! The signals to leave by.
//!
//! Each role receives them from the beginning of its start, which may wait for others: the first process of a container,
//! which it is, gets no signal that it has not asked for, and kubelet would wait for its grace period.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT. From here on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to receive them, on the runtime that calls.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub async fn received(&mut self) {
        tokio::select! { _ = self.term.recv() => {}, _ = self.interrupt.recv() => {} }
    }

    /// The next one ends the process at once, with status 1. To be called within a `LocalSet`.
    pub fn exit_at_next(mut self) {
        tokio::task::spawn_local(async move {
            self.received().await;
            std::process::exit(1);
        });
    }
}
