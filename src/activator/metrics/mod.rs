//! The activator's metrics: Go's names, labels and buckets, and `lockkeeper_*` for what those don't show.
//!
//! Data side: each worker records into cells of its own, without locks. A revision has tables of its own, made with its
//! first request, of at most 64 series each: what bounds their number is the number of revisions, and nothing that
//! callers send. Control side: [`Metrics::encode`] and [`Metrics::families`] add up when somebody scrapes or pushes.
//!
//! Source: `pkg/activator/handler/metrics.go`, `otelhttp`'s server and client instruments,
//! `pkg/websocket` (`kn.activator.stats.conn.*`).

pub mod cold;
pub mod collect;
pub mod gauges;
pub mod labels;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use self::labels::{Key, Labels};
use super::config::Config;
use super::revisions::Revisions;
use crate::config::env::Env;
use crate::telemetry::causes::Causes;
use crate::telemetry::histogram::{Bounds, Cells, add};
use crate::telemetry::observability::resource_attributes;
use crate::telemetry::process;
use crate::telemetry::registry::{self, Family, Kind};
use crate::telemetry::series::{Shard, Table};

/// Durations, in nanoseconds, printed as seconds.
static DURATION: Bounds = Bounds {
    upper: &[
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        75_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        750_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        7_500_000_000,
        10_000_000_000,
    ],
    unit: 1e9,
};
/// Sizes in bytes.
static SIZE: Bounds =
    Bounds { upper: &[0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000], unit: 1.0 };

/// The cells of one series.
#[derive(Default)]
pub struct HttpCells {
    duration: Cells,
    request_body: Cells,
    response_body: Cells,
}

/// The tables of one revision, or of requests for none.
pub struct HttpTables {
    server: Arc<Table<Key, HttpCells>>,
    client: Arc<Table<Key, HttpCells>>,
}

/// What one worker records a revision's requests with. Belongs to its thread.
pub struct HttpShards {
    server: Shard<Key, HttpCells>,
    client: Shard<Key, HttpCells>,
}

impl HttpShards {
    /// A request as the caller saw it, at its end. Not for probes.
    pub fn server(&self, labels: &Labels<'_>, elapsed: Duration, request_bytes: u64, response_bytes: u64) {
        self.server.with(labels, |cells| {
            cells.duration.observe(&DURATION, nanos(elapsed));
            cells.request_body.observe(&SIZE, request_bytes);
            cells.response_body.observe(&SIZE, response_bytes);
        });
    }

    /// The request to the pod, at its end.
    pub fn client(&self, labels: &Labels<'_>, elapsed: Duration, request_bytes: u64) {
        self.client.with(labels, |cells| {
            cells.duration.observe(&DURATION, nanos(elapsed));
            cells.request_body.observe(&SIZE, request_bytes);
        });
    }
}

/// What is recorded of a revision, made when it is first needed.
#[derive(Default)]
pub struct Slot {
    tables: OnceLock<HttpTables>,
    /// Its cold starts.
    pub cold: cold::ColdStarts,
}

/// Things that are only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A request was offered to another pod, since the first took no byte of it.
    Retry,
    /// A caller left before its answer was complete.
    ClientLeft,
    /// A request waited for a pod.
    Waited,
    /// A request went to another pod, since the first went away before a byte of the response.
    Lost,
}

const COUNTS: usize = 4;

#[derive(Default)]
struct Plain {
    counts: [AtomicU64; COUNTS],
}

struct Gauge {
    labels: &'static [(&'static str, &'static str)],
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: Box<dyn Fn() -> Option<f64> + Send + Sync>,
}

/// The metrics of this process.
pub struct Metrics {
    workers: usize,
    resource: Vec<(Cow<'static, str>, String)>,
    revisions: Arc<Revisions>,
    /// Requests for no revision.
    unknown: Slot,
    plain: Box<[Plain]>,
    causes: Causes,
    handshake_failures: Causes,
    gauges: RwLock<Vec<Gauge>>,
    autoscaler: Arc<super::autoscaler::Status>,
    waited: Box<[Cells]>,
    objects: OnceLock<crate::kube::Activity>,
}

impl Metrics {
    /// Metrics for so many workers. `resource` (see [`resource`]) says whose they are.
    #[must_use]
    pub fn new(
        workers: usize,
        resource: Vec<(Cow<'static, str>, String)>,
        revisions: Arc<Revisions>,
        autoscaler: Arc<super::autoscaler::Status>,
    ) -> Arc<Self> {
        Arc::new(Self {
            workers,
            resource,
            revisions,
            unknown: Slot::default(),
            plain: (0..workers).map(|_| Plain::default()).collect(),
            causes: Causes::default(),
            handshake_failures: Causes::default(),
            gauges: RwLock::default(),
            autoscaler,
            waited: (0..workers).map(|_| Cells::default()).collect(),
            objects: OnceLock::new(),
        })
    }

    /// Adds what is read of Kubernetes to what is scraped; the first call counts.
    pub fn objects(&self, activity: crate::kube::Activity) {
        let _ = self.objects.set(activity);
    }

    /// What worker `worker` records requests with that belong to `slot`; none for those for no revision.
    #[must_use]
    pub fn shards(&self, slot: Option<&Slot>, worker: usize) -> HttpShards {
        let tables = slot
            .unwrap_or(&self.unknown)
            .tables
            .get_or_init(|| HttpTables { server: Table::new(self.workers), client: Table::new(self.workers) });
        HttpShards { server: Shard::new(&tables.server, worker), client: Shard::new(&tables.client, worker) }
    }

    /// Counts one of the plain counters, on the thread of `worker`.
    pub fn count(&self, worker: usize, what: Count) {
        if let Some(counter) = self.plain.get(worker).and_then(|plain| plain.counts.get(what as usize)) {
            add(counter, 1);
        }
    }

    /// How long a request waited for a pod.
    pub fn waited(&self, worker: usize, time: Duration) {
        self.count(worker, Count::Waited);
        if let Some(cells) = self.waited.get(worker) {
            cells.observe(&DURATION, nanos(time));
        }
    }

    /// We answered, not the application: the token of the cause.
    pub fn cause(&self, token: &'static str) {
        self.causes.count(token);
    }

    /// A caller's TLS handshake failed, with the reason's token.
    pub fn handshake_failed(&self, token: &'static str) {
        self.handshake_failures.count(token);
    }

    /// Adds a gauge of the control side; it is left out of a scrape while `read` has nothing.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        self.labelled(name, help, &[], read);
    }

    /// The same with labels; gauges of one name stand together.
    pub fn labelled(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [(&'static str, &'static str)],
        read: impl Fn() -> Option<f64> + Send + Sync + 'static,
    ) {
        self.register(Gauge { labels, name, help, kind: Kind::Gauge, read: Box::new(read) });
    }

    /// Adds a counter of the control side.
    pub fn counter(&self, name: &'static str, help: &'static str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let read = Box::new(move || Some(read() as f64));
        self.register(Gauge { labels: &[], name, help, kind: Kind::Counter, read });
    }

    fn register(&self, gauge: Gauge) {
        self.gauges.write().unwrap_or_else(PoisonError::into_inner).push(gauge);
    }

    /// The answer to a scrape, of type [`registry::CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut families = self.families();
        families.extend(collect::extras(self));
        families.extend(self.objects.get().into_iter().flat_map(crate::kube::Activity::families));
        families.extend(process::families());
        registry::encode(families)
    }

    /// The families that are pushed over OTLP as well.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        collect::families(self)
    }

    /// Whose metrics these are.
    #[must_use]
    pub fn resource(&self) -> &[(Cow<'static, str>, String)] {
        &self.resource
    }

    fn plain_sum(&self, what: Count) -> u64 {
        let counters = self.plain.iter().filter_map(|plain| plain.counts.get(what as usize));
        counters.map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

impl registry::Source for Metrics {
    fn families(&self) -> Vec<Family> {
        self.families()
    }

    fn encode(&self) -> Vec<u8> {
        self.encode()
    }

    fn resource(&self) -> &[(Cow<'static, str>, String)] {
        self.resource()
    }
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Whose telemetry this is: OpenTelemetry resource attributes of an activator, sorted by name.
#[must_use]
pub fn resource(env: &dyn Env, config: &Config) -> Vec<(Cow<'static, str>, String)> {
    let set = |name: &str| env.var(name).filter(|value| !value.is_empty());
    let given = resource_attributes(env).into_iter();
    let mut attributes: Vec<(Cow<'static, str>, String)> = given.map(|(name, value)| (name.into(), value)).collect();
    let own = [
        ("k8s.namespace.name", config.system_namespace.clone()),
        ("k8s.pod.name", config.pod_name.clone()),
        ("service.instance.id", config.pod_name.clone()),
        ("service.name", set("OTEL_SERVICE_NAME").unwrap_or_else(|| "activator".to_owned())),
        ("service.version", crate::telemetry::commit().unwrap_or("unknown").to_owned()),
        ("telemetry.sdk.language", "rust".to_owned()),
        ("telemetry.sdk.name", "lockkeeper".to_owned()),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    for (name, value) in own {
        attributes.retain(|(known, _)| *known != name);
        attributes.push((name.into(), value));
    }
    attributes.sort();
    attributes
}
