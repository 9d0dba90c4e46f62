//! Gateways over an API server in this process.
use serde_json::{Value, json};

use super::harness::{SYSTEM, builder, service, slice};
use crate::support::apiserver::ApiServer;
use crate::support::binary::{Binary, Builder};
use crate::support::wait::eventually;

/// An API server that knows of a gateway on this machine.
pub struct Cluster {
    pub api: ApiServer,
}

impl Cluster {
    pub fn new() -> Self {
        let cluster = Self { api: ApiServer::start() };
        cluster.replicas(&["127.0.0.1"]);
        cluster
    }

    /// The gateway's replicas that are ready, by their addresses.
    pub fn replicas(&self, addresses: &[&str]) {
        let mut replicas = slice("kourier-internal", 0, "http2", 8081);
        replicas["metadata"]["namespace"] = SYSTEM.into();
        replicas["endpoints"] = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        self.api.apply(replicas);
    }

    /// The Service and the slice of a backend on this port of this machine.
    pub fn backend(&self, name: &str, port: u16) -> &Self {
        self.api.apply(service(name, "http"));
        self.api.apply(slice(name, 0, "http", port));
        self
    }

    /// The settings of a replica.
    pub fn builder(&self, pod: &str) -> Builder {
        let mut builder = builder().env("POD_NAME", pod);
        for (name, value) in self.api.env() {
            builder = builder.env(&name, value);
        }
        builder
    }

    /// Starts a replica and waits until it has read everything.
    pub fn replica(&self, pod: &str) -> Binary {
        let mut binary = self.builder(pod).spawn();
        binary.logs("All objects are read");
        binary
    }

    pub fn ingress(&self, namespace: &str, name: &str) -> Value {
        self.api.object("ingresses", namespace, name).unwrap_or_default()
    }

    /// A condition of an object: status, reason, message.
    pub fn condition(&self, namespace: &str, name: &str, kind: &str) -> Option<(String, String, String)> {
        let object = self.ingress(namespace, name);
        let condition = object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?.clone();
        let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        Some((word("status"), word("reason"), word("message")))
    }

    #[track_caller]
    pub fn ready(&self, namespace: &str, name: &str) {
        eventually(&format!("{name} is ready"), || {
            self.condition(namespace, name, "Ready").is_some_and(|ready| ready.0 == "True")
        });
    }

    /// How often the status of an object was written.
    pub fn writes(&self, name: &str) -> usize {
        let suffix = format!("/{name}/status");
        self.api.requests().iter().filter(|audit| audit.method == "PUT" && audit.path.ends_with(&suffix)).count()
    }
}
