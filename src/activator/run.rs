//! Starting the activator: settings, objects, listeners, workers, and the tasks of the control side.
//!
//! The order is that of `knative.dev/serving/cmd/activator/main.go`: ports open when all objects are known, so that a port
//! that listens has nothing left to learn but the autoscaler's address.

use std::fmt::Display;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use super::autoscaler::{self, Reporter};
use super::certificates::Tls;
use super::config::Config;
use super::config_maps::{Maps, unusable};
use super::directory::{Directory, Wiring};
use super::drain::Drainer;
use super::encryption::Switch;
use super::health::Health;
use super::metrics::{self, Metrics, gauges};
use super::probing;
use super::revisions::Revisions;
use super::serve::{self, Shared};
use super::throttle::{Budget, MeshMode, Policy as ThrottlePolicy};
use super::upstream::Network;
use crate::config::env::Env;
use crate::control::listener::{self, refusal};
use crate::control::{export, scrape};
use crate::http::pools;
use crate::http::upstream::Limits;
use crate::knative::certificates::Certificates;
use crate::knative::config_map::Settings;
use crate::knative::network::{self, MeshMode as NetworkMesh};
use crate::kube::Source;
use crate::kube::source::Flags;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::signals::Signals;
use crate::telemetry::log;
use crate::telemetry::observability::MetricsExport;
use crate::telemetry::registry;
use crate::telemetry::trace::{Names, Tracer};
use crate::tls::{identity, trust};
use crate::worker::{Listener, Workers, cpu, memory};

/// How long the API server's version is asked for, once a second.
const VERSION_LIMIT: Duration = Duration::from_secs(60);
/// Without a memory limit: 60 per cent of the one in the original's manifest.
const DEFAULT_WAITING_BYTES: u64 = 360 << 20;
/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why the process gives up: one fatal line.
pub(super) struct Fatal {
    message: String,
    error: String,
}

impl Fatal {
    pub(super) fn new(message: &str, error: impl Display) -> Self {
        Self { message: message.to_owned(), error: error.to_string() }
    }
}

/// Runs the activator until it is told to leave; the exit code is the process'.
#[must_use]
pub fn run<E: Env + Clone + 'static>(env: &E, flags: &Flags) -> ExitCode {
    let config = match Config::from_env(env) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("Failed to process env: {errors}");
            return ExitCode::from(errors.exit_code());
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::fatal("Failed to start", &error);
            return ExitCode::FAILURE;
        }
    };
    let result = LocalSet::new().block_on(&runtime, start(config, env, flags));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal { message, error }) => {
            log::fatal(&message, &error);
            ExitCode::FAILURE
        }
    };
    log::flush(LAST_LINES);
    // A look-up of a name may still sit in its thread; nobody waits for it.
    runtime.shutdown_background();
    code
}

async fn start<E: Env + Clone + 'static>(config: Config, env: &E, flags: &Flags) -> Result<(), Fatal> {
    let mut signals = Signals::new().map_err(|e| Fatal::new("Failed to receive signals", e))?;
    let running = tokio::select! {
        running = set_up(config, env, flags) => running?,
        () = signals.received() => {
            tracing::info!("Received SIGTERM before the start was over");
            return Ok(());
        }
    };
    running.until(signals).await;
    Ok(())
}

/// An activator that serves.
struct Running {
    drainer: Drainer,
    workers: Rc<Workers>,
    /// Ends what the control side serves and pushes.
    stop: watch::Sender<bool>,
    /// Each sends what is left when it is stopped.
    exports: Vec<JoinHandle<()>>,
    /// What they follow ends with them.
    _followed: (Maps, Settings<network::Network>),
}

impl Running {
    /// Serves until it is told to leave, and has left.
    async fn until(self, signals: Signals) {
        self.drainer.run(signals, &self.workers).await;
        self.stop.send_replace(true);
        for export in self.exports {
            // Each limits its last push by itself.
            let _ = export.await;
        }
    }
}

/// Waits for what a start needs, in the original's order, and opens the ports.
async fn set_up<E: Env + Clone + 'static>(config: Config, env: &E, flags: &Flags) -> Result<Running, Fatal> {
    let source = Source::find(env, flags).map_err(|e| Fatal::new("Error building kubeconfig", e))?;
    await_version(|| source.check_version(&config.kubernetes_min_version)).await?;
    let maps = Maps::start(&source, &config, env).await?;
    let observed = maps.observed();
    tracing::info!("Starting the knative activator");

    let workers = cpu::workers(cpu::Limits::of_this_process(), config.own.worker_threads);
    let revisions = Arc::new(Revisions::default());
    let link = Arc::new(autoscaler::Status::default());
    let health = Health::new(link.clone(), config.own.autoscaler_readiness);
    let metrics = Metrics::new(workers, metrics::resource(env, &config), revisions.clone(), link.clone());
    metrics.objects(source.activity().clone());
    let tracer = Tracer::new(&observed, Names::ACTIVATOR);
    let (control_stop, control_stopped) = watch::channel(false);
    let exported: Arc<dyn registry::Source> = metrics.clone();
    let exports = export::start(&observed, &exported, tracer.clone(), &control_stopped);
    if let MetricsExport::Prometheus(export) = &observed.metrics {
        scrape::start(
            export,
            config.metrics_tls.policy(scrape::PREFIX),
            exported,
            config.own.header_read_timeout,
            control_stopped.clone(),
        )
        .map_err(|e| Fatal::new("Failed to setup meter provider", e))?;
    }

    let (identity, trust) = (identity::Store::new(), trust::Store::new());
    let directory = Directory::follow(&source);
    let certificates = Certificates::follow(&source, &config.system_namespace, identity.clone(), trust.clone());
    directory.synced().await;
    certificates.synced().await;
    let cluster = Settings::start(&source, &config.system_namespace, network::NAME, network::Network::parse)
        .await
        .map_err(|e| unusable("network", &e))?;
    let first = cluster.current();

    let tls = Tls::new(&config, &identity, &trust, first.system_internal_tls)?;
    let network =
        Arc::new(ArcSwap::from_pointee(Network { mesh_host: first.mesh_pod_addressability, ..Network::default() }));
    let settings =
        probing::Settings { limit: config.probe_timeout, frequency: config.probe_frequency, ..Default::default() };
    let (prober, probes) = probing::start(settings).map_err(|e| Fatal::new("Failed to start the prober", e))?;
    let budget = Arc::new(Budget::new(waiting_bytes(&config)));
    let differences = Arc::new(AtomicU64::new(0));
    let following = directory.start(Wiring {
        into: revisions.clone(),
        policy: Arc::new(policy(&config, &first)),
        budget: budget.clone(),
        prober,
        workers,
        pod_ip: config.pod_ip.clone(),
        accept_legacy_san: config.own.accept_legacy_san,
        differences: differences.clone(),
    });
    tokio::task::spawn_local(following);
    // A crowd that waited leaves room behind.
    tokio::task::spawn_local(crate::memory::keep_low());

    let (pokes, poked) = mpsc::unbounded_channel();
    let reporter = Reporter::new(config.pod_name.clone());
    tokio::task::spawn_local(autoscaler::link::run(
        config.autoscaler(),
        poked,
        reporter,
        link,
        control_stopped.clone(),
    ));
    gauges::register(&metrics, &budget, &probes, differences, &trust, &identity);

    let drain = Drain::new(workers);
    let (order, order_seen) = watch::channel(None);
    let (close, closed) = watch::channel(false);
    let request_log = Arc::new(ArcSwapOption::empty());
    let shared = Arc::new(Shared {
        revisions,
        network: network.clone(),
        trust: trust.clone(),
        cluster_domain: config.cluster_domain.clone(),
        pools: pool_settings(&config, workers),
        pokes,
        waiting_timeout: config.own.waiting_timeout,
        retry_lost: config.own.retry_lost,
        timeout_style: config.own.timeout_style,
        queue_tls_port: config.own.queue_tls_port,
        http: crate::http::server::Settings {
            header_time: config.own.header_read_timeout,
            header_bytes: config.own.max_header_bytes as usize,
            header_lines: config.own.max_headers as usize,
            streams: config.own.max_concurrent_streams,
        },
        client_idle: config.own.client_idle_timeout,
        metrics,
        measured: observed.metrics != MetricsExport::Off,
        log: request_log.clone(),
        tracer,
        health: health.clone(),
        drain: drain.clone(),
        order: order_seen,
        tls: tls.server,
    });
    let on_worker = {
        let shared = shared.clone();
        move |index| serve::on_worker(&shared, index)
    };
    let running = Rc::new(Workers::start(workers, on_worker).map_err(|e| Fatal::new("Failed to start", e))?);

    let address = config.own.listen_address;
    if let Err(error) = scrape::profile(address, config.profiling_port, control_stopped) {
        tracing::error!(%error, "the profiling port cannot be opened (PROFILING_PORT={})", config.profiling_port);
    }
    maps.follow(request_log);
    let switch = Switch {
        certificates,
        identity,
        encryption: tls.client,
        network,
        health: health.clone(),
        workers: running.clone(),
        address,
        port: config.own.tls_port,
    };
    // Before the other ports open: no request may find pods addressed in plaintext while TLS is on.
    tokio::task::spawn_local(switch.start(cluster.changes(), closed.clone()));
    for (name, variable, port, id) in [
        ("http1", "LOCKKEEPER_HTTP_PORT", config.own.http_port, serve::HTTP1),
        ("h2c", "LOCKKEEPER_HTTP2_PORT", config.own.http2_port, serve::H2C),
    ] {
        listen(&running, address, (name, variable), port, id, closed.clone())?;
    }
    let drainer =
        Drainer { health, drain, order, close, time: config.own.drain_time, grace: config.own.shutdown_grace };
    Ok(Running { drainer, workers: running, stop: control_stop, exports, _followed: (maps, cluster) })
}

/// Asks the API server for its version until it answers with one that will do.
async fn await_version<E: Display>(ask: impl AsyncFn() -> Result<(), E>) -> Result<(), Fatal> {
    let deadline = tokio::time::Instant::now() + VERSION_LIMIT;
    loop {
        let Err(error) = ask().await else { return Ok(()) };
        eprintln!("Failed to get k8s version {error}");
        if tokio::time::Instant::now() >= deadline {
            return Err(Fatal::new("Timed out attempting to get k8s version", error));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn policy(config: &Config, network: &network::Network) -> ThrottlePolicy {
    ThrottlePolicy {
        mesh: match network.mesh {
            NetworkMesh::Auto => MeshMode::Auto,
            NetworkMesh::Enabled => MeshMode::Enabled,
            NetworkMesh::Disabled => MeshMode::Disabled,
        },
        pod_addressability: network.mesh_pod_addressability,
        choice: config.own.choice,
        slicing: config.own.slicing,
        borrow: config.own.borrow,
        queue_depth: config.own.queue_depth as usize,
    }
}

/// What waiting requests may hold.
fn waiting_bytes(config: &Config) -> usize {
    let by_limit = || memory::limit().map_or(DEFAULT_WAITING_BYTES, |limit| limit / 10 * 6);
    usize::try_from(config.own.waiting_bytes.map_or_else(by_limit, u64::from)).unwrap_or(usize::MAX)
}

fn pool_settings(config: &Config, workers: usize) -> pools::Settings {
    let share = |all: usize| all.div_ceil(workers.max(1));
    pools::Settings {
        pool: Limits {
            idle: share(config.max_idle_per_host),
            idle_time: config.own.upstream_idle_timeout,
            header_lines: config.own.max_headers as usize,
            header_bytes: crate::http::limits::HEADER_BYTES.max(config.own.max_header_bytes as usize),
            header_room: 12,
        },
        idle: share(config.max_idle),
        connect: config.own.connect_timeout,
        handshake: config.own.handshake_timeout,
    }
}

fn listen(
    workers: &Workers,
    address: Option<std::net::IpAddr>,
    (name, variable): (&str, &str),
    port: u16,
    id: crate::worker::PortId,
    stop: watch::Receiver<bool>,
) -> Result<(), Fatal> {
    let socket = listener::bind(address, port).map_err(|error| {
        let address = address.map(|address| format!(", LOCKKEEPER_LISTEN_ADDRESS={address}")).unwrap_or_default();
        let expected = format!("{variable}={port}{address}: expected a port that can be opened");
        Fatal::new("Failed to run HTTP server", format!("{name} server failed: {} ({expected})", refusal(port, &error)))
    })?;
    let port = socket.local_addr().map_or(port, |address| address.port());
    tracing::info!("Starting server {name}:{port}");
    workers.listen(Listener { socket, port: id, stop });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn given_a_server_that_is_too_old_when_a_minute_is_over_then_the_start_ends_and_says_why() {
        let (start, asked) = (tokio::time::Instant::now(), Cell::new(0));

        let ended = await_version(async || {
            asked.set(asked.get() + 1);
            Err("kubernetes version \"1.33.0\" is not compatible")
        })
        .await;

        let Err(Fatal { message, error }) = ended else { unreachable!("it is too old") };
        assert_eq!(message, "Timed out attempting to get k8s version");
        assert_eq!(error, "kubernetes version \"1.33.0\" is not compatible");
        assert_eq!((start.elapsed().as_secs(), asked.get()), (60, 61));
    }
}
