//! A gateway over a directory of manifests, with real applications behind it.

use lockkeeper::local::pki::{Authority, Leaf};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::app::{App, ok, response};
use crate::support::binary::{Binary, Builder, command};
use crate::support::client::{Raw, Reply};
use crate::support::objects::{self, Object};
use crate::support::wait::{eventually, eventually_some};

/// The namespace of the objects in these tests.
pub const NAMESPACE: &str = "ns1";
/// Knative's own.
pub const SYSTEM: &str = "knative-serving";

/// The settings of a gateway that listens on free ports of this machine.
pub fn builder() -> Builder {
    let mut builder = command(&["gateway"])
        .env("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1")
        .env("LOCKKEEPER_ADMIN_PORT", 0)
        .env("WORKER_THREADS", 2)
        .env("LOCKKEEPER_DRAIN_SETTLE", "0s")
        .env("CLUSTER_DOMAIN", "cluster.local");
    for name in ["HTTP", "HTTPS", "INTERNAL_HTTP", "INTERNAL_HTTPS", "PROBE_HTTP", "PROBE_HTTPS"] {
        builder = builder.env(&format!("LOCKKEEPER_{name}_PORT"), 0);
    }
    builder
}

/// Manifests and statuses.
pub struct Directory {
    manifests: TempDir,
    statuses: TempDir,
}

impl Directory {
    pub fn new() -> Self {
        Self { manifests: tempfile::tempdir().unwrap(), statuses: tempfile::tempdir().unwrap() }
    }

    /// Writes an object, in place of an older one of the same kind and name.
    pub fn apply(&self, object: impl Into<Value>) -> &Self {
        let object: Value = object.into();
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = format!("{}.{}.{}", word("/kind"), word("/metadata/namespace"), word("/metadata/name"));
        let fresh = self.manifests.path().join(format!(".{name}.tmp"));
        std::fs::write(&fresh, object.to_string()).unwrap();
        std::fs::rename(fresh, self.manifests.path().join(format!("{name}.json"))).unwrap();
        self
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        std::fs::remove_file(self.manifests.path().join(format!("{kind}.{namespace}.{name}.json"))).unwrap();
    }

    /// Writes the Service and the slice of a backend on these ports of this machine.
    pub fn backend(&self, name: &str, port_name: &str, ports: &[u16]) -> &Self {
        self.apply(service(name, port_name));
        for (index, port) in ports.iter().enumerate() {
            self.apply(slice(name, index, port_name, *port));
        }
        self
    }

    /// Writes the Service and the slice of a revision whose pod has this queue, with a port for TLS or without.
    pub fn behind(&self, name: &str, port_name: &str, queue: &mut Binary, tls: bool) -> &Self {
        let mut ports = vec![json!({"name": port_name, "port": 80})];
        let mut of_pod = vec![json!({"name": port_name, "port": queue.http()})];
        if tls {
            ports.push(json!({"name": "https", "port": 443}));
            of_pod.push(json!({"name": "https", "port": queue.tls()}));
        }
        let mut service = service(name, port_name);
        service["spec"]["ports"] = ports.into();
        let mut slice = slice(name, 0, port_name, 0);
        slice["ports"] = of_pod.into();
        self.apply(service).apply(slice)
    }

    /// Starts a gateway and waits until it has read everything.
    pub fn start(self, builder: Builder) -> Gateway {
        let mut binary = builder
            .env("LOCKKEEPER_MANIFEST_DIR", self.manifests.path().display())
            .env("LOCKKEEPER_STATUS_DIR", self.statuses.path().display())
            .spawn();
        binary.logs("All objects are read");
        Gateway { binary, directory: self }
    }
}

/// A running gateway.
pub struct Gateway {
    pub binary: Binary,
    pub directory: Directory,
}

impl Gateway {
    pub fn http(&mut self) -> u16 {
        self.binary.port_of("Starting http server:")
    }

    pub fn https(&mut self) -> u16 {
        self.binary.port_of("Starting https server:")
    }

    pub fn internal_http(&mut self) -> u16 {
        self.binary.port_of("Starting internal http server:")
    }

    pub fn internal_https(&mut self) -> u16 {
        self.binary.port_of("Starting internal https server:")
    }

    pub fn admin(&mut self) -> u16 {
        self.binary.port_of("Starting http server admin:")
    }

    /// What is written about an object.
    pub fn status(&self, name: &str) -> Option<Value> {
        let path = self.directory.statuses.path().join(format!("{NAMESPACE}.{name}.json"));
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// A condition: status, reason, message.
    pub fn condition(&self, name: &str, kind: &str) -> Option<(String, String, String)> {
        let status = self.status(name)?;
        let condition = status["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?.clone();
        let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        Some((word("status"), word("reason"), word("message")))
    }

    /// Waits until a generation of an object is ready.
    #[track_caller]
    pub fn ready(&mut self, name: &str, generation: u64) {
        eventually(&format!("{name} is ready"), || {
            assert!(self.binary.poll().is_none(), "{}", self.binary.log.text());
            self.status(name).is_some_and(|status| status["observedGeneration"] == generation)
                && self.condition(name, "Ready").is_some_and(|ready| ready.0 == "True")
        });
    }

    /// Waits until a condition of an object has a reason; its message.
    #[track_caller]
    pub fn says(&self, name: &str, kind: &str, reason: &str) -> String {
        eventually_some(&format!("{name} has {kind} with {reason}"), || {
            self.condition(name, kind).filter(|condition| condition.1 == reason).map(|condition| condition.2)
        })
    }
}

/// An Ingress.
pub fn ingress(name: &str, generation: u64, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1",
        "kind": "Ingress",
        "metadata": {
            "namespace": NAMESPACE, "name": name, "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"networking.knative.dev/ingress.class": "kourier.ingress.networking.knative.dev"}
        },
        "spec": spec
    })
}

/// One rule.
pub fn rule(visibility: &str, hosts: &[&str], paths: Vec<Value>) -> Value {
    json!({"hosts": hosts, "visibility": visibility, "http": {"paths": paths}})
}

/// A path with one split.
pub fn path(prefix: &str, service: &str) -> Value {
    json!({"path": prefix, "splits": [split(service, 100)]})
}

pub fn split(service: &str, percent: u32) -> Value {
    json!({"serviceNamespace": NAMESPACE, "serviceName": service, "servicePort": 80, "percent": percent})
}

/// The simplest Ingress: one external host to one Service.
pub fn simple(name: &str, host: &str, service: &str) -> Value {
    ingress(name, 1, json!({"rules": [rule("ExternalIP", &[host], vec![path("", service)])]}))
}

/// One external host to the Service `app`, with a certificate; `option` says what becomes of plain HTTP.
pub fn with_tls(name: &str, host: &str, secret: &str, option: &str) -> Value {
    ingress(
        name,
        1,
        json!({
            "tls": [{"hosts": [host], "secretName": secret, "secretNamespace": NAMESPACE}],
            "rules": [rule("ExternalIP", &[host], vec![path("", "app")])],
            "httpOption": option
        }),
    )
}

pub fn service(name: &str, port_name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"ports": [{"name": port_name, "port": 80, "targetPort": 8080}]}
    })
}

/// A Service that is another name of the gateway's own, as domain mappings have it.
pub fn way_back(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"type": "ExternalName", "externalName": "kourier-internal.knative-serving.svc.cluster.local",
                 "ports": [{"name": "http2", "port": 80}]}
    })
}

pub fn slice(service: &str, index: usize, port_name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("{service}-{index}"),
            "labels": {"kubernetes.io/service-name": service}
        },
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": port_name, "port": port}]
    })
}

/// A Secret with a leaf.
pub fn secret(name: &str, leaf: &Leaf) -> Object {
    secret_in(NAMESPACE, name, leaf)
}

/// The same in another namespace.
pub fn secret_in(namespace: &str, name: &str, leaf: &Leaf) -> Object {
    objects::secret(namespace, name).entry("tls.crt", &leaf.chain).entry("tls.key", &leaf.key)
}

/// An application that answers probes as an activator or a queue does, and everything else with its name.
pub fn app(name: &'static str) -> App {
    App::each(move |head, _| match (head.get("k-network-probe"), head.get("k-network-hash")) {
        (Some(_), Some(hash)) => response("200 OK", &[("K-Network-Hash", hash)], ""),
        _ => ok(name),
    })
}

/// A GET for a host.
pub fn get(port: u16, host: &str, path: &str) -> Reply {
    get_with(port, host, path, "")
}

/// A GET with more header lines.
pub fn get_with(port: u16, host: &str, path: &str, headers: &str) -> Reply {
    Raw::plain(port).send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")).reply()
}

/// A CA for the certificates of a test.
pub fn authority() -> Authority {
    Authority::mint("gateway tests").unwrap()
}
