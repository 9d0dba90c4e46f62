//! What is told of connections, callers' and the application's: counters, and a line for each handshake that failed.
//!
//! Data side, one [`Connections`] a worker. A peer that fails again and again gets one line a minute for each reason,
//! so that a client with a wrong certificate is found and no log is flooded.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustls::ProtocolVersion;

use super::metrics::{Count, WorkerMetrics};
use super::serve;
use crate::http::call::Connection;
use crate::http::{local, server};
use crate::telemetry::log::Throttle;
use crate::tls::error;

/// One line a minute for each peer and reason.
static FAILURES: Throttle = Throttle::every(Duration::from_secs(60));

/// Tells this worker's metrics.
pub struct Connections {
    /// This worker's part of the metrics.
    pub metrics: Rc<WorkerMetrics>,
}

impl server::Told for Connections {
    fn accepted(&self, connection: &Connection) {
        self.metrics.accepted(if connection.port == serve::TLS { "tls" } else { "main" });
    }

    fn handshake(&self, tls: &rustls::ServerConnection) {
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "other",
        };
        let suite = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("other");
        // A resumed TLS 1.2 session has none.
        let group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).unwrap_or("none");
        self.metrics.handshake(version, suite, group);
    }

    fn handshake_failed(&self, error: &io::Error, connection: &Connection) {
        let error = error::Error::from_io(error);
        self.metrics.handshake_failed(error.token());
        let peer = connection.peer;
        if FAILURES.allows(&format!("{} {}", peer.ip(), error.token())) {
            tracing::info!(cause = error.token(), "http: TLS handshake error from {peer}: {error}");
        }
    }

    fn answered(&self, token: &'static str) {
        tracing::debug!(cause = token, "answered before the request was taken in");
        self.metrics.cause(token);
    }
}

impl local::Told for Connections {
    fn opened(&self) {
        self.metrics.count(Count::UpstreamOpened);
    }

    fn reused(&self) {
        self.metrics.count(Count::UpstreamReused);
    }

    fn sent_again(&self) {
        self.metrics.count(Count::Retry);
    }

    fn held(&self) {
        self.metrics.count(Count::Held);
    }
}
