//! The activator in front of a pod that starts with the first request and stops when there are none: the way through
//! which a revision is woken, with both hops over verified TLS.
//!
//! The activator reads its objects from a directory of manifests, in place of an API server. A pod is two processes, the
//! sample application and a queue, on a loopback address of its own, so that the queue's ports are those of a cluster.
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use tokio::sync::watch;

use crate::knative::names;
use crate::local::autoscaler::{self, Said};
use crate::local::pki::{Authority, Mount};
use crate::local::process::Process;
use crate::local::topology::{NAMESPACE, REVISION, queue_env};

/// The system namespace.
const SYSTEM: &str = "knative-serving";

/// The activator and, while there are requests, a pod.
pub struct Wake {
    activator: Process,
    /// Its cleartext port.
    pub http_port: u16,
    /// Its TLS port.
    pub tls_port: u16,
    /// Whether a pod runs, and its queue's process id.
    pub pod: watch::Receiver<Option<u32>>,
    /// What the activator said last.
    said: watch::Receiver<Said>,
    scaler: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
    dirs: Dirs,
    address: Ipv4Addr,
}

#[derive(Clone)]
struct Dirs {
    manifests: PathBuf,
    certs: PathBuf,
}

impl Wake {
    /// Starts the activator with certificates of `authority`; its files are in `state`. `idle` is how long a pod outlives
    /// the last request.
    ///
    /// # Errors
    /// Names what could not be started.
    pub async fn start(authority: &Authority, state: &Path, idle: Duration) -> io::Result<Self> {
        let dirs = Dirs { manifests: state.join("manifests"), certs: state.join("pod-certs") };
        fs::create_dir_all(&dirs.manifests)?;
        let pod = authority.leaf(&[&names::san_user(NAMESPACE), names::SAN_LEGACY], 0x2001)?;
        Mount::create(&dirs.certs)?.publish_leaf(&pod, authority)?;
        write(&dirs.manifests, "system.yaml", &system(authority)?)?;
        write(&dirs.manifests, "revision.yaml", REVISION_MANIFEST)?;
        let (scaler_address, said) = autoscaler::start().await?;
        let env = [
            ("POD_NAME", "activator-local".to_owned()),
            ("POD_IP", "127.0.0.1".to_owned()),
            ("SYSTEM_NAMESPACE", SYSTEM.to_owned()),
            ("LOCKKEEPER_MANIFEST_DIR", dirs.manifests.display().to_string()),
            ("LOCKKEEPER_AUTOSCALER", scaler_address.to_string()),
            ("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1".to_owned()),
            ("LOCKKEEPER_HTTP_PORT", "0".to_owned()),
            ("LOCKKEEPER_HTTP2_PORT", "0".to_owned()),
            ("LOCKKEEPER_TLS_PORT", "0".to_owned()),
            ("LOCKKEEPER_DRAIN_TIME", "0s".to_owned()),
            ("PROFILING_PORT", "0".to_owned()),
        ];
        let mut activator = Process::start("the activator", &["activator"], &env)?;
        let [http_port, tls_port] = activator.await_ports(["server http1:", "server https:"])?;
        let address = own_address();
        let (publish, pod) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let scaler = Scaler { dirs: dirs.clone(), address, idle, publish };
        let scaler = tokio::task::spawn_local(scaler.run(said.clone(), stopped));
        Ok(Self { activator, http_port, tls_port, pod, said, scaler, stop, dirs, address })
    }

    /// The activator's process id.
    #[must_use]
    pub fn activator_id(&self) -> u32 {
        self.activator.id()
    }

    /// Whether the activator has ended by itself: its last words.
    ///
    /// # Errors
    /// When the child cannot be asked.
    pub fn ended(&mut self) -> io::Result<Option<String>> {
        self.activator.ended()
    }

    /// Waits until no pod runs, or one does.
    ///
    /// # Errors
    /// It takes more than 20 s.
    pub async fn await_pod(&mut self, runs: bool) -> io::Result<Option<u32>> {
        let waited = self.pod.wait_for(|pod| pod.is_some() == runs);
        let limit = Duration::from_secs(20);
        match tokio::time::timeout(limit, waited).await {
            Ok(Ok(pod)) => Ok(*pod),
            _ => Err(io::Error::other(format!(
                "a pod {} within {limit:?}",
                if runs { "runs not" } else { "still runs" }
            ))),
        }
    }

    /// Waits until the activator has reported something new.
    ///
    /// # Errors
    /// The link has ended.
    pub async fn reported(&mut self) -> io::Result<()> {
        self.said.changed().await.map_err(io::Error::other)
    }

    /// From the next pod on, its certificate bears `name`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn name_pod(&self, authority: &Authority, name: &str) -> io::Result<()> {
        let leaf = authority.leaf(&[name, names::SAN_LEGACY], 0x2002)?;
        let _ = fs::remove_dir_all(&self.dirs.certs);
        Mount::create(&self.dirs.certs)?.publish_leaf(&leaf, authority)
    }

    /// The address of the pod.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Stops the pod and the activator.
    ///
    /// # Errors
    /// When one of them does not leave well.
    pub async fn stop(self) -> io::Result<()> {
        self.stop.send_replace(true);
        let _ = self.scaler.await;
        self.activator.stop()
    }
}

/// Starts and stops the pod.
struct Scaler {
    dirs: Dirs,
    address: Ipv4Addr,
    idle: Duration,
    publish: watch::Sender<Option<u32>>,
}

struct Pod {
    queue: Process,
    application: Process,
}

impl Scaler {
    async fn run(self, mut said: watch::Receiver<Said>, mut stop: watch::Receiver<bool>) {
        let mut pod: Option<Pod> = None;
        loop {
            let idle = tokio::time::sleep(self.idle);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = said.changed() => if changed.is_err() { break },
                () = idle, if pod.is_some() => self.scale_down(&mut pod).await,
            }
            if said.borrow_and_update().concurrency > 0.0 && pod.is_none() {
                match self.scale_up().await {
                    Ok(started) => {
                        self.publish.send_replace(Some(started.queue.id()));
                        pod = Some(started);
                    }
                    Err(error) => eprintln!("lockkeeper local: the pod did not start: {error}"),
                }
            }
        }
        self.scale_down(&mut pod).await;
    }

    async fn scale_up(&self) -> io::Result<Pod> {
        // The address is known before anything listens there, as in a cluster.
        write(&self.dirs.manifests, "endpoints.yaml", &endpoints(Some(self.address)))?;
        let (certs, address) = (self.dirs.certs.clone(), self.address);
        let started = tokio::task::spawn_blocking(move || Pod::start(&certs, address)).await;
        started.map_err(io::Error::other)?
    }

    async fn scale_down(&self, pod: &mut Option<Pod>) {
        let Some(Pod { queue, application }) = pod.take() else { return };
        if let Err(error) = write(&self.dirs.manifests, "endpoints.yaml", &endpoints(None)) {
            eprintln!("lockkeeper local: {error}");
        }
        let stopped = tokio::task::spawn_blocking(move || {
            let queue = queue.stop();
            // Like a container whose pre-stop hook is over.
            drop(application);
            queue
        });
        if let Ok(Err(error)) = stopped.await {
            eprintln!("lockkeeper local: {error}");
        }
        self.publish.send_replace(None);
    }
}

impl Pod {
    fn start(certs: &Path, address: Ipv4Addr) -> io::Result<Self> {
        let mut application = Process::start("the sample application", &["local", "--sample-application"], &[])?;
        let [port] = application.await_ports(["sample application:"])?;
        let mut env = queue_env(certs, port);
        env.extend([
            ("LOCKKEEPER_LISTEN_ADDRESS", address.to_string()),
            ("QUEUE_SERVING_PORT", names::PORT_HTTP1.to_string()),
            ("QUEUE_SERVING_TLS_PORT", names::PORT_HTTPS.to_string()),
            ("LOCKKEEPER_ADMIN_PORT", "0".to_owned()),
            ("LOCKKEEPER_STATS_PORT", "0".to_owned()),
        ]);
        let mut queue = Process::start("the pod's queue", &["queue"], &env)?;
        queue.await_ports(["tls server main:"])?;
        Ok(Self { queue, application })
    }
}

/// A loopback address that no other `local` has: all of 127.0.0.0/8 is this machine.
fn own_address() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + (std::process::id() >> 16) as u8 % 100, high, low.clamp(2, 254))
}

/// Written beside and renamed, so that nobody reads half of it.
fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let beside = dir.with_file_name(format!("{name}.new"));
    fs::write(&beside, text)?;
    fs::rename(beside, dir.join(name))
}

const REVISION_MANIFEST: &str = "\
apiVersion: serving.knative.dev/v1
kind: Revision
metadata:
  name: local-00001
  namespace: default
  labels: {serving.knative.dev/service: local, serving.knative.dev/configuration: local}
spec:
  containerConcurrency: 0
  timeoutSeconds: 300
  containers: [{name: user-container, image: sample, ports: [{containerPort: 8080}]}]
";

fn endpoints(address: Option<Ipv4Addr>) -> String {
    let subsets = address.map_or("[]".to_owned(), |address| {
        format!("[{{notReadyAddresses: [{{ip: {address}}}], ports: [{{name: http, port: {}}}]}}]", names::PORT_HTTP1)
    });
    format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: {REVISION}-private\n  namespace: {NAMESPACE}\n  labels: \
         {{networking.internal.knative.dev/serviceType: Private, serving.knative.dev/revision: {REVISION}, \
         serving.knative.dev/revisionUID: local}}\nsubsets: {subsets}\n"
    )
}

/// The system's config maps, and the activator's certificate.
fn system(authority: &Authority) -> io::Result<String> {
    let leaf = authority.leaf(&[names::SAN_ROUTING, names::SAN_LEGACY, "localhost", "127.0.0.1"], 0x3001)?;
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let map = |name: &str, data: &str| {
        format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {SYSTEM}}}\ndata: {data}\n")
    };
    Ok([
        map("config-logging", "{}"),
        map("config-observability", "{}"),
        map("config-network", "{system-internal-tls: enabled}"),
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: routing-serving-certs, namespace: {SYSTEM}}}\n\
             data: {{tls.crt: {}, tls.key: {}, ca.crt: {}}}\n",
            encoded(&leaf.chain),
            encoded(&leaf.key),
            encoded(authority.pem()),
        ),
    ]
    .concat())
}
