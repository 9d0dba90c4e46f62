//! The kinds of objects that the gateway reads, each shrunk to what it uses.
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::gateway::status::Status;
use crate::knative::ingress::{CLASS_ANNOTATION, FINALIZER, PortRef, Spec};
use crate::kube::object::{self, null_is_empty};
use crate::kube::{Kind, Meta, Object};

/// Knative's Ingress, of any class.
#[derive(Debug, PartialEq)]
pub struct Ingress {
    /// The class that its annotation names; empty without one.
    pub class: String,
    /// The version of its specification.
    pub generation: i64,
    /// The version of the whole object, for updates.
    pub resource_version: String,
    /// Another object of the same name has another one.
    pub uid: String,
    /// When it was made.
    pub created: i64,
    /// Whether it is being deleted and waits for a finaliser of Kourier's.
    pub awaits_finalizer: bool,
    /// Its finalisers.
    pub finalizers: Vec<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What is wanted, or what is wrong with the field that can't be read.
    pub spec: Result<Spec, String>,
    /// What was written last.
    pub status: Status,
}

/// What is read of an Ingress.
#[derive(Deserialize)]
pub struct IngressWire {
    metadata: IngressMeta,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IngressMeta {
    #[serde(flatten)]
    meta: Meta,
    #[serde(default)]
    creation_timestamp: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    finalizers: Vec<String>,
}

impl Object for Ingress {
    const KIND: Kind =
        Kind { group: "networking.internal.knative.dev", version: "v1alpha1", kind: "Ingress", plural: "ingresses" };
    type Wire = IngressWire;

    fn meta_mut(wire: &mut IngressWire) -> &mut Meta {
        &mut wire.metadata.meta
    }

    fn shrink(wire: IngressWire) -> Result<Option<Self>, String> {
        let IngressMeta { meta, creation_timestamp, deletion_timestamp, finalizers } = wire.metadata;
        let created = match creation_timestamp {
            None => 0,
            Some(text) => OffsetDateTime::parse(&text, &Rfc3339)
                .map_err(|_| {
                    format!("metadata.creationTimestamp: {text:?}: expected a time such as 2026-01-02T03:04:05Z")
                })?
                .unix_timestamp(),
        };
        let awaits_finalizer = deletion_timestamp.is_some() && finalizers.iter().any(|name| name == FINALIZER);
        Ok(Some(Self {
            class: meta.annotation(CLASS_ANNOTATION).unwrap_or_default().to_owned(),
            generation: meta.generation,
            resource_version: meta.resource_version,
            uid: meta.uid,
            created,
            awaits_finalizer,
            finalizers,
            annotations: meta.annotations,
            labels: meta.labels,
            spec: wire.spec.map_or(Ok(Spec::default()), |spec| object::field("spec", &spec)),
            status: wire.status,
        }))
    }
}

/// A Service as a split names it.
#[derive(Debug, PartialEq)]
pub struct Service {
    /// The name that it stands for, of type `ExternalName`.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; empty if it has none.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The port of the pods, for manifests without slices that tell it.
    #[serde(default)]
    pub target_port: Option<PortRef>,
    /// The protocol that the application speaks.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

impl Service {
    /// The port that a split names: by number, by name, or by a number written as a name.
    #[must_use]
    pub fn port(&self, wanted: &PortRef) -> Option<&ServicePort> {
        self.ports.iter().find(|port| match wanted {
            PortRef::Number(number) => i64::from(port.port) == *number,
            PortRef::Name(name) => port.name == *name || port.port.to_string() == *name,
        })
    }

    /// Whether the application speaks HTTP/2 with prior knowledge: any port says so by its name, as Kourier has it, or
    /// the very port says so by its `appProtocol`.
    #[must_use]
    pub fn speaks_h2(&self, port: Option<&ServicePort>) -> bool {
        self.ports.iter().any(|port| port.name == "http2" || port.name == "h2c")
            || port.and_then(|port| port.app_protocol.as_deref()).is_some_and(|p| p == "kubernetes.io/h2c")
    }
}

/// What is read of a Service.
#[derive(Deserialize)]
pub struct ServiceWire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    spec: ServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(default, rename = "type", deserialize_with = "null_is_empty")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    external_name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    ports: Vec<ServicePort>,
}

impl Object for Service {
    const KIND: Kind = Kind { group: "", version: "v1", kind: "Service", plural: "services" };
    type Wire = ServiceWire;

    fn meta_mut(wire: &mut ServiceWire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(ServiceWire { spec, .. }: ServiceWire) -> Result<Option<Self>, String> {
        let external_name = (spec.kind == "ExternalName").then_some(spec.external_name);
        Ok(Some(Self { external_name, ports: spec.ports }))
    }
}

/// Some of the addresses of a Service.
#[derive(Debug, PartialEq)]
pub struct EndpointSlice {
    /// The name of the Service, in the slice's namespace.
    pub service: String,
    /// Addresses that are ready.
    pub ready: Vec<IpAddr>,
    /// Ports by name.
    pub ports: Vec<(String, u16)>,
}

/// Label that names the Service of a slice.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// What is read of an EndpointSlice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceWire {
    metadata: Meta,
    #[serde(default)]
    address_type: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_is_empty")]
    ports: Vec<SlicePort>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default, deserialize_with = "null_is_empty")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct SlicePort {
    #[serde(default, deserialize_with = "null_is_empty")]
    name: String,
    #[serde(default)]
    port: Option<u16>,
}

impl Object for EndpointSlice {
    const KIND: Kind =
        Kind { group: "discovery.k8s.io", version: "v1", kind: "EndpointSlice", plural: "endpointslices" };
    type Wire = SliceWire;

    fn meta_mut(wire: &mut SliceWire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(SliceWire { metadata, address_type, endpoints, ports }: SliceWire) -> Result<Option<Self>, String> {
        let Some(service) = metadata.label(LABEL_SERVICE) else { return Ok(None) };
        if address_type == "FQDN" {
            return Ok(None);
        }
        let mut ready = Vec::new();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.conditions.ready != Some(false)) {
            // Kubernetes: only the first address of an endpoint means something.
            if let Some(address) = endpoint.addresses.first() {
                let parsed = address.parse();
                ready.push(parsed.map_err(|_| format!("endpoints.addresses: {address:?}: expected an IP address"))?);
            }
        }
        ready.sort_unstable();
        ready.dedup();
        let ports = ports.into_iter().filter_map(|port| Some((port.name, port.port?))).collect();
        Ok(Some(Self { service: service.to_owned(), ready, ports }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read<T: Object>(json: &str) -> Option<T> {
        T::shrink(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn given_an_ingress_that_is_being_deleted_when_read_then_kouriers_finaliser_is_seen() {
        let ingress: Ingress = read(
            r#"{"metadata":{"name":"a","namespace":"ns","generation":3,"creationTimestamp":"1970-01-01T00:01:00Z",
                "deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["x","ingresses.networking.internal.knative.dev"],
                "annotations":{"networking.knative.dev/ingress.class":"c"}},"spec":{"rules":null}}"#,
        )
        .unwrap();

        assert_eq!((ingress.class.as_str(), ingress.generation, ingress.created), ("c", 3, 60));
        assert!(ingress.awaits_finalizer);
    }

    #[test]
    fn given_a_service_when_a_port_is_asked_for_then_number_and_name_find_it_and_names_tell_the_protocol() {
        let service: Service = read(
            r#"{"metadata":{"name":"s"},"spec":{"ports":[{"name":"http","port":80,"targetPort":8012},
                {"port":81,"appProtocol":"kubernetes.io/h2c"}]}}"#,
        )
        .unwrap();

        let by_number = service.port(&PortRef::Number(81));
        assert!(service.speaks_h2(by_number));
        assert!(!service.speaks_h2(service.port(&PortRef::Name("http".to_owned()))));
        assert!(service.port(&PortRef::Number(1)).is_none());
        assert!(service.port(&PortRef::Name("other".to_owned())).is_none(), "a port without a name is not every port");
    }

    #[test]
    fn given_a_slice_when_read_then_terminating_addresses_and_names_are_left_out() {
        let slice: EndpointSlice = read(
            r#"{"metadata":{"name":"s-1","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4",
                "endpoints":[{"addresses":["10.0.0.2"]},{"addresses":["10.0.0.1"],"conditions":{"ready":true}},
                {"addresses":["10.0.0.3"],"conditions":{"ready":false,"serving":true}}],"ports":[{"name":"http","port":8012}]}"#,
        )
        .unwrap();

        assert_eq!(slice.ready, ["10.0.0.1".parse::<IpAddr>().unwrap(), "10.0.0.2".parse().unwrap()]);
        assert_eq!(slice.ports, [("http".to_owned(), 8012)]);
    }
}
