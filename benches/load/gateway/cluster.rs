//! What the gateway reads: an API server with the objects of a cluster.

use lockkeeper::local::pki::Leaf;
use serde_json::{Value, json};

use crate::client::{Ask, HOST, NAMESPACE, REVISION};
use crate::contender::{Contender, Ports, free_ports};
use crate::support::apiserver::ApiServer;
use crate::support::objects::{config_map, routing_certs, secret};
use crate::{Failure, Stage};

use super::Backend;

const SYSTEM: &str = "knative-serving";
const CLASS: &str = "kourier.ingress.networking.knative.dev";
const CERTIFICATE: &str = "networking.internal.knative.dev/certificate-uid";

/// An API server with an Ingress for [`HOST`].
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    to_tls: bool,
}

impl Cluster {
    /// Over TLS to the backend, or in plaintext.
    pub(crate) fn new(stage: &Stage, backend: Backend, to_tls: bool) -> Self {
        let (tls, api) = (&stage.tls, ApiServer::start());
        let word = if to_tls { "enabled" } else { "disabled" };
        api.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", word));
        // The others write no log either.
        api.apply(config_map(SYSTEM, "config-kourier").entry("enable-service-access-logging", "false"));
        api.apply(routing_certs(SYSTEM, &tls.leaf.chain, &tls.leaf.key, tls.authority.pem()));
        let cluster = Self { api, to_tls };
        cluster.api.apply(cluster.ingress("hello", HOST, REVISION, 1));
        cluster.api.apply(certificate("hello", &tls.leaf));
        cluster.service(REVISION, backend.plain, backend.tls);
        cluster
    }

    /// A gateway of this cluster, on ports of its own.
    pub(crate) fn gateway(&self, stage: &Stage, workers: usize) -> Result<Contender, Failure> {
        let [plain, tls] = free_ports()?;
        let mut env = self.api.env();
        let (plain_text, tls_text, workers) = (plain.to_string(), tls.to_string(), workers.to_string());
        let own = [
            ("CLUSTER_DOMAIN", "cluster.local"),
            ("DRAIN_TIME_SECONDS", "0"),
            ("LOCKKEEPER_ADMIN_PORT", "0"),
            ("LOCKKEEPER_HTTPS_PORT", &tls_text),
            ("LOCKKEEPER_HTTP_PORT", &plain_text),
            ("LOCKKEEPER_INTERNAL_HTTPS_PORT", "0"),
            ("LOCKKEEPER_INTERNAL_HTTP_PORT", "0"),
            ("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1"),
            ("LOCKKEEPER_PROBE_HTTPS_PORT", "0"),
            ("LOCKKEEPER_PROBE_HTTP_PORT", "0"),
            ("POD_NAME", "gateway-0"),
            ("SYSTEM_NAMESPACE", SYSTEM),
            ("WORKER_THREADS", &workers),
        ];
        env.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let command = stage.command("gateway")?;
        Ok(Contender {
            name: "gateway".to_owned(),
            about: command.join(" "),
            command,
            env,
            ports: Ports { plain, tls, h2: Some(tls) },
            ask: Ask::Plain,
            log: stage.dir.join("gateway.log"),
        })
    }

    /// An Ingress that is ready: one host with a certificate of its own, to one Service.
    pub(crate) fn ingress(&self, name: &str, host: &str, service: &str, generation: u64) -> Value {
        let port = if self.to_tls { 443 } else { 80 };
        let headers = json!({"Knative-Serving-Namespace": NAMESPACE, "Knative-Serving-Revision": REVISION});
        let split = json!({"serviceNamespace": NAMESPACE, "serviceName": service, "servicePort": port, "percent": 100,
            "appendHeaders": headers});
        let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let balancer = |name| json!({"ingress": [{"domainInternal": format!("{name}.{SYSTEM}.svc.cluster.local")}]});
        let conditions = ["LoadBalancerReady", "NetworkConfigured", "Ready"].map(condition);
        json!({
            "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
            "metadata": {
                "namespace": NAMESPACE, "name": name, "generation": generation,
                "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"networking.knative.dev/ingress.class": CLASS}
            },
            "spec": {
                "tls": [{"hosts": [host], "secretName": name, "secretNamespace": NAMESPACE}],
                "rules": [{"hosts": [host], "visibility": "ExternalIP", "http": {"paths": [{"splits": [split]}]}}]
            },
            "status": {
                "observedGeneration": generation,
                "conditions": conditions,
                "publicLoadBalancer": balancer("kourier"), "privateLoadBalancer": balancer("kourier-internal")
            }
        })
    }

    /// A Service with an address.
    pub(crate) fn service(&self, name: &str, plain: u16, tls: u16) {
        self.api.apply_all([service(name), slice(name, plain, tls)]);
    }
}

/// The Secret of an Ingress.
pub(crate) fn certificate(name: &str, leaf: &Leaf) -> Value {
    let secret = secret(NAMESPACE, name).label(CERTIFICATE, "x");
    secret.entry("tls.crt", &leaf.chain).entry("tls.key", &leaf.key).into()
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8012}, {"name": "https", "port": 443, "targetPort": 8112}]}
    })
}

pub(crate) fn slice(service: &str, plain: u16, tls: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": NAMESPACE, "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}
        },
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": plain}, {"name": "https", "port": tls}]
    })
}
