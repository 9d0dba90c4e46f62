//! Kubernetes Services: the way to a revision when its pods can't be reached one by one.
//!
//! Source: `knative.dev/serving/pkg/activator/net/revision_backends.go` (`getK8sPrivateService`, `getServicePort`),
//! `pkg/reconciler/serverlessservice/resources/names`.
use serde::Deserialize;

use crate::knative::revision::{Protocol, RevisionKey};
use crate::kube::object::null_is_empty;
use crate::kube::{Key, Kind, Meta, Object};

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its address in the cluster; empty or `None` if it has none.
    pub cluster_ip: Box<str>,
    /// Its ports.
    pub ports: Box<[Port]>,
}

/// A port of a Service.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Port {
    /// Its name; empty if it has none.
    #[serde(default)]
    pub name: Box<str>,
    /// Its number.
    pub port: u16,
}

impl Service {
    /// The port on which a revision of this protocol is reached.
    pub fn port(&self, protocol: Protocol) -> Option<u16> {
        self.ports.iter().find(|port| &*port.name == protocol.port_name()).map(|port| port.port)
    }
}

/// The key of the Service whose Endpoints are the revision's pods.
pub fn private(revision: &RevisionKey) -> Key {
    Key::new(revision.namespace(), &format!("{}-private", revision.name()))
}

/// What is read of a Service.
#[derive(Deserialize)]
pub struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    spec: Spec,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default, rename = "clusterIP")]
    cluster_ip: Box<str>,
    #[serde(default, deserialize_with = "null_is_empty")]
    ports: Box<[Port]>,
}

impl Object for Service {
    const KIND: Kind = Kind { group: "", version: "v1", kind: "Service", plural: "services" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(Wire { spec, .. }: Wire) -> Result<Option<Self>, String> {
        Ok(Some(Self { cluster_ip: spec.cluster_ip, ports: spec.ports }))
    }
}
