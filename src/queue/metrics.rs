//! The queue's metrics: Go's names, labels and buckets, and `lockkeeper_*` for what those don't show.
//!
//! Data side: each worker thread owns a [`WorkerMetrics`] and records into its own cells, without locks and without
//! allocating (but for the first request with new labels). Control side: [`Metrics::encode`] and
//! [`Metrics::families`] add the workers up when somebody scrapes or a push is due.
//!
//! No instrument has more than 64 series, whatever clients send (see [`crate::telemetry::series`]); what is folded has
//! `_OTHER` in the label's place.
//!
//! Source: `pkg/queue/request_metric.go`, `otelhttp`'s server and client instruments.

mod collect;
mod labels;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

pub use labels::{ClientLabels, RouteTag, ServerLabels};

use crate::config::env::Env;
use crate::telemetry::histogram::{Bounds, Cells, add};
use crate::telemetry::observability::resource_attributes;
use crate::telemetry::process;
use crate::telemetry::registry::{self, Family, Kind};
use crate::telemetry::series::{Shard, Table};
use labels::{HttpKey, HttpLabels};

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

/// Things that are only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A request was sent upstream again on a fresh connection.
    Retry,
    /// A connection to the application was opened.
    UpstreamOpened,
    /// A pooled connection to the application was used again.
    UpstreamReused,
    /// A request was held until the application took connections.
    Held,
    /// A caller left before its answer was complete.
    ClientLeft,
}

const COUNTS: usize = 5;

/// What is counted by a few words of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Causes,
    Accepted,
    HandshakeFailures,
    Handshakes,
}

const WORDS: usize = 4;
/// Different words of one kind at most; they are all constants of ours, so this is never reached.
const WORD_SETS: usize = 64;

type WordSet = [&'static str; 3];

#[derive(Default)]
struct ServerCells {
    duration: Cells,
    request_body: Cells,
    response_body: Cells,
}

#[derive(Default)]
struct ClientCells {
    duration: Cells,
    request_body: Cells,
}

/// Plain counters of a worker.
struct Plain {
    counts: [AtomicU64; COUNTS],
    words: [[AtomicU64; WORD_SETS]; WORDS],
}

/// A value that is read when it is asked for.
struct Gauge {
    otel_name: &'static str,
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: Box<dyn Fn() -> Option<f64> + Send + Sync>,
}

/// Makes families when it is asked.
type MoreFamilies = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

/// The metrics of this process.
pub struct Metrics {
    resource: Vec<(Cow<'static, str>, String)>,
    server: Arc<Table<HttpKey, ServerCells>>,
    client: Arc<Table<HttpKey, ClientCells>>,
    invocation: Arc<Table<HttpKey, Cells>>,
    plain: Box<[Plain]>,
    words: [Mutex<Vec<WordSet>>; WORDS],
    gauges: RwLock<Vec<Gauge>>,
    more: RwLock<Vec<MoreFamilies>>,
    scrapes: [AtomicU64; 3],
    scrapes_in_flight: AtomicU64,
}

impl Metrics {
    /// Metrics for so many workers. `resource` (see [`resource`]) says whose they are.
    pub fn new(workers: usize, resource: Vec<(Cow<'static, str>, String)>) -> Arc<Self> {
        let plain = || Plain {
            counts: [const { AtomicU64::new(0) }; COUNTS],
            words: [const { [const { AtomicU64::new(0) }; WORD_SETS] }; WORDS],
        };
        Arc::new(Self {
            resource,
            server: Table::new(workers),
            client: Table::new(workers),
            invocation: Table::new(workers),
            plain: (0..workers).map(|_| plain()).collect(),
            words: Default::default(),
            gauges: RwLock::default(),
            more: RwLock::default(),
            scrapes: [const { AtomicU64::new(0) }; 3],
            scrapes_in_flight: AtomicU64::new(0),
        })
    }

    /// What worker `index` (from 0) records with. To be called once for each worker; it moves to its thread.
    pub fn worker(self: &Arc<Self>, index: usize) -> WorkerMetrics {
        WorkerMetrics {
            server: Shard::new(&self.server, index),
            client: Shard::new(&self.client, index),
            invocation: Shard::new(&self.invocation, index),
            known: Default::default(),
            index,
            metrics: Arc::clone(self),
        }
    }

    /// The gauge `kn_serving_queue_depth`: waiting and running requests, read live. Not called without a breaker.
    pub fn queue_depth(&self, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.register(Gauge {
            otel_name: "kn.serving.queue.depth",
            name: "kn_serving_queue_depth",
            help: "Number of current requests in the queue",
            kind: Kind::Gauge,
            read: Box::new(move || Some(read() as f64)),
        });
    }

    /// Adds families of the control side, made when somebody scrapes. They are not pushed.
    pub fn families_of(&self, read: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        self.more.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(read));
    }

    /// The answer to a scrape, of type [`registry::CONTENT_TYPE`].
    pub fn encode(&self) -> Vec<u8> {
        self.scrapes_in_flight.fetch_add(1, Ordering::Relaxed);
        let mut families = self.families();
        families.extend(self.scraped_only());
        let text = registry::encode(families);
        self.scrapes_in_flight.fetch_sub(1, Ordering::Relaxed);
        // Like Go's handler: a scrape counts after it was answered.
        if let Some(ok) = self.scrapes.first() {
            ok.fetch_add(1, Ordering::Relaxed);
        }
        text
    }

    /// The families that are pushed over OTLP as well (those with a name of OpenTelemetry's).
    pub fn families(&self) -> Vec<Family> {
        collect::families(self)
    }

    /// Whose metrics these are.
    pub fn resource(&self) -> &[(Cow<'static, str>, String)] {
        &self.resource
    }

    fn scraped_only(&self) -> Vec<Family> {
        let mut families = collect::extras(self);
        families.extend(process::families());
        let more = self.more.read().unwrap_or_else(PoisonError::into_inner);
        families.extend(more.iter().flat_map(|read| read()));
        families
    }

    fn register(&self, gauge: Gauge) {
        self.gauges.write().unwrap_or_else(PoisonError::into_inner).push(gauge);
    }

    /// The number of a word, the same for all workers.
    fn word(&self, kind: Words, word: WordSet) -> usize {
        let Some(words) = self.words.get(kind as usize) else { return WORD_SETS };
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.iter().position(|known| *known == word).unwrap_or_else(|| {
            words.push(word);
            words.len() - 1
        })
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

/// What one worker records with. Belongs to its thread.
pub struct WorkerMetrics {
    metrics: Arc<Metrics>,
    index: usize,
    server: Shard<HttpKey, ServerCells>,
    client: Shard<HttpKey, ClientCells>,
    invocation: Shard<HttpKey, Cells>,
    known: RefCell<[Vec<(WordSet, usize)>; WORDS]>,
}

impl WorkerMetrics {
    /// A request as the caller saw it, at its end: `http_server_*`. Not for probes.
    pub fn server(&self, labels: &ServerLabels<'_>, elapsed: Duration, request_bytes: u64, response_bytes: u64) {
        self.server.with(&HttpLabels::server(labels), |cells| {
            cells.duration.observe(&DURATION, nanos(elapsed));
            cells.request_body.observe(&SIZE, request_bytes);
            cells.response_body.observe(&SIZE, response_bytes);
        });
    }

    /// The request to the application, at its end: `http_client_*`.
    pub fn client(&self, labels: &ClientLabels<'_>, elapsed: Duration, request_bytes: u64) {
        self.client.with(&HttpLabels::client(labels), |cells| {
            cells.duration.observe(&DURATION, nanos(elapsed));
            cells.request_body.observe(&SIZE, request_bytes);
        });
    }

    /// The proxied part of a request: `kn_serving_invocation_duration_seconds`. Not for probes.
    pub fn invocation(&self, status: u16, elapsed: Duration) {
        self.invocation.with(&HttpLabels::status(status), |cells| cells.observe(&DURATION, nanos(elapsed)));
    }

    /// We answered, not the application: the token of the cause.
    pub fn cause(&self, token: &'static str) {
        self.words(Words::Causes, [token, "", ""]);
    }

    /// A connection was accepted on a port (`main`, `tls`, `admin`, ..).
    pub fn accepted(&self, port: &'static str) {
        self.words(Words::Accepted, [port, "", ""]);
    }

    /// A TLS handshake failed, with the reason's token.
    pub fn handshake_failed(&self, token: &'static str) {
        self.words(Words::HandshakeFailures, [token, "", ""]);
    }

    /// A TLS handshake succeeded: protocol version, cipher suite, key exchange group.
    pub fn handshake(&self, version: &'static str, suite: &'static str, group: &'static str) {
        self.words(Words::Handshakes, [version, suite, group]);
    }

    /// Counts one of the plain counters.
    pub fn count(&self, what: Count) {
        if let Some(counter) = self.plain().and_then(|plain| plain.counts.get(what as usize)) {
            add(counter, 1);
        }
    }

    fn plain(&self) -> Option<&Plain> {
        self.metrics.plain.get(self.index)
    }

    fn words(&self, kind: Words, word: WordSet) {
        let mut known = self.known.borrow_mut();
        let Some(known) = known.get_mut(kind as usize) else { return };
        let index = match known.iter().find(|(w, _)| *w == word) {
            Some((_, index)) => *index,
            None => {
                let index = self.metrics.word(kind, word);
                known.push((word, index));
                index
            }
        };
        if let Some(counter) = self.plain().and_then(|plain| plain.words.get(kind as usize)?.get(index)) {
            add(counter, 1);
        }
    }
}

/// Whose telemetry this is: OpenTelemetry resource attributes of a queue, sorted by name.
///
/// From `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `POD_NAME` or else `HOSTNAME`, and the `SERVING_*` variables.
pub fn resource(env: &dyn Env) -> Vec<(Cow<'static, str>, String)> {
    let set = |name: &str| env.var(name).filter(|value| !value.is_empty());
    let pod = set("POD_NAME").or_else(|| set("HOSTNAME")).unwrap_or_default();
    let given = resource_attributes(env).into_iter();
    let mut attributes: Vec<(Cow<'static, str>, String)> = given.map(|(name, value)| (name.into(), value)).collect();
    let service = ["OTEL_SERVICE_NAME", "SERVING_SERVICE", "SERVING_CONFIGURATION", "SERVING_REVISION"];
    let service = service.into_iter().find_map(set).unwrap_or_else(|| pod.clone());
    let own = [
        ("container.name", Some("queue-proxy".to_owned())),
        ("k8s.namespace.name", Some(set("SERVING_NAMESPACE").unwrap_or_default())),
        ("k8s.pod.name", Some(pod.clone())),
        ("kn.configuration.name", set("SERVING_CONFIGURATION")),
        ("kn.revision.name", set("SERVING_REVISION")),
        ("kn.service.name", set("SERVING_SERVICE")),
        ("service.instance.id", Some(pod)),
        ("service.name", Some(service)),
        ("service.version", Some(crate::telemetry::commit().unwrap_or("unknown").to_owned())),
        ("telemetry.sdk.language", Some("rust".to_owned())),
        ("telemetry.sdk.name", Some("lockkeeper".to_owned())),
        ("telemetry.sdk.version", Some(env!("CARGO_PKG_VERSION").to_owned())),
    ];
    for (name, value) in own {
        // What is known here wins over OTEL_RESOURCE_ATTRIBUTES, as in Go.
        if let Some(value) = value {
            attributes.retain(|(known, _)| *known != name);
            attributes.push((name.into(), value));
        }
    }
    attributes.sort();
    attributes
}

fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
