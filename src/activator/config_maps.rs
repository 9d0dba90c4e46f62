//! The settings that Knative keeps in the config maps for logging and observability: read before anything else is started,
//! and what of them acts while the process runs, which is the log's level and the request log.
//!
//! Control side. A bad text at start ends it; later the values before stay (see [`Settings`]).

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::config::Config;
use super::layer::observe::RequestLog;
use super::run::Fatal;
use crate::config::env::Env;
use crate::knative::config_map::{Settings, Unusable};
use crate::knative::logging::Logging;
use crate::knative::observability;
use crate::kube::Source;
use crate::telemetry::observability::Observability;
use crate::telemetry::request_log::Template;
use crate::telemetry::{log, writer};

/// The component's name in `config-logging` and in the log.
const COMPONENT: &str = "activator";

/// Both, kept as long as they shall be followed.
pub(super) struct Maps {
    logging: Settings<Logging>,
    observability: Settings<Observability>,
}

impl Maps {
    /// Reads both; the log speaks as configured from then on.
    ///
    /// # Errors
    /// One is absent or can't be used.
    pub(super) async fn start<E: Env + Clone + 'static>(
        source: &Source,
        config: &Config,
        env: &E,
    ) -> Result<Self, Fatal> {
        let namespace = &config.system_namespace;
        let logging = Settings::start(source, namespace, &config.logging_name, Logging::parse)
            .await
            .map_err(|e| unusable("logging", &e))?;
        let first = logging.current();
        let fields = [("knative.dev/controller", COMPONENT), ("knative.dev/pod", config.pod_name.as_str())];
        log::init_with(&first.zap, first.level(COMPONENT), COMPONENT, &fields);
        let env = env.clone();
        let parse = move |data: &_| observability::parse(data, &env);
        let observability = Settings::start(source, namespace, &config.observability_name, parse)
            .await
            .map_err(|e| unusable("observability", &e))?;
        Ok(Self { logging, observability })
    }

    /// What observability is configured now.
    pub(super) fn observed(&self) -> Arc<Observability> {
        self.observability.current()
    }

    /// Puts into force what may change while the process runs, and follows it.
    pub(super) fn follow(&self, request_log: Arc<ArcSwapOption<RequestLog>>) {
        tokio::task::spawn_local(follow_logging(self.logging.changes()));
        set_request_log(&request_log, &self.observed());
        tokio::task::spawn_local(follow_observability(self.observability.changes(), request_log));
    }
}

/// The fatal line about a config map.
pub(super) fn unusable(what: &str, error: &Unusable) -> Fatal {
    Fatal::new(&format!("Error loading/parsing {what} configuration"), error)
}

async fn follow_logging(mut changes: watch::Receiver<Arc<Logging>>) {
    loop {
        let logging = changes.borrow_and_update().clone();
        log::set_level(logging.level(COMPONENT));
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_observability(mut changes: watch::Receiver<Arc<Observability>>, into: Arc<ArcSwapOption<RequestLog>>) {
    while changes.changed().await.is_ok() {
        let observed = changes.borrow_and_update().clone();
        set_request_log(&into, &observed);
    }
}

fn set_request_log(into: &ArcSwapOption<RequestLog>, observed: &Observability) {
    let Some(text) = observed.request_log.as_deref() else { return into.store(None) };
    match Template::parse(text) {
        Ok(template) => into.store(Some(Arc::new(RequestLog { template, writer: writer::stdout().clone() }))),
        Err(error) => tracing::error!(%error, "The request log's template can't be used; the previous one stays"),
    }
}
