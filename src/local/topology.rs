//! What `local` starts: certificates, the sample application, and this executable again in the queue role.
//!
//! The queue runs in a process group of its own: a Ctrl-C in the terminal reaches `local` alone, which then sends one
//! SIGTERM (a second signal would end the queue at once). Ports are read from the queue's log, never guessed.
use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::local::app::App;
use crate::local::pki::{Authority, Leaf, Mount};

/// How long the queue may take to open its listeners.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take to leave after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The log lines that are kept to explain a failure.
const KEPT_LINES: usize = 40;
/// The namespace that the queue believes to be in.
const NAMESPACE: &str = "default";

/// What to start; a port of 0 means any free one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A directory with `tls.crt`, `tls.key` and `ca.crt`; default: minted.
    pub certs_dir: Option<PathBuf>,
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
    queue: Queue,
    /// The sample application.
    pub app: App,
    /// The certificates.
    pub certificates: Certificates,
    /// The DNS name to verify the queue by.
    pub name: String,
    /// The CA's certificate, DER.
    pub root: Vec<u8>,
    _state: StateDir,
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
        let (certificates, name, root) = match &options.certs_dir {
            Some(dir) => given(dir)?,
            None => minted(&state.0.join("certs"))?,
        };
        let app = App::start(loopback(options.app_port)).map_err(|error| about("the sample application", &error))?;
        let queue = Queue::start(options, certificates.dir(), app.addr().port())?;
        Ok(Self { queue, app, certificates, name, root, _state: state })
    }

    /// The queue's ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.queue.ports
    }

    /// The path of the CA's certificate.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.certificates.dir().join("ca.crt")
    }

    /// The id of the queue's process.
    #[must_use]
    pub fn queue_id(&self) -> u32 {
        self.queue.child.id()
    }

    /// Whether the queue has ended by itself: its last words.
    ///
    /// # Errors
    /// When the child cannot be asked.
    pub fn queue_ended(&mut self) -> io::Result<Option<String>> {
        Ok(self.queue.child.try_wait()?.map(|status| self.queue.last_words(status)))
    }

    /// Drains: SIGTERM, then waits for the queue's end.
    ///
    /// # Errors
    /// When it does not leave in time, or not with status 0.
    pub fn stop(mut self) -> io::Result<()> {
        let status = self.queue.stop()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(self.queue.last_words(status))) }
    }
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
    authority.leaf(&[&format!("kn-user-{NAMESPACE}"), "localhost", "127.0.0.1", "::1"], serial)
}

fn minted(dir: &Path) -> io::Result<(Certificates, String, Vec<u8>)> {
    let authority = Authority::mint("lockkeeper local CA")?;
    let mut mount = Mount::create(dir)?;
    let serial = 0x1001;
    mount.publish_leaf(&leaf(&authority, serial)?, &authority)?;
    let root = authority.der().to_vec();
    Ok((Certificates::Minted { authority: Box::new(authority), mount, serial }, format!("kn-user-{NAMESPACE}"), root))
}

fn given(dir: &Path) -> io::Result<(Certificates, String, Vec<u8>)> {
    let root = first_certificate(&dir.join("ca.crt"))?;
    let leaf = first_certificate(&dir.join("tls.crt"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).map_err(io::Error::other)?;
    let name = parsed.subject_alternative_name().ok().flatten().and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            x509_parser::prelude::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
    });
    let name = name.ok_or_else(|| io::Error::other(format!("{}: no DNS name in it", dir.join("tls.crt").display())))?;
    Ok((Certificates::Given(dir.to_owned()), name, root))
}

fn first_certificate(path: &Path) -> io::Result<Vec<u8>> {
    let named = |what: String| io::Error::other(format!("{}: {what}", path.display()));
    let text = fs::read(path).map_err(|error| named(error.to_string()))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).map_err(|error| named(error.to_string()))?;
    Ok(pem.contents)
}

fn about(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// A directory of our own that vanishes with the value.
struct StateDir(PathBuf);

impl StateDir {
    fn create() -> io::Result<Self> {
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

/// The queue as a child process.
struct Queue {
    child: Child,
    lines: mpsc::Receiver<String>,
    kept: VecDeque<String>,
    ports: Ports,
}

impl Queue {
    fn start(options: &Options, certs: &Path, app: u16) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("queue")
            .env("CONTAINER_CONCURRENCY", "0")
            .env("QUEUE_SERVING_PORT", options.http_port.to_string())
            .env("QUEUE_SERVING_TLS_PORT", options.tls_port.to_string())
            .env("LOCKKEEPER_ADMIN_PORT", options.admin_port.to_string())
            .env("LOCKKEEPER_STATS_PORT", options.stats_port.to_string())
            .env("LOCKKEEPER_CERT_DIR", certs)
            .env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "0s")
            .env("USER_PORT", app.to_string())
            .env("REVISION_TIMEOUT_SECONDS", "300")
            .env("SERVING_LOGGING_CONFIG", "")
            .env("SERVING_LOGGING_LEVEL", "")
            .env("SERVING_NAMESPACE", NAMESPACE)
            .env("SERVING_SERVICE", "local")
            .env("SERVING_CONFIGURATION", "local")
            .env("SERVING_REVISION", "local-00001")
            .env("SERVING_POD", "local-00001-deployment-0")
            .env("SERVING_POD_IP", "127.0.0.1")
            .env("SERVING_READINESS_PROBE", format!(r#"{{"tcpSocket":{{"port":{app},"host":"127.0.0.1"}}}}"#))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| about("the queue", &error))?;
        let (sender, lines) = mpsc::channel();
        if let Some(pipe) = child.stderr.take() {
            // Ends with the pipe; reads on after `Queue` is gone, so that the child never blocks on a full pipe.
            std::thread::Builder::new().name("queue-log".to_owned()).spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            })?;
        }
        let mut queue = Self { child, lines, kept: VecDeque::new(), ports: Ports::default() };
        queue.await_ports()?;
        Ok(queue)
    }

    fn await_ports(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while [self.ports.http, self.ports.tls, self.ports.admin, self.ports.stats].contains(&0) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.note(line),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let log = self.log();
                    return Err(io::Error::other(format!("the queue did not open its listeners in time\n{log}")));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    return Err(io::Error::other(self.last_words(status)));
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, line: String) {
        let found = |server: &str| port_after(&line, server);
        self.ports.http = found("http server main:").unwrap_or(self.ports.http);
        self.ports.tls = found("tls server main:").unwrap_or(self.ports.tls);
        self.ports.admin = found("server admin:").unwrap_or(self.ports.admin);
        self.ports.stats = found("http server metrics:").unwrap_or(self.ports.stats);
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    fn log(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.note(line);
        }
        Vec::from(self.kept.clone()).join("\n")
    }

    fn last_words(&mut self, status: ExitStatus) -> String {
        format!("the queue ended: {status}\n{}", self.log())
    }

    fn stop(&mut self) -> io::Result<ExitStatus> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (Some(id), None) = (id, self.child.try_wait()?) {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        // The log's pipe closes when the process ends: that is what is waited for.
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.note(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait(),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(io::Error::other(format!("the queue did not leave within {STOP_LIMIT:?}")));
                }
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The number that follows `server` in a log line such as `Starting tls server main:8112`.
fn port_after(line: &str, server: &str) -> Option<u16> {
    let digits = line.split_once(server)?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_json_log_line_when_it_names_a_server_then_its_port_is_found() {
        let line = r#"{"severity":"INFO","message":"Starting tls server main:8112","knative.dev/key":"a/b"}"#;
        assert_eq!(port_after(line, "tls server main:"), Some(8112));
        assert_eq!(port_after(line, "http server main:"), None);
    }
}
