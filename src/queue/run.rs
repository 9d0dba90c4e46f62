//! Starting the queue: settings, listeners, workers, and the tasks of the control side.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;

use super::breaker::Breaker;
use super::config::{self, Config};
use super::drain::{Drainer, Settings, Stage};
use super::layer::observe::RequestLog;
use super::metrics::{self, Metrics};
use super::serve::{self, Shared};
use super::{admin, export, readiness, statistics::Statistics};
use crate::config::env::Env;
use crate::control::listener::{self, TlsNow};
use crate::http::upstream::Limits;
use crate::lifecycle::drain::Drain;
use crate::telemetry::observability::{self, MetricsExport, Observability, Prometheus, PrometheusTls};
use crate::telemetry::request_log::{RevisionFacts, Template};
use crate::telemetry::trace::Tracer;
use crate::telemetry::{log, writer};
use crate::tls::client_auth::{Allowed, ClientAuth};
use crate::tls::policy::Policy;
use crate::tls::source_dir::{self, Directory};
use crate::tls::{identity, provider, server, trust};
use crate::worker::{Listener, Workers, cpu};

/// Idle HTTP/1.1 connections to an application without a limit of concurrency (`pkg/queue/sharedmain`: 1000).
const UNLIMITED_IDLE: usize = 1000;
/// How long the last log lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why the process gives up: one fatal line.
struct Fatal {
    message: &'static str,
    error: String,
}

impl Fatal {
    fn new(message: &'static str, error: impl Display) -> Self {
        Self { message, error: error.to_string() }
    }

    /// As Go words a listener that cannot be opened.
    fn serve(name: &str, port: u16, error: &io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
            io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
            _ => error.to_string(),
        };
        let error = format!("{name} server failed to serve: listen tcp :{port}: {why}");
        Self::new("Failed to bring up queue-proxy, shutting down.", error)
    }
}

/// Runs the queue until it is told to leave; the exit code is the process'.
#[must_use]
pub fn run(env: &dyn Env) -> ExitCode {
    let config = match Config::from_env(env) {
        Ok(config) => config,
        Err(errors) => {
            if let Some((message, error)) = errors.fatal() {
                log::init("", "", "queueproxy", "", "");
                log::fatal(message, &error);
            } else {
                eprintln!("{errors}");
            }
            return ExitCode::from(errors.exit_code());
        }
    };
    let names = &config.identity;
    let key = format!("{}/{}", names.namespace, names.revision);
    log::init(&config.logging_config, &config.logging_level, "queueproxy", &key, &names.pod);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            log::fatal("Failed to bring up queue-proxy, shutting down.", &error);
            return ExitCode::FAILURE;
        }
    };
    let result = LocalSet::new().block_on(&runtime, start(config, env));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal { message, error }) => {
            log::fatal(message, &error);
            ExitCode::FAILURE
        }
    };
    log::flush(LAST_LINES);
    code
}

async fn start(config: Config, env: &dyn Env) -> Result<(), Fatal> {
    let observability = Observability::parse(&config.observability, env).map_err(|e| Fatal::new(e.message(), &e))?;
    tracing::info!("Starting queue-proxy");
    let workers = cpu::workers(cpu::Limits::of_this_process(), config.own.worker_threads);
    let drain = Drain::new(workers);
    let statistics = Statistics::new(config.identity.pod.clone(), workers);
    let breaker = config.container_concurrency.map(|c| Arc::new(Breaker::new(c)));
    if let Some(c) = config.container_concurrency {
        tracing::info!(
            "Queue container is starting with BreakerParams = \
             queue.BreakerParams{{QueueDepth:{}, MaxConcurrency:{c}, InitialCapacity:{c}}}",
            u64::from(c.get()) * 10
        );
    }
    let tls = Tls::new(&config)?;
    let metrics = Metrics::new(workers, metrics::resource(env));
    if let Some(breaker) = breaker.clone() {
        metrics.queue_depth(move || breaker.depth() as u64);
    }
    let log = request_log(&config, &observability);
    let tracer = Tracer::new(&observability);
    let (order, order_seen) = watch::channel(None);
    let (close, closed) = watch::channel(false);
    let (stage, stage_seen) = watch::channel(Stage::Serving);

    let main = bind(&config, config.serving_port, "main")?;
    let admin = bind(&config, config.own.admin_port, "admin")?;
    let stats = bind(&config, config.own.stats_port, "metrics")?;

    let prober = readiness::start(config.readiness.clone(), config.http2_auto_detection);
    let shared = Arc::new(Shared {
        application: ([127, 0, 0, 1], config.user_port_number.unwrap_or(0)).into(),
        total: config.revision_timeout.unwrap_or_default(),
        start: config.response_start_timeout.unwrap_or_default(),
        idle: config.idle_timeout.unwrap_or_default(),
        breaker,
        pool: Limits {
            idle: config.container_concurrency.map_or(UNLIMITED_IDLE, |c| c.get() as usize),
            idle_time: config.own.upstream_idle_timeout,
            header_lines: config.own.max_headers as usize,
        },
        http: crate::http::server::Settings {
            header_bytes: config.own.max_header_bytes as usize,
            header_lines: config.own.max_headers as usize,
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
        tls: Some(tls.data.clone()),
    });
    let on_worker = {
        let shared = shared.clone();
        move |index| serve::on_worker(&shared, index)
    };
    let running = Rc::new(
        Workers::start(workers, on_worker)
            .map_err(|e| Fatal::new("Failed to bring up queue-proxy, shutting down.", e))?,
    );
    listen(&running, main, serve::PLAIN, "http server main", closed.clone());

    let (control_stop, control_stopped) = watch::channel(false);
    let admin_tls: TlsNow = {
        let (identity, config) = (tls.identity.clone(), tls.admin.clone());
        Rc::new(move || identity.current().map(|_| config.clone()))
    };
    let with_tls = if tls.identity.current().is_some() { "tls" } else { "http" };
    tracing::info!("Starting {with_tls} server admin:{}", port(&admin));
    let handler = admin::handler(drain.clone(), stage_seen, config.own.drain_reset_window);
    tokio::task::spawn_local(listener::serve(admin, admin_tls.clone(), handler, control_stopped.clone()));
    tracing::info!("Starting http server metrics:{}", port(&stats));
    let stats_tls: TlsNow = if config.own.metrics_tls { admin_tls } else { Rc::new(|| None) };
    tokio::task::spawn_local(listener::serve(
        stats,
        stats_tls,
        admin::statistics(statistics.clone()),
        control_stopped.clone(),
    ));
    tokio::task::spawn_local(statistics.run());
    tokio::task::spawn_local(crate::memory::keep_low());
    let exports = export::start(&observability, &metrics, tracer, &control_stopped);
    if let MetricsExport::Prometheus(export) = &observability.metrics {
        scrape(export, metrics, control_stopped.clone());
    }
    if observability.profiling {
        profile(config.own.listen_address, config.profiling_port, control_stopped);
    }

    let tls_port = config.serving_tls_port().ok();
    let address = config.own.listen_address;
    tokio::task::spawn_local(follow_certificates(tls.identity.clone(), running.clone(), tls_port, address, closed));
    tokio::task::spawn_local(tls.directory.run());

    let grace = config.own.shutdown_grace.or(config.revision_timeout).unwrap_or(Duration::from_secs(3600));
    let settings = Settings { quiet: config.own.drain_quiet_period, grace };
    Drainer { drain, order, close, stage, settings }
        .run(&running)
        .await
        .map_err(|e| Fatal::new("Failed to bring up queue-proxy, shutting down.", e))?;
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

/// Opens the port that Prometheus scrapes; when it is taken, the process goes on without.
fn scrape(export: &Prometheus, metrics: Arc<Metrics>, stop: watch::Receiver<bool>) {
    let host = export.host.parse().ok();
    let tls = match export.tls.as_ref().map(scrape_tls).transpose() {
        Ok(tls) => tls,
        Err(error) => return println!("metrics server error: {error}"),
    };
    match listener::bind(host, export.port) {
        Ok(socket) => {
            let tls: TlsNow = Rc::new(move || tls.clone());
            tokio::task::spawn_local(listener::serve(socket, tls, admin::prometheus(metrics), stop));
        }
        Err(error) => {
            let Fatal { error, .. } = Fatal::serve("metrics", export.port, &error);
            let why = error.split_once(": ").map_or(error.as_str(), |(_, why)| why);
            println!("metrics server error: {why}");
        }
    }
}

/// The certificate of the scraped port; callers are not asked for one unless told so.
fn scrape_tls(files: &PrometheusTls) -> io::Result<Arc<rustls::ServerConfig>> {
    let named = |path: &std::path::Path| {
        std::fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    };
    let (cert, key) = (named(&files.cert)?, named(&files.key)?);
    let identity = identity::Store::new();
    identity.publish(identity::Identity::from_pem(&cert, &key).map_err(|e| io::Error::other(e.to_string()))?);
    let auth = match (files.client_auth, &files.client_ca) {
        (observability::ClientAuth::None, _) | (_, None) => ClientAuth::Off,
        // The names that a scraper's certificate carries are not known: the authority decides.
        (asked, Some(_)) => {
            return Err(io::Error::other(format!(
                "METRICS_PROMETHEUS_TLS_CLIENT_AUTH={asked:?}: client certificates on the metrics port are not supported"
            )));
        }
    };
    let policy = Policy::parse("METRICS_PROMETHEUS_", None, None, None, None).map_err(io::Error::other)?;
    server::config(&policy, identity, &auth, server::ALPN_HTTP1).map_err(|e| io::Error::other(e.to_string()))
}

/// Go's profiles have no counterpart here; the port listens, so that what looks for it finds it, and answers 404.
fn profile(address: Option<std::net::IpAddr>, port: u16, stop: watch::Receiver<bool>) {
    match listener::bind(address, port) {
        Ok(socket) => {
            tokio::task::spawn_local(listener::serve(socket, Rc::new(|| None), admin::nothing(), stop));
        }
        Err(error) => tracing::error!(%error, "the profiling port cannot be opened"),
    }
}

fn bind(config: &Config, port: u16, name: &str) -> Result<std::net::TcpListener, Fatal> {
    listener::bind(config.own.listen_address, port).map_err(|error| Fatal::serve(name, port, &error))
}

fn port(socket: &std::net::TcpListener) -> u16 {
    socket.local_addr().map_or(0, |a| a.port())
}

fn listen(workers: &Workers, socket: std::net::TcpListener, id: u8, what: &str, stop: watch::Receiver<bool>) {
    tracing::info!("Starting {what}:{}", port(&socket));
    workers.listen(Listener { socket, port: id, stop });
}

/// Everything about certificates.
struct Tls {
    identity: Arc<identity::Store>,
    directory: Directory,
    data: Arc<rustls::ServerConfig>,
    admin: Arc<rustls::ServerConfig>,
}

impl Tls {
    fn new(config: &Config) -> Result<Self, Fatal> {
        let set = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let raw = &config.tls;
        let policy = Policy::parse(
            "QUEUE_PROXY_",
            set(&raw.min_version).as_deref(),
            set(&raw.max_version).as_deref(),
            set(&raw.cipher_suites).as_deref(),
            set(&raw.curve_preferences).as_deref(),
        )
        .map_err(|e| Fatal::new("Failed to read TLS configuration from environment", e))?;
        let (identity, trust) = (identity::Store::new(), trust::Store::new());
        let directory = Directory::new(&config.own.certificates, identity.clone()).trust(trust.clone());
        match directory.load_once() {
            Ok(_) => {}
            Err(error @ source_dir::Error::Verify { .. }) => {
                return Err(Fatal::new("Failed to verify the file path", error));
            }
            // A bad first pair: TLS stays closed until a good one comes.
            Err(error) => tracing::error!(%error, "failed to create certWatcher"),
        }
        let allowed = || Allowed::new(trust.clone(), config.own.client_auth_sans.iter().map(|s| s.as_bytes().to_vec()));
        let auth = match config.own.client_auth {
            config::ClientAuth::Off => ClientAuth::Off,
            config::ClientAuth::Request => ClientAuth::Request(allowed()),
            config::ClientAuth::Require => ClientAuth::Require(allowed()),
        };
        let unusable = |e| Fatal::new("Failed to read TLS configuration from environment", format!("{e}"));
        let data = server::config(&policy, identity.clone(), &auth, server::ALPN_HTTP).map_err(unusable)?;
        let admin = server::config(&policy, identity.clone(), &ClientAuth::Off, server::ALPN_HTTP1)
            .map_err(|e| Fatal::new("Failed to read TLS configuration from environment", format!("{e}")))?;
        // aws-lc gathers entropy for tens of milliseconds when its generator is first used: not in a handshake.
        std::thread::spawn(move || provider::warm_up(&policy));
        Ok(Self { identity, directory, data, admin })
    }
}

/// Opens the TLS listener when there is a certificate and closes it when it is withdrawn.
async fn follow_certificates(
    identity: Arc<identity::Store>,
    workers: Rc<Workers>,
    port: Option<u16>,
    address: Option<std::net::IpAddr>,
    mut closed: watch::Receiver<bool>,
) {
    let mut changes = identity.changes();
    let mut open: Option<watch::Sender<bool>> = None;
    loop {
        changes.borrow_and_update();
        match (identity.current(), &open, port) {
            (Some(_), None, Some(port)) => match listener::bind(address, port) {
                Ok(socket) => {
                    let (stop, stopped) = watch::channel(false);
                    listen(&workers, socket, serve::TLS, "tls server main", stopped);
                    open = Some(stop);
                }
                Err(error) => {
                    let Fatal { message, error } = Fatal::serve("main tls", port, &error);
                    log::fatal(message, &error);
                    log::flush(LAST_LINES);
                    std::process::exit(1);
                }
            },
            (Some(_), None, None) => {
                tracing::error!("QUEUE_SERVING_TLS_PORT is no port: there is a certificate but no TLS server");
            }
            (None, Some(stop), _) => {
                tracing::info!("The certificate is gone: shutting down server: main tls");
                stop.send_replace(true);
                open = None;
            }
            _ => {}
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = closed.wait_for(|closed| *closed) => {
                tracing::info!("Shutting down server: main tls");
                if let Some(stop) = &open { stop.send_replace(true); }
                return;
            }
        }
    }
}
