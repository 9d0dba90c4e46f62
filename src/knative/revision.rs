//! Revisions, as far as the path of a request depends on them.
//!
//! Source: `knative.dev/serving/pkg/apis/serving/v1` (`RevisionSpec`, `GetContainer`, `GetSidecarContainers`,
//! `GetProtocol`), `pkg/activator/net/revision_backends.go` (the probe optimisation),
//! `pkg/apis/serving/register.go` (labels).
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::kube::object::null_is_empty;
use crate::kube::{Kind, Meta, Object};

pub use crate::kube::Key as RevisionKey;

/// Label that names the revision to which an object belongs.
pub const LABEL_REVISION: &str = "serving.knative.dev/revision";
/// Label that holds the uid of the revision to which an object belongs.
pub const LABEL_REVISION_UID: &str = "serving.knative.dev/revisionUID";
/// Label that names the Knative Service of a revision.
pub const LABEL_SERVICE: &str = "serving.knative.dev/service";
/// Label that names the Configuration of a revision.
pub const LABEL_CONFIGURATION: &str = "serving.knative.dev/configuration";
/// Annotation that lets a response begin before its HTTP/1 request has ended.
pub const FULL_DUPLEX: &str = "features.knative.dev/http-full-duplex";

/// A Revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// Requests that one pod may work on at a time; 0: no limit.
    pub container_concurrency: u32,
    /// Limit from the arrival of a request to the end of its response; none if the specification has none, which the
    /// webhook excludes.
    pub timeout: Option<Duration>,
    /// Limit to the first byte of a response; zero: off.
    pub response_start_timeout: Duration,
    /// Limit between bytes of a response; zero: off.
    pub idle_timeout: Duration,
    /// What its container speaks.
    pub protocol: Protocol,
    /// Its Knative Service; empty if it has none.
    pub service: Arc<str>,
    /// Its Configuration; empty if it has none.
    pub configuration: Arc<str>,
    /// Whether a response may begin before its HTTP/1 request has ended.
    pub full_duplex: bool,
    /// Whether a pod may be used as soon as its queue answers a probe, before Kubernetes calls it ready: its readiness
    /// is no command, and no container has a startup probe, which only the kubelet can run.
    pub ready_by_probe: bool,
}

/// What a revision's container speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
}

impl Protocol {
    /// The name of its port in Services and Endpoints.
    pub fn port_name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::H2c => "http2",
        }
    }
}

/// What is read of a Revision.
#[derive(Deserialize)]
pub struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    container_concurrency: Option<i64>,
    timeout_seconds: Option<i64>,
    response_start_timeout_seconds: Option<i64>,
    idle_timeout_seconds: Option<i64>,
    #[serde(default, deserialize_with = "null_is_empty")]
    containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default, deserialize_with = "null_is_empty")]
    ports: Vec<Port>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Probe {
    exec: Option<serde::de::IgnoredAny>,
}

impl Object for Revision {
    const KIND: Kind = Kind { group: "serving.knative.dev", version: "v1", kind: "Revision", plural: "revisions" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(Wire { metadata, spec }: Wire) -> Result<Option<Self>, String> {
        // The container that serves is the only one, or the first of several that has a port; all without one, when
        // there are several, are its companions.
        let alone = spec.containers.len() == 1;
        let serving = spec.containers.iter().find(|container| alone || !container.ports.is_empty());
        let companions = || spec.containers.iter().filter(|container| !alone && container.ports.is_empty());
        let by_command =
            serving.and_then(|container| container.readiness_probe.as_ref()).is_some_and(|probe| probe.exec.is_some());
        let starts_up = serving.into_iter().chain(companions()).any(|container| container.startup_probe.is_some());
        let h2c = serving.and_then(|container| container.ports.first()).is_some_and(|port| port.name == "h2c");
        let label = |name| Arc::from(metadata.label(name).unwrap_or_default());
        Ok(Some(Self {
            container_concurrency: u32::try_from(spec.container_concurrency.unwrap_or(0)).map_err(|_| {
                let value = spec.container_concurrency.unwrap_or(0);
                format!("spec.containerConcurrency: {value}: expected a whole number from 0")
            })?,
            timeout: spec.timeout_seconds.map(|value| seconds("timeoutSeconds", value)).transpose()?,
            response_start_timeout: seconds(
                "responseStartTimeoutSeconds",
                spec.response_start_timeout_seconds.unwrap_or(0),
            )?,
            idle_timeout: seconds("idleTimeoutSeconds", spec.idle_timeout_seconds.unwrap_or(0))?,
            protocol: if h2c { Protocol::H2c } else { Protocol::Http1 },
            service: label(LABEL_SERVICE),
            configuration: label(LABEL_CONFIGURATION),
            full_duplex: metadata.annotation(FULL_DUPLEX).is_some_and(|value| value.eq_ignore_ascii_case("enabled")),
            ready_by_probe: !by_command && !starts_up,
        }))
    }
}

fn seconds(field: &str, value: i64) -> Result<Duration, String> {
    let value = u64::try_from(value).map_err(|_| format!("spec.{field}: {value}: expected seconds from 0"))?;
    Ok(Duration::from_secs(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Result<Revision, String> {
        let object = json!({"metadata": {"name": "r", "namespace": "n", "labels": null}, "spec": spec});
        let wire: Wire = serde_json::from_value(object).map_err(|error| error.to_string())?;
        Revision::shrink(wire).map(Option::unwrap)
    }

    /// As `kubectl get revision -o json` gives it.
    #[test]
    fn given_a_revision_of_a_cluster_then_what_counts_is_read() {
        let object = r#"{"apiVersion":"serving.knative.dev/v1","kind":"Revision","metadata":{
            "annotations":{"autoscaling.knative.dev/target":"10","features.knative.dev/http-full-duplex":"enabled"},
            "creationTimestamp":"2026-11-24T10:00:00Z","generation":1,
            "labels":{"serving.knative.dev/configuration":"hello-config","serving.knative.dev/service":"hello"},
            "name":"hello-00001","namespace":"default","ownerReferences":[{"kind":"Configuration","name":"hello"}],
            "resourceVersion":"2000","uid":"b4b1b2ea-9d1c-4c7e-8d24-4f1cf1f4b0d2"},
            "spec":{"containerConcurrency":10,"containers":[{"image":"x","name":"user-container",
            "ports":[{"containerPort":8080,"name":"h2c","protocol":"TCP"}],
            "readinessProbe":{"successThreshold":1,"tcpSocket":{"port":0}},"resources":{}}],
            "enableServiceLinks":false,"responseStartTimeoutSeconds":5,"idleTimeoutSeconds":6,"timeoutSeconds":300},
            "status":{"actualReplicas":0,"conditions":[{"type":"Ready","status":"True"}]}}"#;
        let wire: Wire = serde_json::from_str(object).unwrap();

        let expected = Revision {
            container_concurrency: 10,
            timeout: Some(Duration::from_secs(300)),
            response_start_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(6),
            protocol: Protocol::H2c,
            service: "hello".into(),
            configuration: "hello-config".into(),
            full_duplex: true,
            ready_by_probe: true,
        };
        assert_eq!(Revision::shrink(wire), Ok(Some(expected)));
    }

    /// `getOrCreateRevisionWatcher`: what the queue's probe does not cover waits for the kubelet.
    #[test]
    fn given_probes_of_containers_then_some_forbid_to_trust_the_queue_alone() {
        let port = json!([{"containerPort": 8080}]);
        let exec = json!({"exec": {"command": ["x"]}});
        let http = json!({"httpGet": {"path": "/"}});
        for (containers, expected) in [
            (json!([{"readinessProbe": http}]), true),
            (json!([{}]), true),
            (json!([{"readinessProbe": exec}]), false),
            (json!([{"startupProbe": http}]), false),
            (json!([{"ports": port}, {"readinessProbe": exec}]), true),
            (json!([{"startupProbe": http}, {"ports": port}]), false),
            (json!([{"ports": port, "readinessProbe": exec}, {}]), false),
            (json!([]), true),
        ] {
            let revision = read(json!({ "containers": containers })).unwrap();
            assert_eq!(revision.ready_by_probe, expected, "{containers}");
        }
    }

    #[test]
    fn given_several_containers_then_the_one_with_ports_says_the_protocol() {
        let read = |containers| read(json!({ "containers": containers })).unwrap().protocol;
        assert_eq!(read(json!([{}, {"ports": [{"name": "h2c"}]}])), Protocol::H2c);
        assert_eq!(read(json!([{"ports": [{"name": "http1"}]}, {"ports": [{"name": "h2c"}]}])), Protocol::Http1);
        assert_eq!(read(json!([{"ports": null}])), Protocol::Http1);
    }

    #[test]
    fn given_no_or_bad_numbers_then_defaults_count_and_bad_ones_are_named() {
        let revision = read(json!({})).unwrap();
        assert_eq!((revision.container_concurrency, revision.timeout), (0, None));
        for (field, value) in [("containerConcurrency", -1), ("timeoutSeconds", -5), ("idleTimeoutSeconds", -2)] {
            let error = read(json!({ field: value })).unwrap_err();
            assert!(error.contains(&format!("spec.{field}: {value}: expected")), "{error}");
        }
    }
}
