//! Starting the queue: settings, listeners, workers, and the tasks of the control side.

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;

use super::breaker::Breaker;
use super::certificates::{self, Tls};
use super::config::Config;
use super::drain::{Drainer, Settings, Stage};
use super::layer::observe::RequestLog;
use super::metrics::{self, Metrics};
use super::serve::{self, Shared};
use super::{admin, readiness, statistics::Statistics};
use crate::config::env::Env;
use crate::config::error::{Error, shown};
use crate::control::listener::{self, Speaks, TlsNow, refusal};
use crate::control::{export, scrape};
use crate::http::upstream::Limits;
use crate::lifecycle::drain::Drain;
use crate::lifecycle::signals::Signals;
use crate::telemetry::observability::{MetricsExport, Observability};
use crate::telemetry::registry::Source;
use crate::telemetry::request_log::{RevisionFacts, Template};
use crate::telemetry::trace::{Names, Tracer};
use crate::telemetry::{log, writer};
use crate::tls::settings::Callers;
use crate::worker::{Listener, Workers, cpu};

/// Idle HTTP/1.1 connections to an application without a limit of concurrency (`pkg/queue/sharedmain`: 1000).
const UNLIMITED_IDLE: usize = 1000;
/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why the queue does not start, or ends: a listener cannot be opened.
const BRING_UP: &str = "Failed to bring up queue-proxy, shutting down.";

/// Why the process gives up: one line.
pub(super) struct Fatal {
    message: &'static str,
    error: String,
}

impl Fatal {
    pub(super) fn new(message: &'static str, error: impl Display) -> Self {
        Self { message, error: error.to_string() }
    }

    /// Says so. Listeners that cannot be opened are an error to the original, everything else is fatal.
    fn log(&self) {
        let Self { message, error } = self;
        match *message {
            BRING_UP => tracing::error!(error, "{BRING_UP}"),
            message => log::fatal(message, &error),
        }
        log::flush(LAST_LINES);
    }

    /// Ends the process from a task.
    pub(super) fn exit(self) -> ! {
        self.log();
        std::process::exit(1);
    }

    /// As Go words a listener that cannot be opened, and what said where it is.
    pub(super) fn serve(server: Server, address: Option<IpAddr>, port: u16, error: &io::Error) -> Self {
        let Server { name, variable } = server;
        let address = address.map(|address| format!(", LOCKKEEPER_LISTEN_ADDRESS={address}")).unwrap_or_default();
        let expected = format!("{variable}={port}{address}: expected a port that can be opened");
        Self::new(BRING_UP, format!("{name} server failed to serve: {} ({expected})", refusal(port, error)))
    }
}

/// One of the queue's servers: Go's name of it, and the variable with its port.
#[derive(Clone, Copy)]
pub(super) struct Server {
    name: &'static str,
    variable: &'static str,
}

impl Server {
    const MAIN: Self = Self { name: "main", variable: "QUEUE_SERVING_PORT" };
    pub(super) const TLS: Self = Self { name: "main tls", variable: "QUEUE_SERVING_TLS_PORT" };
    const ADMIN: Self = Self { name: "admin", variable: "LOCKKEEPER_ADMIN_PORT" };
    const STATISTICS: Self = Self { name: "metrics", variable: "LOCKKEEPER_STATS_PORT" };
    const PROFILE: Self = Self { name: "profile", variable: "PROFILING_PORT" };
}

/// Runs the queue until it is told to leave; the exit code is the process'.
#[must_use]
pub fn run(env: &dyn Env) -> ExitCode {
    let config = match Config::from_env(env) {
        Ok(config) => config,
        Err(errors) => {
            if let Some((message, error)) = errors.fatal() {
                // What can be logged at all is logged as asked for.
                let text = |name| env.var(name).unwrap_or_default();
                let key = format!("{}/{}", text("SERVING_NAMESPACE"), text("SERVING_REVISION"));
                let (config, level) = (text("SERVING_LOGGING_CONFIG"), text("SERVING_LOGGING_LEVEL"));
                log::init(&config, &level, "queueproxy", &key, &text("SERVING_POD"));
                Fatal::new(message, error).log();
            } else {
                eprintln!("{errors}");
            }
            return ExitCode::from(errors.exit_code());
        }
    };
    let names = &config.identity;
    let key = format!("{}/{}", names.namespace, names.revision);
    let taken = log::init(&config.logging_config, &config.logging_level, "queueproxy", &key, &names.pod);
    tell_of_the_ignored(&config, taken);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Fatal::new(BRING_UP, error).log();
            return ExitCode::FAILURE;
        }
    };
    let result = LocalSet::new().block_on(&runtime, start(config, env));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            fatal.log();
            ExitCode::FAILURE
        }
    };
    log::flush(LAST_LINES);
    code
}

/// Settings with which the original starts without a word, and so do we: with one.
fn tell_of_the_ignored(config: &Config, taken: log::Taken) {
    let ignored = |name: &str, value: &str, expected: &str| {
        tracing::warn!("{name}={} is ignored: expected {expected}", shown(value));
    };
    if !taken.config {
        ignored("SERVING_LOGGING_CONFIG", &config.logging_config, "a configuration of zap as JSON");
    }
    if !taken.level {
        ignored("SERVING_LOGGING_LEVEL", &config.logging_level, "debug, info, warn, error, dpanic, panic or fatal");
    }
    if config.user_port_number.is_none() {
        let port = shown(&config.user_port);
        tracing::error!("USER_PORT={port}: expected a port from 1 to 65535; every request will be answered with 502");
    }
}

async fn start(config: Config, env: &dyn Env) -> Result<(), Fatal> {
    // Before anything listens: who sees an open port may send a signal.
    let signals = Signals::new().map_err(|e| Fatal::new(BRING_UP, e))?;
    let observability = Observability::parse(&config.observability, env)
        .map_err(|e| Fatal::new(e.message(), format!("{e} (OBSERVABILITY_CONFIG={})", shown(&config.observability))))?;
    tracing::info!("Starting queue-proxy");
    let workers = cpu::workers(cpu::Limits::of_this_process(), config.own.worker_threads);
    let drain = Drain::new(workers);
    let statistics = Statistics::new(config.identity.pod.clone(), workers);
    let breaker = config.container_concurrency.map(Breaker::new);
    if let Some(c) = config.container_concurrency {
        tracing::info!(
            "Queue container is starting with BreakerParams = \
             queue.BreakerParams{{QueueDepth:{}, MaxConcurrency:{c}, InitialCapacity:{c}}}",
            u64::from(c.get()) * 10
        );
    }
    let tls = Tls::new(&config)?;
    let metrics = Metrics::new(workers, metrics::resource(env));
    tls.tell(&metrics);
    if let Some(breaker) = breaker.clone() {
        metrics.queue_depth(move || breaker.depth() as u64);
    }
    let log = request_log(&config, &observability);
    let tracer = Tracer::new(&observability, Names::QUEUE);
    let (order, order_seen) = watch::channel(None);
    let (close, closed) = watch::channel(false);
    let (stage, stage_seen) = watch::channel(Stage::Serving);

    let main = bind(&config, config.serving_port, Server::MAIN)?;
    let admin = bind(&config, config.own.admin_port, Server::ADMIN)?;
    let stats = bind(&config, config.own.stats_port, Server::STATISTICS)?;

    let prober = readiness::start(config.readiness.clone(), config.http2_auto_detection);
    let shared = Arc::new(Shared {
        application: ([127, 0, 0, 1], config.user_port_number.unwrap_or(0)).into(),
        hold: config.own.hold_on_restart,
        timeout_style: config.own.timeout_style,
        total: config.revision_timeout.unwrap_or_default(),
        start: config.response_start_timeout.unwrap_or_default(),
        idle: config.idle_timeout.unwrap_or_default(),
        breaker,
        pool: Limits {
            idle: config.container_concurrency.map_or(UNLIMITED_IDLE, |c| c.get() as usize),
            idle_time: config.own.upstream_idle_timeout,
            header_lines: config.own.max_headers as usize,
            header_bytes: crate::http::limits::HEADER_BYTES.max(config.own.max_header_bytes as usize),
            header_room: 6,
        },
        http: crate::http::server::Settings {
            header_bytes: config.own.max_header_bytes as usize,
            header_lines: config.own.max_headers as usize,
            header_time: config.own.header_read_timeout,
            streams: config.own.max_concurrent_streams,
        },
        client_idle: config.own.client_idle_timeout,
        strict: config.own.strict,
        metrics: metrics.clone(),
        log,
        tracer: tracer.clone(),
        drain: drain.clone(),
        order: order_seen,
        statistics: statistics.clone(),
        ready: Arc::new(move || {
            let prober = prober.clone();
            Box::pin(async move { prober.check().await })
        }),
        tls: tls.settings.as_ref().map(|settings| settings.data.clone()),
        callers: (config.own.client_auth.callers != Callers::Off).then(|| tls.trust.clone()),
    });
    let on_worker = {
        let shared = shared.clone();
        move |index| serve::on_worker(&shared, index)
    };
    let running = Rc::new(Workers::start(workers, on_worker).map_err(|e| Fatal::new(BRING_UP, e))?);
    listen(&running, main, serve::PLAIN, "http server main", closed.clone());

    let (control_stop, control_stopped) = watch::channel(false);
    let admin_tls: TlsNow = {
        let (identity, settings) = (tls.identity.clone(), tls.settings.clone());
        Rc::new(move || identity.current().and(settings.as_ref()).map(|settings| settings.admin.clone()))
    };
    let with_tls = if tls.identity.current().is_some() { "tls" } else { "http" };
    tracing::info!("Starting {with_tls} server admin:{}", port(&admin));
    let header_time = config.own.header_read_timeout;
    let handler = admin::handler(drain.clone(), stage_seen, config.own.drain_reset_window);
    let both = Speaks::Both(admin_tls);
    tokio::task::spawn_local(listener::serve(admin, both.clone(), handler, header_time, control_stopped.clone()));
    tracing::info!("Starting http server metrics:{}", port(&stats));
    let stats_speaks = if config.own.metrics_tls { both } else { Speaks::Plain };
    tokio::task::spawn_local(listener::serve(
        stats,
        stats_speaks,
        admin::statistics(statistics.clone()),
        header_time,
        control_stopped.clone(),
    ));
    tokio::task::spawn_local(statistics.run());
    tokio::task::spawn_local(crate::memory::keep_low());
    let metrics: Arc<dyn Source> = metrics;
    let exports = export::start(&observability, &metrics, tracer, &control_stopped);
    if let MetricsExport::Prometheus(export) = &observability.metrics {
        scrape::start(export, config.metrics_tls.policy(scrape::PREFIX), metrics, header_time, control_stopped.clone())
            .map_err(|e| format!("error creating reader: create prometheus metrics server: {e}"))
            .map_err(|e| Fatal::new("Failed to setup meter provider", e))?;
    }
    if observability.profiling {
        let port = config.profiling_port().map_err(|error| Fatal::new(BRING_UP, error))?;
        scrape::profile(config.own.listen_address, port, control_stopped)
            .map_err(|error| Fatal::serve(Server::PROFILE, config.own.listen_address, port, &error))?;
    }

    let tls_port = match config.serving_tls_port() {
        Err(Error::Fatal { message, error }) if tls.identity.current().is_some() => {
            return Err(Fatal::new(message, error));
        }
        port => port.ok(),
    };
    let address = config.own.listen_address;
    if tls.settings.is_some() {
        let follow = certificates::follow(tls.identity.clone(), running.clone(), tls_port, address, closed);
        tokio::task::spawn_local(follow);
    }
    tokio::task::spawn_local(tls.directory.run());

    let grace = config.own.shutdown_grace.or(config.revision_timeout).unwrap_or(Duration::from_secs(3600));
    let settings = Settings { quiet: config.own.drain_quiet_period, grace };
    Drainer { drain, order, close, stage, settings }.run(signals, &running).await;
    // The hook's answer goes out before the admin server closes.
    tokio::time::sleep(Duration::from_millis(10)).await;
    control_stop.send_replace(true);
    for export in exports {
        // Each limits its last push by itself.
        let _ = export.await;
    }
    tracing::info!("Shutdown complete, exiting...");
    Ok(())
}

/// The request log, if there is one; a template that cannot be used costs the log, not the process.
fn request_log(config: &Config, observability: &Observability) -> Option<Arc<RequestLog>> {
    let text = observability.request_log.as_deref()?;
    let template = match Template::parse(text) {
        Ok(template) => template,
        Err(error) => {
            tracing::error!(%error, "Error setting up request logger. Request logs will be unavailable.");
            return None;
        }
    };
    let names = &config.identity;
    let revision = RevisionFacts {
        name: names.revision.clone(),
        namespace: names.namespace.clone(),
        service: names.service.clone(),
        configuration: names.configuration.clone(),
        pod_name: names.pod.clone(),
        pod_ip: names.pod_ip.clone(),
    };
    let (probes, writer) = (observability.log_probes, writer::stdout().clone());
    Some(Arc::new(RequestLog { template, revision, probes, writer }))
}

fn bind(config: &Config, port: u16, server: Server) -> Result<std::net::TcpListener, Fatal> {
    let address = config.own.listen_address;
    listener::bind(address, port).map_err(|error| Fatal::serve(server, address, port, &error))
}

fn port(socket: &std::net::TcpListener) -> u16 {
    socket.local_addr().map_or(0, |a| a.port())
}

pub(super) fn listen(
    workers: &Workers,
    socket: std::net::TcpListener,
    id: u8,
    what: &str,
    stop: watch::Receiver<bool>,
) {
    tracing::info!("Starting {what}:{}", port(&socket));
    workers.listen(Listener { socket, port: id, stop });
}
