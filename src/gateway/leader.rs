//! Which replica writes status: the one that holds a Lease (`coordination.k8s.io/v1`) in the system namespace.
//!
//! Control side, one task. All replicas route, whoever leads. The rules are client-go's
//! (`tools/leaderelection/leaderelection.go`), with one difference: the Lease is watched in place of polled, so that a
//! holder that was killed is followed within the lease's duration, and one that left in order at once. The settings are
//! those of `config-leader-election` (`knative.dev/pkg/leaderelection/config.go`).
//!
//! Other machines' clocks are not believed: a Lease counts as run out when it has not changed for its duration by the
//! clock of whoever looks. Every write names the version that it replaces, so of two that reach for it one is refused.
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::value;
use crate::knative::config_map::Invalid;
use crate::kube::api::{Client, Error};
use crate::kube::object::null_is_empty;
use crate::kube::{Change, Key, Kind, Meta, Object, Selection};
use crate::telemetry::log::Throttle;

/// Name of the ConfigMap in the system namespace.
pub const NAME: &str = "config-leader-election";
/// The pause after an attempt that failed without a word about the Lease.
const FAILED: Duration = Duration::from_millis(500);
/// How long giving the Lease back may take.
const RELEASE: Duration = Duration::from_secs(2);

/// What the ConfigMap says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `lease-duration`: how long a Lease that nobody renews is respected; default 60 s.
    pub lease: Duration,
    /// `renew-deadline`: how long a leader that can't renew goes on leading; default 40 s, below the former.
    pub renew: Duration,
    /// `retry-period`: how often a leader renews; default 10 s, below the former.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), renew: Duration::from_secs(40), retry: Duration::from_secs(10) }
    }
}

impl Settings {
    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let read = |key: &str, default: Duration| match data.get(key).map(|value| value.trim()) {
            None | Some("") => Ok(default),
            Some(text) => value::duration(text)
                .ok()
                .filter(|duration| !duration.is_zero())
                .ok_or_else(|| Invalid::new(key, text, "a duration such as 15s, above 0")),
        };
        let default = Self::default();
        let settings = Self {
            lease: read("lease-duration", default.lease)?,
            renew: read("renew-deadline", default.renew)?,
            retry: read("retry-period", default.retry)?,
        };
        let below = |key: &str, value: Duration, limit: Duration, name: &str| match value < limit {
            true => Ok(()),
            false => Err(Invalid::because(key, &format!("{value:?}"), &format!("expected less than {name}"))),
        };
        below("renew-deadline", settings.renew, settings.lease, "lease-duration")?;
        below("retry-period", settings.retry, settings.renew, "renew-deadline")?;
        Ok(settings)
    }
}

/// A Lease as others see it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, deserialize_with = "null_is_empty")]
    holder_identity: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    lease_duration_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    acquire_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renew_time: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    lease_transitions: u32,
}

#[derive(Debug, PartialEq)]
struct Lease {
    version: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    spec: Spec,
}

impl Object for Lease {
    const KIND: Kind = Kind { group: "coordination.k8s.io", version: "v1", kind: "Lease", plural: "leases" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(wire: Wire) -> Result<Option<Self>, String> {
        Ok(Some(Self { version: wire.metadata.resource_version, spec: wire.spec }))
    }
}

/// The task's parts.
pub struct Election {
    client: Client,
    /// The Lease.
    lease: Key,
    /// This replica's name in it.
    identity: String,
    settings: Settings,
    leads: watch::Sender<bool>,
    /// The Lease as it was last seen, and since when it is so.
    seen: Option<(Lease, Instant)>,
}

impl Election {
    /// An election about the Lease `lease`. `leads` is told whenever this replica begins and ends to lead.
    #[must_use]
    pub fn new(client: Client, lease: Key, identity: String, settings: Settings, leads: watch::Sender<bool>) -> Self {
        Self { client, lease, identity, settings, leads, seen: None }
    }

    /// Takes part until `leaving` is true; gives the Lease back by then. `settings` act from the next attempt on.
    pub async fn run(
        mut self,
        mut settings: watch::Receiver<std::sync::Arc<Settings>>,
        leaving: watch::Receiver<bool>,
    ) {
        let mut told = leaving.clone();
        tokio::select! {
            _ = told.wait_for(|leaving| *leaving) => {}
            () = self.take_part(&mut settings) => {}
        }
        let led = self.leads.send_replace(false);
        if led && tokio::time::timeout(RELEASE, self.release()).await.is_err() {
            tracing::warn!("Lease {} could not be given back in {RELEASE:?}", self.lease);
        }
    }

    async fn take_part(&mut self, settings: &mut watch::Receiver<std::sync::Arc<Settings>>) {
        let selection = Selection::within(self.lease.namespace()).named(self.lease.name());
        let leases = self.client.objects::<Lease>(selection);
        let mut changes = leases.changes();
        // As for the watches: while the API server is away, the same reason is told twice a minute.
        let log = Throttle::every(Duration::from_secs(30));
        loop {
            self.settings = **settings.borrow_and_update();
            let next = match self.attempt().await {
                Held::Ours => Instant::now() + self.settings.retry,
                Held::Until(end) => end,
                Held::Unknown(why) => {
                    if log.allows(&why) {
                        tracing::warn!("Lease {}: {why}", self.lease);
                    }
                    Instant::now() + FAILED
                }
            };
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => break,
                    _ = settings.changed() => break,
                    change = changes.next() => if self.is_news(change) { break },
                }
            }
        }
    }

    /// Whether a change that was watched asks for an attempt. That another one has renewed does not.
    fn is_news(&mut self, change: Change<Lease>) -> bool {
        let Change::Applied(_, lease) = change else { return true };
        let holder = lease.spec.holder_identity.clone();
        let was = self.seen.as_ref().map_or("", |(seen, _)| &seen.spec.holder_identity);
        // One of our own writes, or an older one on its way.
        if holder == self.identity && was == holder {
            return false;
        }
        let changed = holder != was;
        // A new version by the same holder: its time begins anew. The attempt at its end sees it.
        changed || self.seen.as_ref().is_none_or(|(seen, _)| seen.version != lease.version)
    }

    /// Renews the Lease, or takes it if nobody holds it.
    async fn attempt(&mut self) -> Held {
        // A leader gives up in time even when the API server does not answer.
        let limit = match (*self.leads.borrow(), &self.seen) {
            (true, Some((_, since))) => *since + self.settings.renew,
            _ => Instant::now() + self.settings.renew,
        };
        let result = match tokio::time::timeout_at(limit, self.renew_or_take()).await {
            Ok(result) => result,
            Err(_) => Err(Error::Lost(format!("no answer within {:?}", self.settings.renew))),
        };
        match result {
            Ok(Held::Ours) => {
                self.lead(true);
                Held::Ours
            }
            Ok(held) => {
                self.lead(false);
                held
            }
            Err(error) => {
                if Instant::now() >= limit {
                    self.lead(false);
                }
                Held::Unknown(error.to_string())
            }
        }
    }

    fn lead(&self, leads: bool) {
        let changed = self.leads.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        match (changed, leads) {
            (true, true) => tracing::info!("{} leads by Lease {}: it writes status", self.identity, self.lease),
            (true, false) => tracing::warn!("{} leads no longer by Lease {}", self.identity, self.lease),
            _ => {}
        }
    }

    async fn renew_or_take(&mut self) -> Result<Held, Error> {
        let known = match self.read().await? {
            Some(lease) => lease,
            None => {
                let spec = self.ours(None);
                let body = self.body(None, &spec);
                let created = self.client.request(Method::POST, &self.path(false), Some(body)).await;
                return self.took(created).await;
            }
        };
        let now = Instant::now();
        let since = match &self.seen {
            Some((seen, since)) if *seen == known => *since,
            _ => now,
        };
        let holder = known.spec.holder_identity.clone();
        let end = since + Duration::from_secs(known.spec.lease_duration_seconds.into());
        let spec = self.ours(Some(&known.spec));
        let body = self.body(Some(&known.version), &spec);
        self.seen = Some((known, since));
        if !holder.is_empty() && holder != self.identity && now < end {
            return Ok(Held::Until(end));
        }
        let updated = self.client.request(Method::PUT, &self.path(true), Some(body)).await;
        self.took(updated).await
    }

    /// What came of a write. A refusal means that another one was faster.
    async fn took(&mut self, answer: Result<Bytes, Error>) -> Result<Held, Error> {
        match answer {
            Ok(bytes) => {
                self.seen = Some((read(&bytes)?, Instant::now()));
                Ok(Held::Ours)
            }
            Err(Error::Refused(refusal)) if refusal.status == StatusCode::CONFLICT => {
                let Some(lease) = self.read().await? else { return Ok(Held::Until(Instant::now() + FAILED)) };
                let end = Duration::from_secs(lease.spec.lease_duration_seconds.into());
                let now = Instant::now();
                let again = lease.spec.holder_identity.is_empty() || lease.spec.holder_identity == self.identity;
                self.seen = Some((lease, now));
                Ok(Held::Until(now + if again { FAILED } else { end }))
            }
            Err(error) => Err(error),
        }
    }

    /// The Lease as this replica would hold it after `before`.
    fn ours(&self, before: Option<&Spec>) -> Spec {
        let now = now();
        let renews = before.filter(|before| before.holder_identity == self.identity);
        let transitions = before.map_or(0, |before| before.lease_transitions);
        Spec {
            holder_identity: self.identity.clone(),
            lease_duration_seconds: u32::try_from(self.settings.lease.as_secs()).unwrap_or(u32::MAX).max(1),
            acquire_time: renews.and_then(|before| before.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: if renews.is_some() || before.is_none() { transitions } else { transitions + 1 },
        }
    }

    /// Leaves the Lease to whoever comes first.
    async fn release(&self) {
        let Ok(Some(known)) = self.read().await else { return };
        if known.spec.holder_identity != self.identity {
            return;
        }
        let spec = Spec {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            renew_time: Some(now()),
            ..known.spec.clone()
        };
        let body = self.body(Some(&known.version), &spec);
        match self.client.request(Method::PUT, &self.path(true), Some(body)).await {
            Ok(_) => tracing::info!("Lease {} is given back", self.lease),
            Err(error) => tracing::warn!("Lease {} could not be given back: {error}", self.lease),
        }
    }

    async fn read(&self) -> Result<Option<Lease>, Error> {
        match self.client.request(Method::GET, &self.path(true), None).await {
            Ok(bytes) => read(&bytes).map(Some),
            Err(Error::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, one: bool) -> String {
        let kind = Lease::KIND;
        let all = format!("/apis/{}/namespaces/{}/{}", kind.api_version(), self.lease.namespace(), kind.plural);
        if one { format!("{all}/{}", self.lease.name()) } else { all }
    }

    fn body(&self, version: Option<&str>, spec: &Spec) -> (&'static str, Bytes) {
        let mut body = json!({
            "apiVersion": Lease::KIND.api_version(),
            "kind": Lease::KIND.kind,
            "metadata": {"namespace": self.lease.namespace(), "name": self.lease.name()},
            "spec": spec,
        });
        if let Some(version) = version {
            body["metadata"]["resourceVersion"] = version.into();
        }
        ("application/json", Bytes::from(body.to_string()))
    }
}

/// Who holds the Lease.
#[derive(Debug)]
enum Held {
    Ours,
    /// Another one, at least until then if it does not renew.
    Until(Instant),
    /// The API server could not be asked.
    Unknown(String),
}

fn read(bytes: &[u8]) -> Result<Lease, Error> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| Error::Nonsense(format!("a Lease: {error}")))?;
    Ok(Lease { version: wire.metadata.resource_version, spec: wire.spec })
}

/// As Kubernetes' `MicroTime` has it.
fn now() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::now_utc().format(format).unwrap_or_default()
}

/// The name of the Lease of the gateways that serve a class: each class has its own leader.
#[must_use]
pub fn lease_name(class: &str) -> String {
    let fit = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-' { c } else { '-' };
    let class: String = class.to_ascii_lowercase().chars().map(fit).collect();
    format!("lockkeeper-gateway.{}", class.trim_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings, Invalid> {
        Settings::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn given_durations_when_they_do_not_nest_then_they_are_refused_by_name() {
        assert_eq!(parse(&[]).unwrap(), Settings::default());
        let read = parse(&[("lease-duration", "15s"), ("renew-deadline", "10s"), ("retry-period", "2s")]).unwrap();
        assert_eq!((read.lease.as_secs(), read.renew.as_secs(), read.retry.as_secs()), (15, 10, 2));
        for (pairs, word) in [
            (vec![("lease-duration", "soon")], "lease-duration=\"soon\""),
            (vec![("renew-deadline", "60s")], "less than lease-duration"),
            (vec![("retry-period", "40s")], "less than renew-deadline"),
            (vec![("retry-period", "0s")], "above 0"),
        ] {
            let error = parse(&pairs).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn given_a_class_when_the_lease_is_named_then_kubernetes_takes_the_name() {
        assert_eq!(
            lease_name("kourier.ingress.networking.knative.dev"),
            "lockkeeper-gateway.kourier.ingress.networking.knative.dev"
        );
        assert_eq!(lease_name("My_Class/"), "lockkeeper-gateway.my-class");
    }
}
