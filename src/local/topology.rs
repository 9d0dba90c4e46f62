//! What `local` starts: certificates, the sample application, and this executable again in the queue role.
//!
//! Ports are read from the queue's log, never guessed.
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::certs::check::{self, Finding, Purpose};
use crate::knative::names;
use crate::local::app::App;
use crate::local::pki::{Authority, Leaf, Mount};
use crate::local::process::Process;
use crate::tls::{pem, san, trust};

/// The namespace that the queue believes to be in.
pub const NAMESPACE: &str = "default";
/// The revision that it believes to serve.
pub const REVISION: &str = "local-00001";

/// What to start; a port of 0 means any free one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A directory with `tls.crt`, `tls.key` and `ca.crt`; default: minted.
    pub certs_dir: Option<PathBuf>,
    /// The namespace whose name the certificate in `certs_dir` has to bear; default: whichever name it bears first.
    pub namespace: Option<String>,
    /// Plaintext port of the queue.
    pub http_port: u16,
    /// TLS port of the queue.
    pub tls_port: u16,
    /// Admin port of the queue.
    pub admin_port: u16,
    /// Port of the autoscaler's statistics.
    pub stats_port: u16,
    /// Port of the sample application.
    pub app_port: u16,
}

/// Ports that the queue listens on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// Plaintext.
    pub http: u16,
    /// TLS.
    pub tls: u16,
    /// Admin.
    pub admin: u16,
    /// Statistics.
    pub stats: u16,
}

/// Where the certificates come from.
pub enum Certificates {
    /// Minted here: leaves can be rotated.
    Minted {
        /// The CA.
        authority: Box<Authority>,
        /// What the queue reads.
        mount: Mount,
        /// The serial number of the last leaf.
        serial: u64,
    },
    /// Given by the user: only read.
    Given(PathBuf),
}

/// Everything that runs.
pub struct Topology {
    /// The queue; declared first, so that it ends before the application does.
    queue: Process,
    ports: Ports,
    /// The sample application.
    pub app: App,
    /// The certificates.
    pub certificates: Certificates,
    /// The DNS name to verify the queue by.
    pub name: String,
    /// The certificates of the authorities to trust, DER.
    pub roots: Vec<Vec<u8>>,
    state: StateDir,
}

/// The loopback address with `port`.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Topology {
    /// Starts it all and waits until every listener is open.
    ///
    /// # Errors
    /// Names what could not be started; the queue's last log lines are in the message.
    pub fn start(options: &Options) -> io::Result<Self> {
        let state = StateDir::create()?;
        let Shown { certificates, name, roots } = match &options.certs_dir {
            Some(dir) => given(dir, options.namespace.as_deref())?,
            None => minted(&state.0.join("certs"))?,
        };
        let app = App::start(loopback(options.app_port)).map_err(|error| about("the sample application", &error))?;
        let env = queue_env(certificates.dir(), app.addr().port());
        let own = [
            ("QUEUE_SERVING_PORT", options.http_port.to_string()),
            ("QUEUE_SERVING_TLS_PORT", options.tls_port.to_string()),
            ("LOCKKEEPER_ADMIN_PORT", options.admin_port.to_string()),
            ("LOCKKEEPER_STATS_PORT", options.stats_port.to_string()),
            ("SERVING_NAMESPACE", names::namespace_of(&name).unwrap_or(NAMESPACE).to_owned()),
        ];
        let mut queue = Process::start("the queue", &["queue"], &[&env[..], &own[..]].concat())?;
        let servers = ["http server main:", "tls server main:", "server admin:", "http server metrics:"];
        let [http, tls, admin, stats] = queue.await_ports(servers)?;
        let ports = Ports { http, tls, admin, stats };
        Ok(Self { queue, ports, app, certificates, name, roots, state })
    }

    /// The queue's ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The path of the CA's certificate.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.certificates.dir().join("ca.crt")
    }

    /// The id of the queue's process.
    #[must_use]
    pub fn queue_id(&self) -> u32 {
        self.queue.id()
    }

    /// Whether the queue has ended by itself: its last words.
    ///
    /// # Errors
    /// When the child cannot be asked.
    pub fn queue_ended(&mut self) -> io::Result<Option<String>> {
        self.queue.ended()
    }

    /// Drains: SIGTERM, then waits for the queue's end.
    ///
    /// # Errors
    /// When it does not leave in time, or not with status 0.
    pub fn stop(self) -> io::Result<()> {
        self.queue.stop()
    }

    /// A directory that vanishes with this value.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state.0
    }
}

/// The environment that Knative's controller gives to a queue in front of an application on `app`.
#[must_use]
pub fn queue_env(certs: &Path, app: u16) -> Vec<(&'static str, String)> {
    let probe = format!(r#"{{"tcpSocket":{{"port":{app},"host":"127.0.0.1"}}}}"#);
    [
        ("CONTAINER_CONCURRENCY", "0"),
        ("LOCKKEEPER_DRAIN_QUIET_PERIOD", "0s"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", NAMESPACE),
        ("SERVING_SERVICE", "local"),
        ("SERVING_CONFIGURATION", "local"),
        ("SERVING_REVISION", REVISION),
        ("SERVING_POD", "local-00001-deployment-0"),
        ("SERVING_POD_IP", "127.0.0.1"),
        ("LOCKKEEPER_CERT_DIR", &certs.display().to_string()),
        ("USER_PORT", &app.to_string()),
        ("SERVING_READINESS_PROBE", &probe),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

impl Certificates {
    /// The directory that the queue reads.
    #[must_use]
    pub fn dir(&self) -> &Path {
        match self {
            Self::Minted { mount, .. } => mount.path(),
            Self::Given(dir) => dir,
        }
    }

    /// Mints a new leaf and swaps it in; its serial number. `None` for given certificates: the CA's key is not here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn rotate(&mut self) -> io::Result<Option<String>> {
        let Self::Minted { authority, mount, serial } = self else { return Ok(None) };
        *serial += 1;
        let leaf = leaf(authority, *serial)?;
        mount.publish_leaf(&leaf, authority)?;
        Ok(Some(leaf.serial))
    }
}

fn leaf(authority: &Authority, serial: u64) -> io::Result<Leaf> {
    authority.leaf(&[&names::san_user(NAMESPACE), "localhost", "127.0.0.1", "::1"], serial)
}

/// What the queue shows, and how to verify it.
struct Shown {
    certificates: Certificates,
    name: String,
    roots: Vec<Vec<u8>>,
}

fn minted(dir: &Path) -> io::Result<Shown> {
    let authority = Authority::mint("lockkeeper local CA")?;
    let mut mount = Mount::create(dir)?;
    let serial = 0x1001;
    mount.publish_leaf(&leaf(&authority, serial)?, &authority)?;
    let roots = vec![authority.der().to_vec()];
    let certificates = Certificates::Minted { authority: Box::new(authority), mount, serial };
    Ok(Shown { certificates, name: names::san_user(NAMESPACE), roots })
}

/// A directory that passes what `certs check` looks at, and with which the queue can be verified.
fn given(dir: &Path, namespace: Option<&str>) -> io::Result<Shown> {
    let name = match namespace {
        Some(namespace) => names::san_user(namespace),
        None => first_name(dir).unwrap_or_else(|| names::san_user(NAMESPACE)),
    };
    let wrong: Vec<String> = check::directory(dir, &Purpose::queue(name.as_str()))
        .into_iter()
        .filter_map(|finding| match finding {
            Finding::Bad { what, remedy } => Some(format!("{what}\n  -> {remedy}")),
            Finding::Good(_) | Finding::Warning(_) => None,
        })
        .collect();
    if !wrong.is_empty() {
        return Err(io::Error::other(wrong.join("\n")));
    }
    let authorities = dir.join(names::FILE_CA);
    let untrusted = |why: &str| {
        let path = authorities.display();
        io::Error::other(format!(
            "{path}: {why}\n  -> expected the certificate of the authority, to verify the queue by"
        ))
    };
    let trusted = trust::Store::new();
    trusted.set_source(names::FILE_CA, &fs::read(&authorities).map_err(|error| untrusted(&error.to_string()))?);
    let anchors = trusted.snapshot().ok_or_else(|| untrusted("it holds no valid certificate authority"))?;
    let roots = anchors.anchors.iter().map(|anchor| anchor.der().to_vec()).collect();
    // Absolute, since what is printed is for another terminal.
    Ok(Shown { certificates: Certificates::Given(std::path::absolute(dir)?), name, roots })
}

/// The first name of the certificate in `dir`, if there is one that can be read as text.
fn first_name(dir: &Path) -> Option<String> {
    let text = fs::read(dir.join(names::FILE_CERTIFICATE)).ok()?;
    let leaf = pem::certificates(&text).ok()?.into_iter().next()?;
    String::from_utf8(san::dns_names(&leaf).ok()?.into_iter().next()?).ok()
}

fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// A directory of our own that vanishes with the value.
pub struct StateDir(PathBuf);

impl StateDir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// One for this process.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("lockkeeper-local-{}", std::process::id()));
        // Left behind by a process of the same id that was killed.
        let _ = fs::remove_dir_all(&dir);
        Mount::create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
