//! Kubernetes Events about objects that are not served as they are: what `kubectl describe` shows.
//!
//! Control side. Whoever tells never waits: a task of its own writes. An object has one Event for each reason, however
//! often and in however many words it is told; it is written at once and then at most each [`PAUSE`], with its count.
//! All Events together are limited too, so that ten thousand bad objects are no flood: what is over the limit is
//! counted and can be read in the objects' conditions.
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::objects::Ingress;
use crate::kube::api::{Client, Error};
use crate::kube::{Key, Object as _};

/// An Event is written at most so often.
pub const PAUSE: Duration = Duration::from_secs(5);
/// New Events that may be written in a burst.
pub const BURST: u32 = 50;
/// How often one more may be.
const REFILL: Duration = Duration::from_secs(2);
/// What is told and not taken up yet.
const WAITING: usize = 256;
/// An Event that was not told again for so long is another one: Kubernetes forgets them after an hour.
const FORGET: Duration = Duration::from_secs(45 * 60);
/// How many Events are remembered.
const KNOWN: usize = 1024;

/// A certificate can't be used, and the last good one stays if there was one.
pub const BAD_CERTIFICATE: &str = "BadCertificate";
/// An Ingress can't be served as it is.
pub const INGRESS_REFUSED: &str = "IngressRefused";
/// Another Ingress has a host.
pub const DOMAIN_CONFLICT: &str = "DomainConflict";
/// A ConfigMap can't be used, and the previous settings stay.
pub const CONFIG_INVALID: &str = "ConfigInvalid";

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    api_version: String,
    kind: &'static str,
    key: Key,
    uid: String,
}

impl About {
    /// An Ingress.
    #[must_use]
    pub fn ingress(key: &Key, ingress: &Ingress) -> Self {
        let kind = Ingress::KIND;
        Self { api_version: kind.api_version(), kind: kind.kind, key: key.clone(), uid: ingress.uid.clone() }
    }

    /// A ConfigMap.
    #[must_use]
    pub fn config_map(namespace: &str, name: &str) -> Self {
        let key = Key::new(namespace, name);
        Self { api_version: "v1".to_owned(), kind: "ConfigMap", key, uid: String::new() }
    }
}

struct Told {
    about: About,
    reason: &'static str,
    message: String,
}

/// Where Events are told. Clones are the same.
#[derive(Clone)]
pub struct Events {
    to: Option<mpsc::Sender<Told>>,
    leads: Rc<Cell<bool>>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Events go to the API server, from this `pod`; without a client nowhere. Those that are too many are counted in
    /// `dropped`. Must be called within a `LocalSet`.
    #[must_use]
    pub fn start(client: Option<Client>, pod: &str, dropped: Arc<AtomicU64>) -> Self {
        let leads = Rc::default();
        let Some(client) = client else { return Self { to: None, leads, dropped } };
        let (to, told) = mpsc::channel(WAITING);
        let writer = Writer {
            client,
            pod: pod.to_owned(),
            known: HashMap::new(),
            budget: Budget { left: BURST, since: Instant::now() },
            dropped: Arc::clone(&dropped),
        };
        tokio::task::spawn_local(writer.run(told));
        Self { to: Some(to), leads, dropped }
    }

    /// Whether this replica tells of objects; of its settings every replica tells, in the same Event.
    pub fn set_leads(&self, leads: bool) {
        self.leads.set(leads);
    }

    /// Tells of an Ingress, if this replica leads.
    pub fn ingress(&self, key: &Key, ingress: &Ingress, reason: &'static str, message: &str) {
        if self.leads.get() {
            self.tell(About::ingress(key, ingress), reason, message);
        }
    }

    /// Tells of a ConfigMap.
    pub fn config_map(&self, namespace: &str, name: &str, message: &str) {
        self.tell(About::config_map(namespace, name), CONFIG_INVALID, message);
    }

    fn tell(&self, about: About, reason: &'static str, message: &str) {
        let Some(to) = &self.to else { return };
        // Kubernetes refuses longer ones.
        let message: String = message.chars().take(1000).collect();
        if to.try_send(Told { about, reason, message }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Limits new Events.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.duration_since(self.since) >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// An Event that was written.
struct Known {
    name: String,
    message: String,
    count: u32,
    first: String,
    written: Instant,
    /// Told since.
    pending: bool,
}

struct Writer {
    client: Client,
    pod: String,
    known: HashMap<(About, &'static str), Known>,
    budget: Budget,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        loop {
            tokio::select! {
                next = told.recv() => match next {
                    Some(told) => self.take(told).await,
                    None => return,
                },
                () = tokio::time::sleep(PAUSE / 4), if self.known.values().any(|known| known.pending) => {}
            }
            self.flush().await;
        }
    }

    async fn take(&mut self, Told { about, reason, message }: Told) {
        let now = Instant::now();
        self.known.retain(|_, known| known.pending || now.duration_since(known.written) < FORGET);
        let place = (about, reason);
        if let Some(known) = self.known.get_mut(&place) {
            known.count += 1;
            known.message = message;
            known.pending = true;
            return;
        }
        if self.known.len() >= KNOWN || !self.budget.take(now) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        // The same on every replica.
        let name = format!("{}.{:016x}", place.0.key.name(), hasher.finish());
        let mut known = Known { name, message, count: 1, first: timestamp(), written: now, pending: false };
        if let Err(error) = self.create(&place, &mut known).await {
            tracing::warn!("an Event about {} {} could not be written: {error}", place.0.kind, place.0.key);
        }
        self.known.insert(place, known);
    }

    /// Writes the count and the last words of what was told again.
    async fn flush(&mut self) {
        let due = |known: &Known| known.pending && known.written.elapsed() >= PAUSE;
        let places: Vec<_> =
            self.known.iter().filter(|(_, known)| due(known)).map(|(place, _)| place.clone()).collect();
        for place in places {
            let Some(mut known) = self.known.remove(&place) else { continue };
            (known.pending, known.written) = (false, Instant::now());
            let result = match self.update(&place, &known).await {
                Err(Error::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => {
                    self.create(&place, &mut known).await
                }
                other => other,
            };
            if let Err(error) = result {
                tracing::warn!("an Event about {} {} could not be written: {error}", place.0.kind, place.0.key);
            }
            self.known.insert(place, known);
        }
    }

    async fn create(&self, place: &(About, &'static str), known: &mut Known) -> Result<(), Error> {
        let body = Bytes::from(self.event(place, known).to_string());
        let created = self.client.request(Method::POST, &path(&place.0, None), Some(("application/json", body))).await;
        match created {
            // Another replica's, or one from before a restart: it goes on.
            Err(Error::Refused(refusal)) if refusal.status == StatusCode::CONFLICT => {
                if let Ok(bytes) = self.client.request(Method::GET, &path(&place.0, Some(&known.name)), None).await {
                    let event: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                    let count = event["count"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
                    known.count = known.count.saturating_add(count);
                }
                self.update(place, known).await
            }
            other => other.map(drop),
        }
    }

    async fn update(&self, place: &(About, &'static str), known: &Known) -> Result<(), Error> {
        let body = json!({"message": known.message, "count": known.count, "lastTimestamp": timestamp()});
        let body = Some(("application/merge-patch+json", Bytes::from(body.to_string())));
        self.client.request(Method::PATCH, &path(&place.0, Some(&known.name)), body).await.map(drop)
    }

    fn event(&self, (about, reason): &(About, &'static str), known: &Known) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": about.key.namespace(), "name": known.name},
            "involvedObject": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "namespace": about.key.namespace(),
                "name": about.key.name(),
                "uid": about.uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": known.message,
            "count": known.count,
            "firstTimestamp": known.first,
            "lastTimestamp": timestamp(),
            "source": {"component": "lockkeeper-gateway"},
            "reportingComponent": "lockkeeper-gateway",
            "reportingInstance": self.pod,
        })
    }
}

fn path(about: &About, name: Option<&str>) -> String {
    let all = format!("/api/v1/namespaces/{}/events", about.key.namespace());
    name.map_or(all.clone(), |name| format!("{all}/{name}"))
}

fn timestamp() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_burst_when_it_is_over_the_limit_then_one_more_is_allowed_each_period() {
        let start = Instant::now();
        let mut budget = Budget { left: BURST, since: start };

        assert_eq!((0..BURST * 2).filter(|_| budget.take(start)).count(), BURST as usize);
        assert!(!budget.take(start + REFILL / 2));
        assert!(budget.take(start + REFILL));
        assert!(!budget.take(start + REFILL));
        assert_eq!((0..BURST * 2).filter(|_| budget.take(start + REFILL * 1000)).count(), BURST as usize);
    }
}
