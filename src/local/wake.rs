//! The activator in front of a pod that starts with the first request and stops when there are none: the way through
//! which a revision is woken, with both hops over verified TLS.
//!
//! The activator reads its objects from a directory of manifests, in place of an API server. A pod is two processes, the
//! sample application and a queue, on a loopback address of its own, so that the queue's ports are those of a cluster.
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::watch;

use crate::knative::names;
use crate::knative::stat::Stat;
use crate::local::autoscaler::{self, Said};
use crate::local::client::{Connection, Protocol};
use crate::local::manifests::{Manifests, SYSTEM};
use crate::local::pki::{Authority, Mount};
use crate::local::process::Process;
use crate::local::topology::{NAMESPACE, queue_env};

/// How often a pod is asked what it does.
const SCRAPE: Duration = Duration::from_millis(500);
/// From the moment in which requests are sent elsewhere to the end of the pod.
const SETTLE: Duration = Duration::from_millis(300);

/// The activator and, while there are requests, a pod.
pub struct Wake {
    activator: Process,
    /// Its cleartext listener.
    pub http: SocketAddr,
    /// Its TLS listener; closed and opened again when `system-internal-tls` is switched.
    pub tls: SocketAddr,
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
    manifests: Manifests,
    certs: PathBuf,
}

impl Wake {
    /// Starts the activator with certificates of `authority`; its files are in `state`. `idle` is how long a pod outlives
    /// the last request.
    ///
    /// # Errors
    /// Names what could not be started.
    pub async fn start(authority: &Authority, state: &Path, idle: Duration) -> io::Result<Self> {
        let dirs = Dirs { manifests: Manifests::create(state.join("manifests"))?, certs: state.join("pod-certs") };
        let pod = authority.leaf(&[&names::san_user(NAMESPACE), names::SAN_LEGACY], 0x2001)?;
        Mount::create(&dirs.certs)?.publish_leaf(&pod, authority)?;
        dirs.manifests.publish(authority)?;
        let of_activator = own_address(Own::Activator);
        dirs.manifests.route(of_activator, None)?;
        let (scaler_address, said) = autoscaler::start().await?;
        let env = [
            ("POD_NAME", "activator-local".to_owned()),
            ("POD_IP", of_activator.to_string()),
            ("SYSTEM_NAMESPACE", SYSTEM.to_owned()),
            ("LOCKKEEPER_MANIFEST_DIR", dirs.manifests.path().display().to_string()),
            ("LOCKKEEPER_AUTOSCALER", scaler_address.to_string()),
            ("LOCKKEEPER_LISTEN_ADDRESS", of_activator.to_string()),
            ("LOCKKEEPER_DRAIN_TIME", "0s".to_owned()),
            ("PROFILING_PORT", "0".to_owned()),
        ];
        let mut activator = Process::start("the activator", &["activator"], &env)?;
        activator.await_ports(["server http1:", "server https:"])?;
        let address = own_address(Own::Pod);
        let http = SocketAddr::new(of_activator.into(), names::PORT_HTTP1);
        let tls = SocketAddr::new(of_activator.into(), names::PORT_HTTPS);
        let (publish, pod) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let scaler = Scaler { dirs: dirs.clone(), address, activator: of_activator, idle, publish };
        let scaler = tokio::task::spawn_local(scaler.run(said.clone(), stopped));
        Ok(Self { activator, http, tls, pod, said, scaler, stop, dirs, address })
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

    /// The pod's certificate is issued again by `authority`, while the pod runs.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn issue_pod(&self, authority: &Authority, serial: u64) -> io::Result<()> {
        let leaf = authority.leaf(&[&names::san_user(NAMESPACE), names::SAN_LEGACY], serial)?;
        Mount::create(&self.dirs.certs)?.publish_leaf(&leaf, authority)
    }

    /// The objects that the activator reads.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.dirs.manifests
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
    /// Where the activator listens.
    activator: Ipv4Addr,
    idle: Duration,
    publish: watch::Sender<Option<u32>>,
}

/// An application with a queue in front, as two processes.
pub struct Pod {
    queue: Process,
    #[expect(dead_code, reason = "ends with this value")]
    application: Process,
    statistics: SocketAddr,
}

impl Scaler {
    async fn run(self, mut said: watch::Receiver<Said>, mut stop: watch::Receiver<bool>) {
        let mut pod: Option<Pod> = None;
        let mut busy = Instant::now();
        let mut scrape = tokio::time::interval(SCRAPE);
        scrape.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wanted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                changed = said.changed() => match changed {
                    Ok(()) => said.borrow_and_update().concurrency > 0.0,
                    Err(_) => break,
                },
                _ = scrape.tick() => false,
            };
            if let Err(error) = self.dirs.manifests.follow_encryption() {
                eprintln!("lockkeeper local: {error}");
            }
            // What goes past the activator is known to the pod alone, as in a cluster.
            if wanted || is_busy(pod.as_ref()).await {
                busy = Instant::now();
            } else if busy.elapsed() > self.idle {
                self.scale_down(&mut pod).await;
            }
            if wanted && pod.is_none() {
                match self.scale_up().await {
                    Ok(started) => {
                        self.publish.send_replace(Some(started.queue.id()));
                        pod = Some(started);
                        busy = Instant::now();
                    }
                    Err(error) => eprintln!("lockkeeper local: the pod did not start: {error}"),
                }
            }
        }
        self.scale_down(&mut pod).await;
    }

    async fn scale_up(&self) -> io::Result<Pod> {
        // The address is known before anything listens there, as in a cluster.
        self.dirs.manifests.pod(Some(self.address))?;
        let (certs, address) = (self.dirs.certs.clone(), self.address);
        let started = tokio::task::spawn_blocking(move || Pod::start(&certs, address)).await;
        let pod = started.map_err(io::Error::other)??;
        self.dirs.manifests.route(self.activator, Some(self.address))?;
        Ok(pod)
    }

    async fn scale_down(&self, pod: &mut Option<Pod>) {
        let Some(pod) = pod.take() else { return };
        let manifests = &self.dirs.manifests;
        if let Err(error) = manifests.route(self.activator, None).and_then(|()| manifests.pod(None)) {
            eprintln!("lockkeeper local: {error}");
        }
        tokio::time::sleep(SETTLE).await;
        if let Ok(Err(error)) = tokio::task::spawn_blocking(|| pod.stop()).await {
            eprintln!("lockkeeper local: {error}");
        }
        self.publish.send_replace(None);
    }
}

/// Whether a pod had requests in the last second, as the autoscaler asks it.
async fn is_busy(pod: Option<&Pod>) -> bool {
    let Some(pod) = pod else { return false };
    let ask = async {
        let mut connection = Connection::open(pod.statistics, None, Protocol::Http1).await?;
        connection.get("queue", "/metrics").await
    };
    let stat = ask.await.ok().and_then(|answer| Stat::decode(answer.body.as_slice()).ok());
    stat.is_some_and(|stat| stat.request_count > 0.0 || stat.average_concurrent_requests > 0.0)
}

impl Pod {
    /// Drains the queue, then ends the application, like a container whose pre-stop hook is over.
    ///
    /// # Errors
    /// When the queue does not leave well.
    pub fn stop(self) -> io::Result<()> {
        self.queue.stop()
    }

    /// Starts both, the queue on `address` with the certificates of a directory.
    ///
    /// # Errors
    /// Names what could not be started.
    pub fn start(certs: &Path, address: Ipv4Addr) -> io::Result<Self> {
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
        let [_, statistics] = queue.await_ports(["tls server main:", "http server metrics:"])?;
        Ok(Self { queue, application, statistics: SocketAddr::new(address.into(), statistics) })
    }
}

/// Which of a process's own loopback addresses.
#[derive(Clone, Copy)]
pub(super) enum Own {
    /// The activator's.
    Activator,
    /// The pods'.
    Pod,
    /// Those of the witnesses of the old and the new authority.
    Witnesses(bool),
}

/// A loopback address that no other `local` has: all of 127.0.0.0/8 is this machine, and process ids have 22 bits at most
/// (PID_MAX_LIMIT of Linux). Those above 60 * 2^16 would meet the lowest.
pub(super) fn own_address(of: Own) -> Ipv4Addr {
    let network = match of {
        Own::Activator => 8,
        Own::Pod => 68,
        Own::Witnesses(false) => 128,
        Own::Witnesses(true) => 188,
    };
    let [_, top, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, network + top % 60, high, low)
}
