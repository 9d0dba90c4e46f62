//! What is around the activator: an API server with the objects of a cluster, and an autoscaler.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Ask, NAMESPACE, Tls};
use crate::contender::{Contender, Ports, free_ports};
use crate::support::apiserver::ApiServer;
use crate::support::autoscaler::Autoscaler;
use crate::support::objects::{
    config_map, private_endpoints, private_service, public_endpoints, revision, routing_certs,
};
use crate::{Failure, Stage};

use super::pods::PLAIN;

const SYSTEM: &str = "knative-serving";
/// What must happen happens within it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An API server and an autoscaler.
pub(crate) struct Cluster {
    api: ApiServer,
    autoscaler: Autoscaler,
    encrypted: bool,
}

impl Cluster {
    /// With Knative's config maps; with `system-internal-tls` and its certificate if there is one.
    pub(crate) fn new(tls: Option<&Tls>) -> Self {
        let cluster = Self { api: ApiServer::start(), autoscaler: Autoscaler::start(), encrypted: tls.is_some() };
        cluster.api.apply(config_map(SYSTEM, "config-logging"));
        cluster.api.apply(config_map(SYSTEM, "config-observability"));
        let word = if tls.is_some() { "enabled" } else { "disabled" };
        cluster.api.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", word));
        if let Some(tls) = tls {
            cluster.api.apply(routing_certs(SYSTEM, &tls.leaf.chain, &tls.leaf.key, tls.authority.pem()));
        }
        cluster
    }

    /// An activator of this cluster, on ports of its own, with more settings.
    pub(crate) fn activator(&self, stage: &Stage, settings: &[(&str, &str)]) -> Result<Contender, Failure> {
        let [plain, h2c, tls] = free_ports()?;
        let mut env = self.api.env();
        let ports = [plain, h2c, tls].map(|port| port.to_string());
        let own = [
            ("CONFIG_LOGGING_NAME", "config-logging"),
            ("CONFIG_OBSERVABILITY_NAME", "config-observability"),
            ("GOGC", "500"),
            ("LOCKKEEPER_AUTOSCALER", &self.autoscaler.address()),
            ("LOCKKEEPER_DRAIN_TIME", "0s"),
            ("LOCKKEEPER_HTTP2_PORT", &ports[1]),
            ("LOCKKEEPER_HTTP_PORT", &ports[0]),
            ("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1"),
            ("LOCKKEEPER_TLS_PORT", &ports[2]),
            ("POD_IP", "127.0.0.1"),
            ("POD_NAME", "activator-0"),
            ("PROFILING_PORT", "0"),
            ("SYSTEM_NAMESPACE", SYSTEM),
            ("WORKER_THREADS", "1"),
        ];
        env.extend(own.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let command = stage.command("activator")?;
        Ok(Contender {
            name: "activator".to_owned(),
            about: command.join(" "),
            command,
            env,
            ports: Ports {
                plain,
                tls: if self.encrypted { tls } else { 0 },
                h2: Some(if self.encrypted { tls } else { h2c }),
            },
            ask: Ask::Revision,
            log: stage.dir.join("activator.log"),
        })
    }

    /// A revision without pods, before the activator.
    pub(crate) fn create(&self, name: &str, change: impl FnOnce(Revision) -> Revision) {
        self.api.apply_all(Self::objects(name, change));
    }

    /// So many revisions without pods, as in a cluster in which nobody asks for anything.
    pub(crate) fn create_idle(&self, count: usize) {
        let names = (0..count).map(|number| format!("idle-{number}-00001"));
        self.api.apply_all(names.flat_map(|name| Self::objects(&name, |revision| revision)).collect::<Vec<_>>());
    }

    fn objects(name: &str, change: impl FnOnce(Revision) -> Revision) -> Vec<Value> {
        vec![
            change(revision(NAMESPACE, name)).into(),
            private_endpoints(NAMESPACE, name).into(),
            private_service(NAMESPACE, name, "None").into(),
            public_endpoints(NAMESPACE, name).subset(&["127.0.0.1"], &[], "http", 8012).into(),
        ]
    }

    /// A revision's pods: their addresses, none of them ready for Kubernetes yet.
    pub(crate) fn pods(&self, revision: &str, addresses: &[&str]) {
        self.pods_on(revision, addresses, "http");
    }

    /// The same for a port of this name, by which Knative tells what pods speak.
    pub(crate) fn pods_on(&self, revision: &str, addresses: &[&str], port: &str) {
        self.api.apply(private_endpoints(NAMESPACE, revision).subset(&[], addresses, port, PLAIN));
    }

    /// Waits until the autoscaler was told of so many requests of a revision at a time.
    pub(crate) async fn told(&self, revision: &str, concurrency: f64) -> Result<(), Failure> {
        let name = format!("{NAMESPACE}/{revision}");
        let begun = Instant::now();
        while !self.autoscaler.told_of(&name).iter().any(|told| told.concurrency >= concurrency) {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the autoscaler was not told of {concurrency} requests for {name}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// A revision that is being made.
pub(crate) type Revision = crate::support::objects::Object;
