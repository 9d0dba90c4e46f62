//! Starting the gateway: settings, objects, listeners, workers, and leaving.
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::admin;
use super::config::{Config, Ports};
use super::control::Control;
use super::edge::observe::Counts;
use super::events::Events;
use super::kourier::{self, Kourier};
use super::leader::{self, Election};
use super::listeners::{self, Kind};
use super::live::Live;
use super::serve::{self, Shared};
use super::status::LoadBalancer;
use super::status::probe::{Prober, Replicas};
use super::status::report::{Reporter, Sink};
use super::traces;
use crate::config::env::Env;
use crate::control::listener;
use crate::http::guide::Order;
use crate::http::upstream::Limits;
use crate::http::{limits, pools};
use crate::knative::certificates::Certificates;
use crate::knative::config_map;
use crate::knative::network::{self, Network};
use crate::kube::source::Flags;
use crate::kube::{Key, Source};
use crate::lifecycle::drain::Drain;
use crate::lifecycle::signals::Signals;
use crate::telemetry::log;
use crate::tls::client::Connector;
use crate::tls::client_auth::ClientAuth;
use crate::tls::policy::Policy;
use crate::tls::{identity, provider, server, trust};
use crate::worker::{Listener, Workers, cpu};

/// Idle HTTP/1.1 connections of a worker to one upstream.
const IDLE_PER_UPSTREAM: usize = 100;
/// Idle HTTP/1.1 connections of a worker to all upstreams.
const IDLE: usize = 1000;
/// Longest time for TCP to connect: Kourier's `connectTimeout` is 5 s, which a dead address among live ones would cost.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the last spans may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a ConfigMap that was not there is looked for.
const SETTINGS_PAUSE: Duration = Duration::from_secs(2);
/// How long the gateway waits for a ConfigMap before it goes on with the defaults.
const SETTINGS_TIME: Duration = Duration::from_secs(60);

/// Why the process gives up.
struct Fatal(String);

impl Fatal {
    fn new(what: &str, why: impl Display) -> Self {
        Self(format!("{what}: {why}"))
    }
}

/// Runs the gateway until it is told to leave; the exit code is the process'.
#[must_use]
pub fn run(env: &dyn Env, flags: &Flags) -> ExitCode {
    let config = match Config::from_env(env) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(errors.exit_code());
        }
    };
    log::init("", "", "gateway", "", &config.pod);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::fatal("The gateway can't start", &error);
            return ExitCode::FAILURE;
        }
    };
    let result = LocalSet::new().block_on(&runtime, start(config, env, flags));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal(why)) => {
            log::fatal("The gateway can't start", &why);
            ExitCode::FAILURE
        }
    };
    log::flush(LAST_LINES);
    code
}

async fn start(config: Config, env: &dyn Env, flags: &Flags) -> Result<(), Fatal> {
    let source = Source::find(env, flags).map_err(|error| Fatal::new("no source of objects", error))?;
    let (identity, trust) = (identity::Store::new(), trust::Store::new());
    let policy = Policy::default();
    let warm = policy.clone();
    std::thread::spawn(move || provider::warm_up(&warm));
    // Go's queue asks for no certificate, one of ours may.
    let connector = Arc::new(Connector::new(&policy, trust.clone()).identity(identity.clone()));
    let own_name = format!("{}.{}.svc.{}", config.internal_service, config.gateway_namespace, config.cluster_domain);
    let live = Live::new(connector, trust.clone(), own_name, config.never_redirect);

    let workers = cpu::workers(cpu::Limits::of_this_process(), config.worker_threads);
    let drain = Drain::new(workers);
    let counts: Arc<Counts> = Arc::default();
    let (order, order_seen) = watch::channel(None);
    let (close, closed) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let (leaving, told_to_leave) = watch::channel(false);
    let tls_configs = |kourier: &Kourier| tls(kourier, &live);
    let (tls_now, tls_seen) = watch::channel(tls_configs(&Kourier::default())?);
    let shared = Arc::new(Shared {
        live: live.clone(),
        counts: counts.clone(),
        pools: pools::Settings {
            pool: Limits {
                idle: IDLE_PER_UPSTREAM,
                idle_time: limits::UPSTREAM_IDLE,
                header_lines: limits::HEADER_LINES,
                header_bytes: limits::HEADER_BYTES,
            },
            idle: IDLE,
            connect: CONNECT,
            handshake: HANDSHAKE,
        },
        retry_lost: config.retry_lost,
        http: crate::http::server::Settings::default(),
        drain: drain.clone(),
        order: order_seen,
        tls: tls_seen,
    });
    let on_worker = {
        let shared = shared.clone();
        move |index| serve::on_worker(&shared, index)
    };
    let running = Workers::start(workers, on_worker).map_err(|error| Fatal::new("no workers", error))?;

    // Liveness depends on nothing but this.
    let admin = listener::bind(config.listen_address, config.ports.admin)
        .map_err(|error| cannot_listen("LOCKKEEPER_ADMIN_PORT", config.listen_address, config.ports.admin, &error))?;
    tracing::info!("Starting http server admin:{}", port(&admin));
    let handler = admin::handler(live.clone(), counts, drain.clone(), source.activity().clone());
    tokio::task::spawn_local(listener::serve(
        admin,
        listener::Speaks::Plain,
        handler,
        crate::http::limits::HEADER_TIME,
        stopped.clone(),
    ));
    // Whoever has something to send at the end holds a copy of `last_words`.
    let (last_words, mut all_said) = tokio::sync::mpsc::channel::<()>(1);

    let serving = serving(
        &config,
        &source,
        &live,
        identity,
        trust,
        &running,
        &closed,
        told_to_leave,
        tls_now,
        (stopped, last_words),
    );
    let mut signals = Signals::new().map_err(|error| Fatal::new("signals", error))?;
    tokio::select! {
        result = serving => result?,
        () = signals.received() => {}
    }
    tracing::info!("Received a signal: leaving within {:?}", config.drain_time);
    signals.exit_at_next();
    // Status is no longer written by now, and the Lease is given back at once.
    leaving.send_replace(true);
    tokio::join!(leave(&config, &live, &drain, &order, &close, &running), leaving.closed());
    stop.send_replace(true);
    let _ = tokio::time::timeout(LAST_WORDS, all_said.recv()).await;
    tracing::info!("Shutdown complete, exiting...");
    Ok(())
}

/// Opens the ports and follows objects and settings for ever.
#[expect(clippy::too_many_arguments, reason = "the parts of one process, put together in one place")]
async fn serving(
    config: &Config,
    source: &Source,
    live: &Arc<Live>,
    identity: Arc<identity::Store>,
    trust: Arc<trust::Store>,
    running: &Workers,
    closed: &watch::Receiver<bool>,
    leaving: watch::Receiver<bool>,
    tls_now: watch::Sender<(Arc<ServerConfig>, Arc<ServerConfig>)>,
    (stopped, last_words): (watch::Receiver<bool>, tokio::sync::mpsc::Sender<()>),
) -> Result<(), Fatal> {
    source.check_version("v1.0.0").await.map_err(|error| Fatal::new("the API server", error))?;
    let system = &config.system_namespace;
    let client = match source {
        Source::Server(client) => Some(client.clone()),
        Source::Directory(_) => None,
    };
    let events = Events::start(client, &config.pod, live.events_dropped.clone());
    let network = settings(source, system, network::NAME, Network::parse, &events).await;
    let kourier = settings(source, system, kourier::NAME, kourier_at_start(&events, system), &events).await;
    let traces = traces::follow(kourier.now.clone(), live.clone(), config.collector_ca.clone(), stopped);
    tokio::task::spawn_local(async move {
        traces.await;
        drop(last_words);
    });
    let certificates = Certificates::follow(source, system, identity, trust);
    certificates.synced().await;
    let addresses = match config.listen_address {
        Some(address) => vec![Some(address)],
        None if kourier.now.borrow().listen_addresses.is_empty() => vec![None],
        None => kourier.now.borrow().listen_addresses.iter().copied().map(Some).collect(),
    };
    tls_now.send_replace(tls(&kourier.now.borrow(), live)?);
    let mut ports = config.ports;
    for kind in listeners::ALL {
        for address in &addresses {
            let bound = listen(kind, *address, kind.port(&ports), running, closed)
                .map_err(|error| cannot_listen(&kind.variable(), *address, kind.port(&ports), &error))?;
            kind.set_port(&mut ports, bound);
        }
    }
    if let Some(directory) = &config.status_dir {
        ports_file(directory, &ports).map_err(|error| Fatal::new(&directory.display().to_string(), error))?;
    }
    let replicas = Replicas::default();
    let sink = match (source, &config.status_dir) {
        (Source::Server(client), _) => Sink::Server(client.clone()),
        (Source::Directory(_), Some(directory)) => Sink::Directory(directory.clone()),
        (Source::Directory(_), None) => Sink::None,
    };
    let balancer = |name: &str| LoadBalancer::service(name, &config.gateway_namespace, &config.cluster_domain);
    let balancers = (balancer(&config.external_service), balancer(&config.internal_service));
    let reporter = Reporter::new(sink, Prober::new(replicas.clone(), ports), balancers);
    let control = Control::new(
        config.clone(),
        source.clone(),
        live.clone(),
        reporter,
        replicas,
        network.now.clone(),
        kourier.now.clone(),
        leads(config, source, live, leaving, &events).await,
        events,
    );
    tokio::select! {
        () = control.run() => Ok(()),
        result = follow_tls(kourier.now.clone(), live.clone(), tls_now) => result,
    }
}

/// Whether this replica writes status, from now on. A directory has one reader, which leads.
async fn leads(
    config: &Config,
    source: &Source,
    live: &Arc<Live>,
    leaving: watch::Receiver<bool>,
    events: &Events,
) -> watch::Receiver<bool> {
    let Source::Server(client) = source else { return watch::channel(true).1 };
    let settings = settings(source, &config.system_namespace, leader::NAME, leader::Settings::parse, events).await;
    let (tell, told) = watch::channel(false);
    let lease = Key::new(&config.system_namespace, &leader::lease_name(&config.class));
    let election = Election::new(client.clone(), lease, identity_of(&config.pod), leader::Settings::default(), tell);
    let live = live.clone();
    tokio::task::spawn_local(async move {
        let mut told_to_leave = leaving.clone();
        // Whoever has not read everything yet has nothing to write.
        let ready = async {
            while !live.is_ready() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = ready => election.run(settings.now, leaving).await,
            _ = told_to_leave.wait_for(|leaving| *leaving) => {}
        }
    });
    told
}

/// This replica's name in the Lease: the pod's, so that a restarted container goes on with it.
fn identity_of(pod: &str) -> String {
    if !pod.is_empty() {
        return pod.to_owned();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// New cipher suites act on the next connection.
async fn follow_tls(
    mut kourier: watch::Receiver<Arc<Kourier>>,
    live: Arc<Live>,
    now: watch::Sender<(Arc<ServerConfig>, Arc<ServerConfig>)>,
) -> Result<(), Fatal> {
    let mut suites = kourier.borrow().cipher_suites.clone();
    loop {
        if kourier.changed().await.is_err() {
            return std::future::pending().await;
        }
        let next = kourier.borrow_and_update().clone();
        if next.cipher_suites == suites {
            continue;
        }
        match tls(&next, &live) {
            Ok(configs) => {
                suites.clone_from(&next.cipher_suites);
                now.send_replace(configs);
            }
            Err(Fatal(why)) => tracing::error!("config-kourier: {why}; the previous cipher suites stay"),
        }
    }
}

/// A ConfigMap's data.
type Data = BTreeMap<String, String>;

/// Reads `config-kourier`. A mistake at the start leaves the defaults and the authoriser; later ones leave what was before.
fn kourier_at_start(
    events: &Events,
    namespace: &str,
) -> impl Fn(&Data) -> Result<Kourier, config_map::Invalid> + Clone + 'static {
    let first = Rc::new(Cell::new(true));
    let (events, namespace) = (events.clone(), namespace.to_owned());
    move |data| match Kourier::parse(data) {
        Err(mistake) if first.replace(false) => {
            tracing::warn!("{}: {mistake}: the defaults are used until then", kourier::NAME);
            events.config_map(&namespace, kourier::NAME, &mistake.to_string());
            Ok(Kourier::without_mistakes(data))
        }
        parsed => {
            first.set(false);
            parsed
        }
    }
}

/// A ConfigMap's settings as they are now.
struct Followed<T> {
    now: watch::Receiver<Arc<T>>,
}

/// The settings of a ConfigMap. While there is none that can be used, the defaults count: it is never an obstacle to
/// serving, and acts as soon as it is there.
async fn settings<T: Default + Send + Sync + 'static>(
    source: &Source,
    namespace: &str,
    name: &'static str,
    parse: impl Fn(&Data) -> Result<T, config_map::Invalid> + Clone + 'static,
    events: &Events,
) -> Followed<T> {
    let parse = {
        let (events, namespace) = (events.clone(), namespace.to_owned());
        move |data: &Data| parse(data).inspect_err(|invalid| events.config_map(&namespace, name, &invalid.to_string()))
    };
    let (publish, now) = watch::channel(Arc::new(T::default()));
    let started = config_map::Settings::start(source, namespace, name, parse.clone());
    let first = match tokio::time::timeout(SETTINGS_TIME, started).await {
        Ok(Ok(settings)) => Some(settings),
        Ok(Err(unusable)) => {
            tracing::warn!("{name}: {unusable}: the defaults are used until then");
            None
        }
        Err(_) => {
            tracing::warn!("{name}: no answer in {SETTINGS_TIME:?}: the defaults are used until then");
            None
        }
    };
    if let Some(settings) = &first {
        publish.send_replace(settings.current());
    }
    let (source, namespace) = (source.clone(), namespace.to_owned());
    tokio::task::spawn_local(async move {
        let settings = match first {
            Some(settings) => settings,
            None => loop {
                tokio::time::sleep(SETTINGS_PAUSE).await;
                if let Ok(settings) = config_map::Settings::start(&source, &namespace, name, parse.clone()).await {
                    tracing::info!("{name} is there");
                    break settings;
                }
            },
        };
        let mut changes = settings.changes();
        loop {
            publish.send_replace(changes.borrow_and_update().clone());
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
    Followed { now }
}

/// TLS settings of the external and the internal ports.
fn tls(kourier: &Kourier, live: &Live) -> Result<(Arc<ServerConfig>, Arc<ServerConfig>), Fatal> {
    let suites: Vec<String> = kourier.cipher_suites.iter().map(|name| iana(name)).collect();
    let policy = Policy::parse("", Some("1.2"), None, Some(&suites.join(",")), None)
        .map_err(|error| Fatal::new("cipher-suites", error))?;
    let config = |resolver: &Arc<crate::tls::resolver::Resolver>| {
        server::config(&policy, resolver.clone(), &ClientAuth::Off, server::ALPN_HTTP)
            .map_err(|error| Fatal::new("TLS settings", error))
    };
    Ok((config(&live.external)?, config(&live.internal)?))
}

/// OpenSSL's name of a cipher suite as IANA has it: `ECDHE-RSA-AES128-GCM-SHA256`.
fn iana(name: &str) -> String {
    let Some(rest) = name.strip_prefix("ECDHE-") else { return name.to_owned() };
    let rest = rest.replace("AES128", "AES-128").replace("AES256", "AES-256").replace('-', "_");
    let (kind, cipher) = rest.split_once('_').unwrap_or((&rest, ""));
    let cipher = match cipher {
        "CHACHA20_POLY1305" => "CHACHA20_POLY1305_SHA256",
        other => other,
    };
    format!("TLS_ECDHE_{kind}_WITH_{cipher}")
}

fn listen(
    kind: Kind,
    address: Option<IpAddr>,
    port_wanted: u16,
    running: &Workers,
    closed: &watch::Receiver<bool>,
) -> io::Result<u16> {
    let socket = listener::bind(address, port_wanted)?;
    let bound = port(&socket);
    tracing::info!("Starting {} server:{bound}", kind.name);
    running.listen(Listener { socket, port: kind.id, stop: closed.clone() });
    Ok(bound)
}

fn cannot_listen(variable: &str, address: Option<IpAddr>, port: u16, error: &io::Error) -> Fatal {
    let address = address.map(|address| format!(" on {address}")).unwrap_or_default();
    Fatal::new(&format!("{variable}={port}{address}: expected a port that can be opened"), error)
}

/// Tells whoever started this process with free ports which they are.
fn ports_file(directory: &std::path::Path, ports: &Ports) -> io::Result<()> {
    let text = serde_json::json!({
        "http": ports.http,
        "https": ports.https,
        "internal_http": ports.internal_http,
        "internal_https": ports.internal_https,
        "probe_http": ports.probe_http,
        "probe_https": ports.probe_https,
    });
    let fresh = directory.join("ports.tmp");
    std::fs::write(&fresh, text.to_string())?;
    std::fs::rename(fresh, directory.join("ports.json"))
}

fn port(socket: &std::net::TcpListener) -> u16 {
    socket.local_addr().map_or(0, |address| address.port())
}

/// Readiness falls at once; for a while connections are still taken, since others learn late that this replica leaves;
/// then what is in flight ends, and what has not by the end of the drain time is cut.
async fn leave(
    config: &Config,
    live: &Live,
    drain: &Arc<Drain>,
    order: &watch::Sender<Option<Order>>,
    close: &watch::Sender<bool>,
    running: &Workers,
) {
    let end = tokio::time::Instant::now() + config.drain_time;
    live.set_ready(false);
    drain.set_draining(true);
    order.send_replace(Some(Order::Announce));
    tokio::time::sleep(config.drain_settle.min(config.drain_time)).await;
    close.send_replace(true);
    order.send_replace(Some(Order::Finish));
    let finished = async {
        loop {
            let progress = drain.progress.notified();
            if drain.in_flight() <= 0 {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), progress).await;
        }
    };
    if tokio::time::timeout_at(end, finished).await.is_err() {
        tracing::warn!("The drain time is over: {} requests are cut", drain.in_flight());
    }
    order.send_replace(Some(Order::Leave));
    let gone = async {
        while running.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(200), gone).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_openssls_names_when_translated_then_they_are_ianas() {
        for (name, expected) in [
            ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
            ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ] {
            assert_eq!(iana(name), expected);
        }
    }
}
