//! A small cluster: an API server, an autoscaler, revisions whose pods are real queues, and the activator under test.
//!
//! Pods have loopback addresses of their own, so that their ports are those of the contract: 8012 and 8112.
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use lockkeeper::local::pki::{Authority, Mount};

use super::autoscaler::Autoscaler;
use crate::support::apiserver::ApiServer;
use crate::support::app::App;
use crate::support::binary::{Binary, Builder, command, queue};
use crate::support::client::{Raw, Reply};
use crate::support::objects::{
    Object, config_map, private_endpoints, private_service, public_endpoints, revision, routing_certs,
};
use crate::support::wait::eventually;

/// The system namespace.
pub const SYSTEM: &str = "knative-serving";
/// The namespace of most revisions.
pub const NAMESPACE: &str = "default";
/// The revision of most tests.
pub const REVISION: &str = "hello-00001";

/// Everything around the activator.
pub struct World {
    /// The API server.
    pub api: ApiServer,
    /// The autoscaler.
    pub autoscaler: Autoscaler,
    /// The CA of the cluster.
    pub authority: Authority,
    /// Whether `system-internal-tls` is on.
    pub tls: bool,
    dir: tempfile::TempDir,
    serial: AtomicU32,
}

impl World {
    /// A cluster with the system's config maps, and with certificates if TLS is on.
    pub fn new(tls: bool) -> Self {
        let world = Self {
            api: ApiServer::start(),
            autoscaler: Autoscaler::start(),
            // Authorities of the same name would be told apart by their signatures only.
            authority: Authority::mint(&format!("lockkeeper tests {}", free_ip())).unwrap(),
            tls,
            dir: tempfile::tempdir().unwrap(),
            serial: AtomicU32::new(1),
        };
        world.api.apply(config_map(SYSTEM, "config-logging"));
        world.api.apply(config_map(SYSTEM, "config-observability"));
        world.set_tls(tls);
        if tls {
            world.issue_routing_certs();
        }
        world
    }

    /// Switches `system-internal-tls`.
    pub fn set_tls(&self, on: bool) {
        let value = if on { "enabled" } else { "disabled" };
        self.api.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", value));
    }

    /// A new certificate for the activator; its serial number.
    pub fn issue_routing_certs(&self) -> String {
        let leaf = self.authority.leaf(&["kn-routing", "data-plane.knative.dev"], self.next().into()).unwrap();
        self.api.apply(routing_certs(SYSTEM, &leaf.chain, &leaf.key, self.authority.pem()));
        leaf.serial
    }

    fn next(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::SeqCst)
    }

    /// The activator with the environment of its manifest; its own ports are free ones, and it leaves at once.
    pub fn builder(&self) -> Builder {
        let mut builder = command(&["activator"]);
        for (name, value) in self.api.env() {
            builder = builder.env(&name, value);
        }
        builder
            .env("POD_NAME", "activator-0")
            .env("POD_IP", "127.0.0.1")
            .env("SYSTEM_NAMESPACE", SYSTEM)
            .env("CONFIG_LOGGING_NAME", "config-logging")
            .env("CONFIG_OBSERVABILITY_NAME", "config-observability")
            .env("GOGC", 500)
            .env("PROFILING_PORT", 0)
            .env("LOCKKEEPER_HTTP_PORT", 0)
            .env("LOCKKEEPER_HTTP2_PORT", 0)
            .env("LOCKKEEPER_TLS_PORT", 0)
            .env("LOCKKEEPER_DRAIN_TIME", "0s")
            .env("LOCKKEEPER_AUTOSCALER", self.autoscaler.address())
    }

    /// A running activator that is ready.
    pub fn start(&self) -> Activator {
        Activator::of(self.builder(), self.tls)
    }

    /// A revision, as it is created.
    pub fn revision(&self) -> Object {
        revision(NAMESPACE, REVISION)
    }

    /// Creates a revision that has no pods yet.
    pub fn create(&self, object: Object) {
        self.api.apply(object);
        self.endpoints(&[], &[]);
        self.api.apply(private_service(NAMESPACE, REVISION, "None"));
    }

    /// What Kubernetes lists for the revision of most tests.
    pub fn endpoints(&self, ready: &[IpAddr], not_ready: &[IpAddr]) {
        let text = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let (ready, not_ready) = (text(ready), text(not_ready));
        let ready: Vec<&str> = ready.iter().map(String::as_str).collect();
        let not_ready: Vec<&str> = not_ready.iter().map(String::as_str).collect();
        self.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&ready, &not_ready, "http", 8012));
    }

    /// The activators in the revision's path.
    pub fn activators(&self, ips: &[&str]) {
        self.api.apply(public_endpoints(NAMESPACE, REVISION).subset(ips, &[], "http", 8012));
    }

    /// A pod that answers `ok`.
    pub fn pod(&self) -> Pod {
        self.pod_with(App::ok(), |builder| builder)
    }

    /// A pod with an application, and settings of its queue.
    pub fn pod_with(&self, app: App, settings: impl FnOnce(Builder) -> Builder) -> Pod {
        self.pod_at(free_ip(), NAMESPACE, app, settings)
    }

    /// A pod at an address of the test's choice, in a namespace.
    pub fn pod_at(&self, ip: IpAddr, namespace: &str, app: App, settings: impl FnOnce(Builder) -> Builder) -> Pod {
        let queue = self.queue_at(ip, namespace, app.port(), settings);
        Pod { ip, app, queue }
    }

    /// The queue of a pod whose application listens on a port of 127.0.0.1.
    pub fn queue_at(
        &self,
        ip: IpAddr,
        namespace: &str,
        port: u16,
        settings: impl FnOnce(Builder) -> Builder,
    ) -> Binary {
        let certs = if self.tls { Some(self.certs(&format!("kn-user-{namespace}"))) } else { None };
        let mut builder = queue(port)
            .env("QUEUE_SERVING_PORT", 8012)
            .env("QUEUE_SERVING_TLS_PORT", 8112)
            .env("SERVING_NAMESPACE", namespace)
            .env("SERVING_POD_IP", ip)
            .env("LOCKKEEPER_LISTEN_ADDRESS", ip);
        if let Some(certs) = &certs {
            builder = builder.certs(certs);
        }
        let mut queue = settings(builder).start();
        if self.tls {
            queue.tls();
        }
        queue
    }

    /// A directory with a certificate for `name` and for the name of older releases, which Knative's have too.
    pub fn certs(&self, name: &str) -> PathBuf {
        let serial = self.next();
        let path = self.dir.path().join(format!("certs-{serial}"));
        let leaf = self.authority.leaf(&[name, "data-plane.knative.dev"], serial.into()).unwrap();
        Mount::create(&path).unwrap().publish_leaf(&leaf, &self.authority).unwrap();
        path
    }
}

/// An address that no other pod of any test has.
pub fn free_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    // Never the last byte 0.
    let number = number + (number - 1) / 255;
    let process = std::process::id();
    // Tests may run in several processes at once.
    let [_, _, high, low] = number.to_be_bytes();
    let second = 16 + u8::try_from(process % 200).unwrap();
    IpAddr::V4(Ipv4Addr::new(127, second, high, low))
}

/// A pod: an application and its queue.
pub struct Pod {
    /// Its address.
    pub ip: IpAddr,
    /// Its application.
    pub app: App,
    /// Its queue.
    pub queue: Binary,
}

/// The activator under test.
pub struct Activator {
    /// The process.
    pub process: Binary,
    /// Cleartext, the first port.
    pub http1: u16,
    /// Cleartext, the second port.
    pub h2c: u16,
}

impl Activator {
    /// Starts it and waits until its ports are open and it is ready.
    pub fn of(builder: Builder, tls: bool) -> Self {
        let activator = Self::unready(builder);
        eventually("it is ready", || activator.health().status() == 200);
        if tls {
            let mut activator = activator;
            activator.https();
            return activator;
        }
        activator
    }

    /// Starts it and waits until its ports are open.
    pub fn unready(builder: Builder) -> Self {
        let mut process = builder.spawn();
        let (http1, h2c) = (process.port_of("server http1:"), process.port_of("server h2c:"));
        Self { process, http1, h2c }
    }

    /// The TLS port, once it is open.
    pub fn https(&mut self) -> u16 {
        self.process.port_of("server https:")
    }

    /// kubelet's probe.
    pub fn health(&self) -> Reply {
        Raw::plain(self.http1).send("GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.34\r\n\r\n").reply()
    }

    /// Opens a connection and sends a request for the revision of most tests.
    pub fn ask(&self) -> Raw {
        self.ask_for(REVISION, "")
    }

    /// The same, with more header lines (each ended by CRLF), for any revision of the usual namespace.
    pub fn ask_for(&self, revision: &str, headers: &str) -> Raw {
        let mut client = Raw::plain(self.http1);
        client.get("/path?query", &format!("{}{headers}", named(NAMESPACE, revision)));
        client
    }

    /// A whole request for the revision of most tests.
    #[track_caller]
    pub fn get(&self) -> Reply {
        self.ask().reply()
    }
}

/// The header lines that name a revision.
pub fn named(namespace: &str, revision: &str) -> String {
    format!("Knative-Serving-Namespace: {namespace}\r\nKnative-Serving-Revision: {revision}\r\n")
}
