//! The objects that gateway and activator of `local` read, as Knative's controllers would have written them: real
//! manifests in a directory, to be looked at and edited while they are followed.
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use base64::Engine as _;

use crate::knative::names;
use crate::local::pki::{Authority, Leaf};
use crate::local::topology::{NAMESPACE, REVISION};

/// The system namespace.
pub const SYSTEM: &str = "knative-serving";
/// The host that callers from outside use.
pub const HOST: &str = "local.default.example.com";
/// The names that callers inside the cluster use.
pub const LOCAL_HOSTS: [&str; 3] = ["local.default.svc.cluster.local", "local.default.svc", "local.default"];

/// The directory of manifests.
#[derive(Clone, Debug)]
pub struct Manifests(PathBuf);

/// Serial numbers of what is minted: the first leaf of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Serials {
    /// Of `routing-serving-certs`, which the activator serves.
    pub routing: u64,
    /// Of the certificate for [`HOST`].
    pub external: u64,
    /// Of the certificate for [`LOCAL_HOSTS`].
    pub internal: u64,
}

impl Serials {
    /// Those of generation `n` of all certificates.
    #[must_use]
    pub fn of(n: u64) -> Self {
        Self { routing: 0x3000 + n, external: 0x4000 + n, internal: 0x5000 + n }
    }
}

impl Manifests {
    /// An empty directory.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Everything but what depends on ports and pods.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn publish(&self, authority: &Authority) -> io::Result<()> {
        self.encrypt(true)?;
        self.certificates(authority, Serials::of(1))?;
        self.write("revision.yaml", &revision_manifest("local", REVISION))?;
        self.write("ingress.yaml", &main_ingress())?;
        self.write("services.yaml", &[service(NAMESPACE, REVISION), service(SYSTEM, "activator-service")].concat())
    }

    /// The certificates of activator and gateway, of `authority`.
    ///
    /// # Errors
    /// When they can't be made or written.
    pub fn certificates(&self, authority: &Authority, serials: Serials) -> io::Result<()> {
        let routing = [names::SAN_ROUTING, names::SAN_LEGACY, "localhost", "127.0.0.1"];
        self.routing_certificate(authority, &authority.leaf(&routing, serials.routing)?)?;
        let external = authority.leaf(&[HOST], serials.external)?;
        self.write("secret-external.yaml", &secret(NAMESPACE, "local-external", &external, None))?;
        let internal = authority.leaf(&LOCAL_HOSTS, serials.internal)?;
        self.write("secret-cluster-local.yaml", &secret(NAMESPACE, "local-cluster-local", &internal, None))
    }

    /// The activator's certificate is `leaf`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn routing_certificate(&self, authority: &Authority, leaf: &Leaf) -> io::Result<()> {
        let ca = Some(authority.pem());
        self.write("secret-routing.yaml", &secret(SYSTEM, "routing-serving-certs", leaf, ca))
    }

    /// The trust bundle holds the certificates of `authorities`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn trust_bundle(&self, authorities: &[&str]) -> io::Result<()> {
        let pem: String = authorities.concat().lines().map(|line| format!("    {line}\n")).collect();
        self.write(
            "trust-bundle.yaml",
            &format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: knative-bundle\n  namespace: {SYSTEM}\n  labels: \
                 {{networking.knative.dev/trust-bundle: \"true\"}}\ndata:\n  ca.crt: |\n{pem}"
            ),
        )
    }

    /// The pod that the activator may send to, before anything listens there as in a cluster.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn pod(&self, address: Option<Ipv4Addr>) -> io::Result<()> {
        self.write("endpoints-private.yaml", &endpoints(REVISION, address))
    }

    /// Where the gateway sends requests of the revision: to the activator, or past it to a pod.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn route(&self, activator: Ipv4Addr, pod: Option<Ipv4Addr>) -> io::Result<()> {
        let of_activator = slice(SYSTEM, "activator-service", activator);
        self.write("slices.yaml", &[of_activator, slice(NAMESPACE, REVISION, pod.unwrap_or(activator))].concat())
    }

    /// As Knative's controller does when `system-internal-tls` of `config-network` is switched: the splits of the Ingress
    /// name the other port of the Service.
    ///
    /// # Errors
    /// When the Ingress can't be written.
    pub fn follow_encryption(&self) -> io::Result<()> {
        // A file that is being edited may be away for a moment.
        let read = |name| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let (config, ingress) = (read("config.yaml").to_lowercase(), read("ingress.yaml"));
        let (on, off) = ("servicePort: 443,", "servicePort: 80,");
        if config.contains("system-internal-tls: disabled") && ingress.contains(on) {
            self.write("ingress.yaml", &ingress.replace(on, off))?;
        } else if config.contains("system-internal-tls: enabled") && ingress.contains(off) {
            self.write("ingress.yaml", &ingress.replace(off, on))?;
        }
        Ok(())
    }

    /// Whether the splits of the Ingress lead to TLS.
    #[must_use]
    pub fn splits_are_encrypted(&self) -> bool {
        fs::read_to_string(self.0.join("ingress.yaml")).is_ok_and(|ingress| ingress.contains("servicePort: 443,"))
    }

    /// Switches `system-internal-tls`, as somebody does who edits the file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn encrypt(&self, on: bool) -> io::Result<()> {
        self.write("config.yaml", &config(on))
    }

    /// A pod on `address`, with a Service and a revision `<name>-00001` and a host `<name>.default.example.com` of its own.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn witness(&self, name: &str, address: Ipv4Addr) -> io::Result<()> {
        let revision = format!("{name}-00001");
        let objects = [
            revision_manifest(name, &revision),
            service(NAMESPACE, &revision),
            slice(NAMESPACE, &revision, address),
            endpoints(&revision, Some(address)),
            ingress(name, &[&format!("{name}.default.example.com")], "ExternalIP", &revision),
        ];
        self.write(&format!("witness-{name}.yaml"), &objects.concat())
    }

    /// Written beside and renamed, so that nobody reads half of it.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let beside = self.0.with_file_name(format!("{name}.new"));
        fs::write(&beside, text)?;
        fs::rename(beside, self.0.join(name))
    }
}

fn revision_manifest(service: &str, name: &str) -> String {
    format!(
        "\
---
apiVersion: serving.knative.dev/v1
kind: Revision
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels: {{serving.knative.dev/service: {service}, serving.knative.dev/configuration: {service}}}
spec:
  containerConcurrency: 0
  timeoutSeconds: 300
  containers: [{{name: user-container, image: sample, ports: [{{containerPort: 8080}}]}}]
"
    )
}

fn config(encrypted: bool) -> String {
    let map = |name: &str, data: &str| {
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {SYSTEM}}}\ndata: {data}\n")
    };
    let word = if encrypted { "enabled" } else { "disabled" };
    [
        map("config-logging", "{}"),
        map("config-observability", "{}"),
        map("config-kourier", "{}"),
        map("config-network", &format!("{{system-internal-tls: {word}}}")),
    ]
    .concat()
}

/// An Ingress without TLS of its own.
fn ingress(name: &str, hosts: &[&str], visibility: &str, revision: &str) -> String {
    format!(
        "\
---
apiVersion: networking.internal.knative.dev/v1alpha1
kind: Ingress
metadata:
  name: {name}
  namespace: {NAMESPACE}
  generation: 1
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  annotations: {{networking.knative.dev/ingress.class: kourier.ingress.networking.knative.dev}}
spec:
  rules:
{}",
        rule(hosts, visibility, revision)
    )
}

fn rule(hosts: &[&str], visibility: &str, revision: &str) -> String {
    format!(
        "  - hosts: [{}]\n    visibility: {visibility}\n    http: {{paths: [{{splits: [{{serviceNamespace: {NAMESPACE}, \
         serviceName: {revision}, servicePort: 443, percent: 100, appendHeaders: {{Knative-Serving-Namespace: {NAMESPACE}, \
         Knative-Serving-Revision: {revision}}}}}]}}]}}\n",
        hosts.join(", ")
    )
}

/// The Ingress of the sample application: redirected from plain HTTP, with a certificate for either kind of host.
fn main_ingress() -> String {
    ingress("local", &[HOST], "ExternalIP", REVISION).replace(
        "spec:\n",
        &format!(
            "spec:\n  httpOption: Redirected\n  tls:\n  - {{hosts: [{HOST}], secretName: local-external, secretNamespace: \
             {NAMESPACE}}}\n  - {{hosts: [{}], secretName: local-cluster-local, secretNamespace: {NAMESPACE}}}\n",
            LOCAL_HOSTS.join(", ")
        ),
    ) + &rule(&LOCAL_HOSTS, "ClusterLocal", REVISION)
}

fn service(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  ports:\n  - \
         {{name: http, port: 80, targetPort: {}}}\n  - {{name: https, port: 443, targetPort: {}}}\n",
        names::PORT_HTTP1,
        names::PORT_HTTPS,
    )
}

/// An activator or a queue: both listen on the same ports.
fn slice(namespace: &str, service: &str, address: Ipv4Addr) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: {service}-1\n  \
         namespace: {namespace}\n  labels: {{kubernetes.io/service-name: {service}}}\nendpoints: [{{addresses: \
         [{address}], conditions: {{ready: true}}}}]\nports: [{{name: http, port: {}}}, {{name: https, port: {}}}]\n",
        names::PORT_HTTP1,
        names::PORT_HTTPS
    )
}

fn endpoints(revision: &str, address: Option<Ipv4Addr>) -> String {
    let subsets = address.map_or("[]".to_owned(), |address| {
        format!("[{{notReadyAddresses: [{{ip: {address}}}], ports: [{{name: http, port: {}}}]}}]", names::PORT_HTTP1)
    });
    format!(
        "---\napiVersion: v1\nkind: Endpoints\nmetadata:\n  name: {revision}-private\n  namespace: {NAMESPACE}\n  labels: \
         {{networking.internal.knative.dev/serviceType: Private, serving.knative.dev/revision: {revision}, \
         serving.knative.dev/revisionUID: {revision}}}\nsubsets: {subsets}\n"
    )
}

fn secret(namespace: &str, name: &str, leaf: &Leaf, ca: Option<&str>) -> String {
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let ca = ca.map_or(String::new(), |ca| format!(", ca.crt: {}", encoded(ca)));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{tls.crt: {}, tls.key: \
         {}{ca}}}\n",
        encoded(&leaf.chain),
        encoded(&leaf.key),
    )
}
