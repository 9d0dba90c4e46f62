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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::activator::throttle::{Budget, Entry, MeshMode, Outcome, Policy, Revision, Rules};
    use crate::tls::policy;

    fn slot(mesh: MeshMode) -> Slot {
        let (prober, _probes) = unbounded_channel();
        let rules = Rules { policy: Arc::new(Policy { mesh, ..Policy::default() }), ..Rules::default() };
        let revision = Revision::new("demo/hello-00001", rules, Arc::new(Budget::new(1000)), prober);
        revision.cluster_ip(Some(([10, 96, 0, 7], 80).into()));
        revision.endpoints(&[([10, 0, 0, 1], 8012).into()], &[]);
        for (key, ..) in revision.probes() {
            revision.probed(key, Outcome::Passed, None);
        }
        match revision.enter(1) {
            Entry::Granted(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    /// Whatever ports Kubernetes lists, TLS is spoken on the queue's port, and on 443 of the cluster IP.
    #[test]
    fn given_a_pod_or_the_cluster_ip_when_tls_is_on_then_the_port_is_the_one_for_tls() {
        let trust = trust::Store::new();
        let connector = Arc::new(Connector::new(&policy::Policy::default(), trust.clone()));
        let plain = Network::default();
        let encrypted = Network { tls: Some(Encryption { connector, trust }), ..Network::default() };
        for (mesh, ip, port, tls_port) in
            [(MeshMode::Auto, [10, 0, 0, 1], 8012, 8112), (MeshMode::Enabled, [10, 96, 0, 7], 80, 443)]
        {
            let slot = slot(mesh);
            assert_eq!(plain.address(&slot, 8112), (ip, port).into(), "{mesh:?}");
            assert_eq!(encrypted.address(&slot, 8112), (ip, tls_port).into(), "{mesh:?}");
        }
    }
}
