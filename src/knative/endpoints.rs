//! The addresses behind a revision, as `Endpoints` give them.
//!
//! Only Endpoints of revisions are kept. Which revision it is, and whether the addresses are pods or whatever the
//! public Service points at, labels say; the object's own name means nothing.
//!
//! Source: `knative.dev/serving/pkg/activator/net/{revision_backends,throttler,helpers}.go` (`filterFunc`,
//! `endpointsToDests`), `knative.dev/networking/pkg/apis/networking/register.go`.
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::knative::revision::{LABEL_REVISION, LABEL_REVISION_UID, Protocol, RevisionKey};
use crate::kube::object::null_is_empty;
use crate::kube::{Kind, Meta, Object};

/// Label that tells the Services of a revision apart.
pub const LABEL_SERVICE_TYPE: &str = "networking.internal.knative.dev/serviceType";

/// Addresses of a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    /// The revision.
    pub revision: RevisionKey,
    /// What the addresses are.
    pub role: Role,
    /// Addresses with their ports.
    pub subsets: Box<[Subset]>,
}

/// What the addresses of an [`Endpoints`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The revision's pods: those of its private Service.
    Private,
    /// What its public Service points at: pods, or activators while they stand in the path.
    Public,
}

/// Addresses that share their ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// Addresses that Kubernetes calls ready.
    pub ready: Box<[IpAddr]>,
    /// Addresses that it does not.
    pub not_ready: Box<[IpAddr]>,
    /// The port named `http`.
    pub http: Option<u16>,
    /// The port named `http2`.
    pub http2: Option<u16>,
}

impl Subset {
    /// The port on which a revision of this protocol is reached.
    pub fn port(&self, protocol: Protocol) -> Option<u16> {
        match protocol {
            Protocol::Http1 => self.http,
            Protocol::H2c => self.http2,
        }
    }
}

impl Endpoints {
    /// Ready and not ready addresses with the port of this protocol, each sorted and once; subsets without that port
    /// don't count.
    pub fn destinations(&self, protocol: Protocol) -> Destinations {
        let mut found = Destinations::default();
        for subset in &self.subsets {
            let Some(port) = subset.port(protocol) else { continue };
            let with_port = |address: &IpAddr| SocketAddr::new(*address, port);
            found.ready.extend(subset.ready.iter().map(with_port));
            found.not_ready.extend(subset.not_ready.iter().map(with_port));
        }
        for list in [&mut found.ready, &mut found.not_ready] {
            list.sort_unstable();
            list.dedup();
        }
        found
    }

    /// Ready addresses that have the port of this protocol, as text and in its order, each once: what activators find
    /// themselves in.
    pub fn ready_addresses(&self, protocol: Protocol) -> Vec<String> {
        let with_port = |subset: &&Subset| subset.port(protocol).is_some();
        let found = self.subsets.iter().filter(with_port).flat_map(|subset| subset.ready.iter());
        let mut found: Vec<String> = found.map(IpAddr::to_string).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Addresses with ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Those that Kubernetes calls ready.
    pub ready: Vec<SocketAddr>,
    /// Those that it does not.
    pub not_ready: Vec<SocketAddr>,
}

/// What is read of Endpoints.
#[derive(Deserialize)]
pub struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    subsets: Vec<WireSubset>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSubset {
    #[serde(default, deserialize_with = "null_is_empty")]
    addresses: Vec<Address>,
    #[serde(default, deserialize_with = "null_is_empty")]
    not_ready_addresses: Vec<Address>,
    #[serde(default, deserialize_with = "null_is_empty")]
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Address {
    ip: IpAddr,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: String,
    port: u16,
}

impl Object for Endpoints {
    const KIND: Kind = Kind { group: "", version: "v1", kind: "Endpoints", plural: "endpoints" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(Wire { metadata, subsets }: Wire) -> Result<Option<Self>, String> {
        let role = match metadata.label(LABEL_SERVICE_TYPE) {
            Some("Private") if metadata.labels.contains_key(LABEL_REVISION_UID) => Role::Private,
            Some("Public") => Role::Public,
            _ => return Ok(None),
        };
        let Some(revision) = metadata.label(LABEL_REVISION) else { return Ok(None) };
        let ips = |list: Vec<Address>| list.into_iter().map(|address| address.ip).collect();
        let subset = |subset: WireSubset| {
            let named = |name: &str| subset.ports.iter().find(|port| port.name == name).map(|port| port.port);
            Subset {
                http: named("http"),
                http2: named("http2"),
                ready: ips(subset.addresses),
                not_ready: ips(subset.not_ready_addresses),
            }
        };
        Ok(Some(Self {
            revision: RevisionKey::new(&metadata.namespace, revision),
            role,
            subsets: subsets.into_iter().map(subset).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]
    use serde_json::{Value, json};

    use super::*;

    fn read(labels: Value, subsets: Value) -> Option<Endpoints> {
        let object = json!({"metadata": {"name": "x", "namespace": "demo", "labels": labels}, "subsets": subsets});
        Endpoints::shrink(serde_json::from_value(object).unwrap()).unwrap()
    }

    /// Contract of the activator, section 2: labels say what Endpoints are, not names.
    #[test]
    fn given_labels_then_only_endpoints_of_revisions_are_kept() {
        let labels = |kind: &str, uid: bool, revision: bool| {
            let mut labels = json!({LABEL_SERVICE_TYPE: kind});
            if uid {
                labels[LABEL_REVISION_UID] = "u".into();
            }
            if revision {
                labels[LABEL_REVISION] = "r".into();
            }
            labels
        };
        let role = |labels| read(labels, json!(null)).map(|endpoints| endpoints.role);
        assert_eq!(role(labels("Private", true, true)), Some(Role::Private));
        assert_eq!(role(labels("Private", false, true)), None);
        assert_eq!(role(labels("Private", true, false)), None);
        assert_eq!(role(labels("Public", false, true)), Some(Role::Public));
        assert_eq!(role(labels("Metrics", true, true)), None);
        assert_eq!(role(json!(null)), None);
    }

    #[test]
    fn given_subsets_then_addresses_have_the_port_of_the_protocol_sorted_and_once() {
        let labels = json!({LABEL_SERVICE_TYPE: "Public", LABEL_REVISION: "r"});
        let endpoints = read(
            labels,
            json!([
                {"addresses": [{"ip": "10.0.0.9", "targetRef": {"kind": "Pod"}}, {"ip": "10.0.0.10"}],
                 "notReadyAddresses": [{"ip": "fd00::1"}],
                 "ports": [{"name": "http", "port": 8012}, {"name": "http-queueadm", "port": 8022}]},
                {"addresses": [{"ip": "10.0.0.9"}, {"ip": "10.0.0.1"}], "ports": [{"name": "http", "port": 8012}]},
                {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "http2", "port": 8013}]},
                {"addresses": [{"ip": "10.0.0.4"}], "ports": null},
            ]),
        )
        .unwrap();

        assert_eq!(endpoints.revision.as_str(), "demo/r");
        let destinations = endpoints.destinations(Protocol::Http1);
        let ready: Vec<String> = destinations.ready.iter().map(ToString::to_string).collect();
        assert_eq!(ready, ["10.0.0.1:8012", "10.0.0.9:8012", "10.0.0.10:8012"]);
        assert_eq!(destinations.not_ready, ["[fd00::1]:8012".parse().unwrap()]);
        assert_eq!(endpoints.destinations(Protocol::H2c).ready, ["10.0.0.3:8013".parse().unwrap()]);
        // The order of text, in which activators count themselves.
        assert_eq!(endpoints.ready_addresses(Protocol::Http1), ["10.0.0.1", "10.0.0.10", "10.0.0.9"]);
    }
}
