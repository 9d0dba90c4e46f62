//! A proxy that takes part: its command, its ports, and a running process of it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::args::Args;
use crate::client::{Ask, H1, Tls, certificates};
use crate::process::{Cpus, family};
use crate::{Failure, peers};

/// How long a proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a proxy that answers in plaintext may take to open its TLS port: one without certificates never does.
const TLS_PATIENCE: Duration = Duration::from_secs(3);

/// Where a proxy listens, and what it speaks to the application there.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// HTTP/1.1 in plaintext.
    pub(crate) plain: u16,
    /// HTTP/1.1 over TLS; 0: never.
    pub(crate) tls: u16,
    /// HTTP/2 over TLS, to an application that speaks it too.
    pub(crate) h2: Option<u16>,
}

/// A proxy that can be started.
pub(crate) struct Contender {
    pub(crate) name: String,
    /// Its version, or where it is.
    pub(crate) about: String,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) ports: Ports,
    /// The request that it is sent.
    pub(crate) ask: Ask,
    /// Where its errors go.
    pub(crate) log: PathBuf,
}

/// Everybody who takes part, the binary to be measured first.
pub(crate) fn all(args: &Args, binary: &Path, dir: &Path, app: u16) -> Result<Vec<Contender>, Failure> {
    let own = binary.to_str().ok_or("a path that is not UTF-8")?.to_owned();
    let mut all = vec![queue("lockkeeper".to_owned(), vec![own, "queue".to_owned()], dir, app)?];
    for (index, command) in args.against.iter().enumerate() {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if command.is_empty() {
            return Err("--against needs a command".into());
        }
        all.push(queue(format!("against {}", index + 1), command, dir, app)?);
    }
    if !args.no_peers {
        all.extend(peers::nginx(dir, app)?);
        all.extend(peers::haproxy(dir, app)?);
    }
    Ok(all)
}

/// A queue-proxy by Knative's environment. The variables of lockkeeper's own say nothing to others: their ports are
/// fixed, and their certificates are in `/var/lib/knative/certs`.
pub(crate) fn queue(name: String, command: Vec<String>, dir: &Path, app: u16) -> io::Result<Contender> {
    let [plain, tls] = free_ports()?;
    let certificates = certificates(dir).display().to_string();
    let (plain_text, tls_text, app) = (plain.to_string(), tls.to_string(), app.to_string());
    let probe = format!(r#"{{"tcpSocket":{{"port":{app},"host":"127.0.0.1"}},"successThreshold":1}}"#);
    let env = [
        ("CONTAINER_CONCURRENCY", "0"),
        ("ENABLE_HTTP2_AUTO_DETECTION", "false"),
        ("ENABLE_HTTP_FULL_DUPLEX", "false"),
        ("ENABLE_MULTI_CONTAINER_PROBES", "false"),
        ("HOST_IP", "127.0.0.1"),
        ("LOCKKEEPER_ADMIN_PORT", "0"),
        ("LOCKKEEPER_CERT_DIR", &certificates),
        ("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1"),
        ("LOCKKEEPER_STATS_PORT", "0"),
        ("OBSERVABILITY_CONFIG", ""),
        ("POD_NAME", "hello-00001-deployment-0"),
        ("QUEUE_SERVING_PORT", &plain_text),
        ("QUEUE_SERVING_TLS_PORT", &tls_text),
        ("REVISION_IDLE_TIMEOUT_SECONDS", "0"),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "0"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("ROOT_CA", ""),
        ("SERVING_CONFIGURATION", "hello"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_POD", "hello-00001-deployment-0"),
        ("SERVING_POD_IP", "127.0.0.1"),
        ("SERVING_READINESS_PROBE", &probe),
        ("SERVING_REVISION", "hello-00001"),
        ("SERVING_SERVICE", "hello"),
        ("SYSTEM_NAMESPACE", "knative-serving"),
        ("USER_PORT", &app),
        ("WORKER_THREADS", "1"),
    ];
    Ok(Contender {
        about: command.join(" "),
        log: dir.join(format!("{}.log", name.replace(' ', "-"))),
        name,
        command,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ports: Ports { plain, tls, h2: Some(tls) },
        ask: Ask::Plain,
    })
}

/// Ports of loopback that nobody listens on.
pub(crate) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    // All are held before the first is let go, so that they differ.
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// A proxy that runs; it ends with this value.
pub(crate) struct Running {
    child: Child,
    /// Whether it answers over TLS.
    pub(crate) tls: bool,
    /// From exec to the first answer.
    pub(crate) started_in: Duration,
}

impl Running {
    /// Starts it on its CPU and waits for its first answer.
    pub(crate) async fn start(contender: &Contender, tls: &Tls, cpus: &Cpus) -> Result<Self, Failure> {
        let [program, arguments @ ..] = contender.command.as_slice() else { return Err("no command".into()) };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(contender.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&contender.log)?);
        let begun = Instant::now();
        let child = cpus.on_the_proxys(|| command.spawn())??;
        let mut running = Self { child, tls: true, started_in: Duration::ZERO };
        loop {
            let Ports { tls: secure, plain, .. } = contender.ports;
            if secure != 0 && answers(secure, Some(tls), contender.ask).await {
                running.started_in = begun.elapsed();
                return Ok(running);
            }
            let plain_is_enough = secure == 0 || begun.elapsed() > TLS_PATIENCE;
            if plain_is_enough && answers(plain, None, contender.ask).await {
                running.started_in = begun.elapsed();
                running.tls = false;
                return Ok(running);
            }
            if begun.elapsed() > PATIENCE || running.child.try_wait()?.is_some() {
                let log = std::fs::read_to_string(&contender.log).unwrap_or_default();
                return Err(format!("{} did not start:\n{log}", contender.name).into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

async fn answers(port: u16, tls: Option<&Tls>, ask: Ask) -> bool {
    let ask = async { H1::open(port, tls).await?.fetch(ask.http1()).await };
    tokio::time::timeout(Duration::from_secs(1), ask).await.is_ok_and(|answer| answer.is_ok())
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx's master takes its worker along when it is asked to end; what it leaves behind is ended by its own id.
        let children = family(self.child.id()).split_off(1);
        let send = |pid: u32, signal| {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        };
        if children.is_empty() {
            let _ = self.child.kill();
        } else {
            send(self.child.id(), Signal::TERM);
            let begun = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if matches!(self.child.try_wait(), Ok(None)) {
                children.iter().for_each(|child| send(*child, Signal::KILL));
                let _ = self.child.kill();
            }
        }
        let _ = self.child.wait();
    }
}
