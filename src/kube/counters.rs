//! What a source counts: for metrics, and for people who ask whether the state is fresh.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::telemetry::registry::{Family, Kind, Label, Point, Scope, Value};

/// The numbers of one kind of objects at one source. Read from any thread.
#[derive(Debug, Default)]
pub struct Counters {
    connected: AtomicBool,
    events: AtomicU64,
    relists: AtomicU64,
    failures: AtomicU64,
    unreadable: AtomicU64,
    objects: AtomicU64,
    contact: Mutex<Option<Instant>>,
}

impl Counters {
    /// Whether changes reach us now.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Changes received so far, without the contents of lists.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// How often the whole set was read: once at start, then when the source could not say what had changed.
    pub fn relists(&self) -> u64 {
        self.relists.load(Ordering::Relaxed)
    }

    /// Connections and requests that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Objects that could not be read; each costs itself only.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Objects that are held.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// How long ago the source last spoke; none before it ever did. Bookmarks come each minute or so.
    pub fn age(&self) -> Option<Duration> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn relist(&self) {
        self.relists.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unread(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn contact(&self) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn set_objects(&self, objects: usize) {
        self.objects.store(objects as u64, Ordering::Relaxed);
    }
}

/// The counters of all kinds that a source gives, for metrics. Clones are the same; any thread may ask.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    kinds: Arc<Mutex<Vec<Entry>>>,
    answers: Arc<Mutex<BTreeMap<Answer, u64>>>,
}

/// A kind's name in URLs, and its counters for as long as somebody reads it.
type Entry = (&'static str, Weak<Counters>);

/// Server, method, and status; none if no answer came.
type Answer = (String, String, Option<u16>);

/// Where the original counts answers (`knative.dev/pkg/observability/metrics/k8s`).
const CLIENT: Scope = Scope { name: "knative.dev/pkg/observability/metrics/k8s", version: "" };

impl Activity {
    pub(crate) fn add(&self, plural: &'static str, counters: &Arc<Counters>) {
        let mut list = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|(_, counters)| counters.strong_count() > 0);
        list.push((plural, Arc::downgrade(counters)));
    }

    /// Counts what came of a request to the API server.
    pub(crate) fn answered(&self, server: &str, method: &Method, status: Option<StatusCode>) {
        let of = (server.to_owned(), method.to_string(), status.map(|status| status.as_u16()));
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(of).or_default() += 1;
    }

    /// The answers so far, under the original's name.
    fn answers(&self) -> Family {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let point = |((server, method, status), count): (&Answer, &u64)| {
            let text = |name, value: String| (Cow::Borrowed(name), Label::Text(Cow::Owned(value)));
            let mut labels = vec![text("http.request.method", method.clone()), text("server.address", server.clone())];
            labels.extend(status.map(|status| text("http.response.status_code", status.to_string())));
            Point { labels, value: Value::Number(*count as f64) }
        };
        Family {
            otel_name: "kn.k8s.client.http.response.status_code",
            unit: "{item}",
            name: "kn_k8s_client_http_response_status_code_total",
            help: "Count of response codes partitioned by method and host",
            kind: Kind::Counter,
            scope: Some(CLIENT),
            points: answers.iter().map(point).collect(),
        }
    }

    /// The counters of each kind that is read now.
    pub fn counters(&self) -> Vec<(&'static str, Arc<Counters>)> {
        let list = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(|(plural, counters)| Some((*plural, counters.upgrade()?))).collect()
    }

    /// As metrics, a series for each kind. Where a kind is read several times, numbers are added up; it is connected
    /// if all of them are, and as old as the oldest.
    pub fn families(&self) -> Vec<Family> {
        let mut kinds: BTreeMap<&'static str, Vec<Arc<Counters>>> = BTreeMap::new();
        for (plural, counters) in self.counters() {
            kinds.entry(plural).or_default().push(counters);
        }
        let family = |name, help, kind, value: &dyn Fn(&[Arc<Counters>]) -> f64| {
            let point = |(plural, counters): (&&'static str, &Vec<Arc<Counters>>)| Point {
                labels: vec![(Cow::Borrowed("resource"), Label::Text(Cow::Borrowed(plural)))],
                value: Value::Number(value(counters)),
            };
            let points = kinds.iter().map(point).collect();
            Family { otel_name: "", unit: "", name, help, kind, scope: None, points }
        };
        let sum = |number: fn(&Counters) -> u64| {
            move |all: &[Arc<Counters>]| all.iter().map(|counters| number(counters)).sum::<u64>() as f64
        };
        let connected = |all: &[Arc<Counters>]| f64::from(u8::from(all.iter().all(|counters| counters.connected())));
        let age = |all: &[Arc<Counters>]| {
            let ages = all.iter().map(|counters| counters.age());
            // Never is older than anything.
            ages.map(|age| age.map_or(f64::INFINITY, |age| age.as_secs_f64())).fold(0.0, f64::max)
        };
        vec![
            family("lockkeeper_kube_connected", "1 if changes of this kind arrive now.", Kind::Gauge, &connected),
            family(
                "lockkeeper_kube_age_seconds",
                "Seconds since the source last spoke of this kind; bookmarks come each minute.",
                Kind::Gauge,
                &age,
            ),
            family("lockkeeper_kube_objects", "Objects that are held.", Kind::Gauge, &sum(Counters::objects)),
            family("lockkeeper_kube_events_total", "Changes received.", Kind::Counter, &sum(Counters::events)),
            family("lockkeeper_kube_relists_total", "Whole sets read.", Kind::Counter, &sum(Counters::relists)),
            family(
                "lockkeeper_kube_failures_total",
                "Failed watches and lists.",
                Kind::Counter,
                &sum(Counters::failures),
            ),
            family(
                "lockkeeper_kube_unreadable_total",
                "Objects that could not be read.",
                Kind::Counter,
                &sum(Counters::unreadable),
            ),
            self.answers(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::registry;

    #[test]
    fn given_a_kind_that_is_read_twice_when_scraped_then_it_is_one_series() {
        let activity = Activity::default();
        let [one, two, gone]: [Arc<Counters>; 3] = Default::default();
        activity.add("configmaps", &one);
        activity.add("configmaps", &two);
        activity.add("secrets", &gone);
        drop(gone);
        for counters in [&one, &two] {
            counters.event();
            counters.set_objects(2);
            counters.contact();
            counters.set_connected(true);
        }
        let scrape = || String::from_utf8_lossy(&registry::encode(activity.families())).into_owned();

        let text = scrape();
        assert!(text.contains("lockkeeper_kube_events_total{resource=\"configmaps\"} 2\n"), "{text}");
        assert!(text.contains("lockkeeper_kube_objects{resource=\"configmaps\"} 4\n"), "{text}");
        assert!(text.contains("lockkeeper_kube_connected{resource=\"configmaps\"} 1\n"), "{text}");
        assert!(!text.contains("secrets"), "{text}");
        two.set_connected(false);
        assert!(scrape().contains("lockkeeper_kube_connected{resource=\"configmaps\"} 0\n"));
    }
}
