//! Starting the gateway: what starts what, in which order, and what happens at the end.
use std::fmt::Display;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use super::config::Config;
use super::control::Control;
use super::drain::Drainer;
use super::edge::observe::Counts;
use super::events::Events;
use super::kourier::{self, Kourier};
use super::live::Live;
use super::serve::{self, Shared};
use super::status::LoadBalancer;
use super::status::probe::{Prober, Replicas};
use super::status::report::{Reporter, Sink};
use super::tls_settings::{self, TlsSettings};
use super::{admin, config_maps, leader, listeners, traces};
use crate::config::env::Env;
use crate::control::listener;
use crate::http::upstream::Limits;
use crate::http::{limits, pools};
use crate::knative::certificates::Certificates;
use crate::knative::network::{self, Network};
use crate::kube::Source;
use crate::kube::source::Flags;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::signals::Signals;
use crate::telemetry::log;
use crate::tls::client::Connector;
use crate::tls::policy::Policy;
use crate::tls::{identity, provider, trust};
use crate::worker::{Workers, cpu};

/// Idle HTTP/1.1 connections of a worker to all upstreams, or to a single one, as the activator may be: with fewer for
/// each, as many requests at once would shake hands again and again.
const IDLE: usize = 1000;
/// Longest time for TCP to connect: Kourier's `connectTimeout` is 5 s, which a dead address among live ones would cost.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the last spans may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    let (tls, tls_seen) = watch::channel(TlsSettings::new(&Kourier::default(), &live).map_err(Fatal)?);
    let shared = Arc::new(Shared {
        live: live.clone(),
        counts: counts.clone(),
        pools: pool_settings(),
        retry_lost: config.retry_lost,
        http: crate::http::server::Settings::default(),
        drain: drain.clone(),
        order: order_seen,
        tls: tls_seen,
    });
    let on_worker = move |index| serve::on_worker(&shared, index);
    let running = Workers::start(workers, on_worker).map_err(|error| Fatal::new("no workers", error))?;

    // Liveness depends on nothing but this.
    let (address, port) = (config.listen_address, config.ports.admin);
    let admin = listener::bind(address, port)
        .map_err(|error| Fatal(listeners::refusal("LOCKKEEPER_ADMIN_PORT", address, port, &error)))?;
    tracing::info!("Starting http server admin:{}", listeners::port_of(&admin));
    let handler = admin::handler(live.clone(), counts, drain.clone(), source.activity().clone());
    let plain = listener::Speaks::Plain;
    tokio::task::spawn_local(listener::serve(admin, plain, handler, limits::HEADER_TIME, stopped.clone()));
    // Whoever has something to send at the end holds a copy of `last_words`.
    let (last_words, mut all_said) = mpsc::channel::<()>(1);

    let following = Following {
        config: &config,
        source: &source,
        live: &live,
        workers: &running,
        closed,
        leaving: told_to_leave,
        tls,
        stopped,
        last_words,
    };
    let mut signals = Signals::new().map_err(|error| Fatal::new("signals", error))?;
    tokio::select! {
        result = following.run(identity, trust) => result?,
        () = signals.received() => {}
    }
    tracing::info!("Received a signal: leaving within {:?}", config.drain_time);
    signals.exit_at_next();
    // Status is no longer written by now, and the Lease is given back at once.
    leaving.send_replace(true);
    let drainer =
        Drainer { live: live.clone(), drain, order, close, time: config.drain_time, settle: config.drain_settle };
    tokio::join!(drainer.run(&running), leaving.closed());
    stop.send_replace(true);
    let _ = tokio::time::timeout(LAST_WORDS, all_said.recv()).await;
    tracing::info!("Shutdown complete, exiting...");
    Ok(())
}

fn pool_settings() -> pools::Settings {
    pools::Settings {
        pool: Limits {
            idle: IDLE,
            idle_time: limits::UPSTREAM_IDLE,
            header_lines: limits::HEADER_LINES,
            header_bytes: limits::HEADER_BYTES,
            header_room: 12,
        },
        idle: IDLE,
        connect: CONNECT,
        handshake: HANDSHAKE,
    }
}

/// What follows objects and settings until the process is told to leave.
struct Following<'a> {
    config: &'a Config,
    source: &'a Source,
    live: &'a Arc<Live>,
    workers: &'a Workers,
    /// True when the listeners have to close.
    closed: watch::Receiver<bool>,
    /// True when the Lease has to be given back.
    leaving: watch::Receiver<bool>,
    tls: watch::Sender<TlsSettings>,
    /// True when what is queued has to go out.
    stopped: watch::Receiver<bool>,
    /// Closed when all of it has.
    last_words: mpsc::Sender<()>,
}

impl Following<'_> {
    /// Reads the settings, opens the ports, and follows what changes for ever.
    async fn run(self, identity: Arc<identity::Store>, trust: Arc<trust::Store>) -> Result<(), Fatal> {
        let Self { config, source, live, workers, closed, leaving, tls, stopped, last_words } = self;
        source.check_version("v1.0.0").await.map_err(|error| Fatal::new("the API server", error))?;
        let system = &config.system_namespace;
        let client = match source {
            Source::Server(client) => Some(client.clone()),
            Source::Directory(_) => None,
        };
        let events = Events::start(client, &config.pod, live.events_dropped.clone());
        let network = config_maps::follow(source, system, network::NAME, Network::parse, &events).await;
        let parse = config_maps::kourier(&events, system);
        let kourier = config_maps::follow(source, system, kourier::NAME, parse, &events).await;
        let traces = traces::follow(kourier.clone(), live.clone(), config.collector_ca.clone(), stopped);
        tokio::task::spawn_local(async move {
            traces.await;
            drop(last_words);
        });
        // Held until the end: what it follows ends with it.
        let certificates = Certificates::follow(source, system, identity, trust);
        certificates.synced().await;
        tls.send_replace(TlsSettings::new(&kourier.borrow(), live).map_err(Fatal)?);
        let addresses = addresses(config, &kourier.borrow());
        let ports = listeners::open(&addresses, config.ports, workers, &closed).map_err(Fatal)?;
        if let Some(directory) = &config.status_dir {
            let told = listeners::tell(directory, &ports);
            told.map_err(|error| Fatal::new(&directory.display().to_string(), error))?;
        }
        let replicas = Replicas::default();
        let balancer = |name: &str| LoadBalancer::service(name, &config.gateway_namespace, &config.cluster_domain);
        let balancers = (balancer(&config.external_service), balancer(&config.internal_service));
        let reporter = Reporter::new(sink(config, source), Prober::new(replicas.clone(), ports), balancers);
        let control = Control::new(
            config.clone(),
            source.clone(),
            live.clone(),
            reporter,
            replicas,
            network,
            kourier.clone(),
            leader::start(config, source, live, leaving, &events).await,
            events,
        );
        tokio::select! {
            () = control.run() => {}
            () = tls_settings::follow(kourier, live, tls) => {}
        }
        Ok(())
    }
}

/// The addresses to listen on; none is every one of the machine's.
fn addresses(config: &Config, kourier: &Kourier) -> Vec<Option<IpAddr>> {
    match config.listen_address {
        Some(address) => vec![Some(address)],
        None if kourier.listen_addresses.is_empty() => vec![None],
        None => kourier.listen_addresses.iter().copied().map(Some).collect(),
    }
}

/// Where status goes.
fn sink(config: &Config, source: &Source) -> Sink {
    match (source, &config.status_dir) {
        (Source::Server(client), _) => Sink::Server(client.clone()),
        (Source::Directory(_), Some(directory)) => Sink::Directory(directory.clone()),
        (Source::Directory(_), None) => Sink::None,
    }
}
