//! How pods are addressed now: in plaintext or over TLS, one by one or through a mesh.
//!
//! Published by the control side when `config-network` changes, read by workers with each request, so that TLS is
//! switched on and off without a restart: requests that are under way keep their connection.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::throttle::{Failure, Slot};
use crate::http::dial::{Tls, Unreached};
use crate::knative::names;
use crate::tls::client::Connector;
use crate::tls::trust;
use crate::tls::verifier::ExpectedSan;

/// How pods are addressed.
#[derive(Debug, Default)]
pub struct Network {
    /// TLS towards queues (`system-internal-tls`), if it is on.
    pub tls: Option<Encryption>,
    /// Requests name the revision's private Service as their host (`enable-mesh-pod-addressability`).
    pub mesh_host: bool,
    /// Since when it is so; none for what held at start.
    pub since: Option<Instant>,
}

/// How queues are verified.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// Shakes hands.
    pub connector: Arc<Connector>,
    /// What the connector trusts.
    pub trust: Arc<trust::Store>,
}

impl Network {
    /// Where a request with this slot goes.
    #[must_use]
    pub fn address(&self, slot: &Slot, queue_tls_port: u16) -> SocketAddr {
        let mut address = slot.address();
        if self.tls.is_some() {
            address.set_port(if slot.is_cluster_ip() { names::PORT_SERVICE_HTTPS } else { queue_tls_port });
        }
        address
    }

    /// What a pod has to prove, if anything.
    #[must_use]
    pub fn tls(&self, expected: &ExpectedSan) -> Option<Tls> {
        let Encryption { connector, trust } = self.tls.as_ref()?;
        Some(Tls { connector: connector.clone(), trust: trust.clone(), expected: expected.clone() })
    }
}

/// What a failed connection means for the pod.
#[must_use]
pub fn verdict(error: &Unreached) -> Failure {
    match error {
        Unreached::Refused(_) | Unreached::ConnectTimeout(_) => Failure::Unreachable,
        Unreached::Handshake(_) | Unreached::HandshakeTimeout(_) => Failure::Tls,
    }
}
