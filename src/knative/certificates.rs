//! Certificates from Kubernetes objects: the pair of this component and the authorities that it trusts.
//!
//! The Secret `routing-serving-certs` gives `tls.crt` and `tls.key` to the identity store, and every block of its
//! `ca.crt` to the trust store, to which every value of every ConfigMap with the label of trust bundles goes too. What
//! is looked at and how it is judged is the same as for a mounted directory ([`crate::tls::source`]).
//!
//! Asks for that one Secret by name and for ConfigMaps by label: no other Secret ever reaches this process.
//!
//! Source: `knative.dev/serving/pkg/activator/certificate/cache.go`, `knative.dev/networking/pkg/config`
//! (`ServingRoutingCertName`, `TrustBundleLabelKey`).
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::knative::config_map::ConfigMap;
use crate::knative::names;
use crate::knative::secret::Secret;
use crate::kube::{Change, Key, Objects, Selection, Source};
use crate::tls::identity::Reason;
use crate::tls::{expiry, identity, source, trust};

/// The Secret with the certificate of activator and gateway (`networking/pkg/config`: `ServingRoutingCertName`).
pub const SECRET: &str = "routing-serving-certs";
/// Label of ConfigMaps that hold trusted authorities, whatever its value.
pub const LABEL_TRUST_BUNDLE: &str = "networking.knative.dev/trust-bundle";

/// How often the certificate's validity in time is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Feeds the stores for as long as it is held.
#[derive(Debug)]
pub struct Certificates {
    secrets: Objects<Secret>,
    bundles: Objects<ConfigMap>,
    secret: Key,
    identity: Arc<identity::Store>,
    trust: Arc<trust::Store>,
    followers: [tokio::task::AbortHandle; 2],
}

impl Drop for Certificates {
    fn drop(&mut self) {
        self.followers.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

impl Certificates {
    /// Follows the Secret and the trust bundles in the system namespace. Must be called within a `LocalSet`.
    pub fn follow(source: &Source, namespace: &str, identity: Arc<identity::Store>, trust: Arc<trust::Store>) -> Self {
        let secrets = source.objects::<Secret>(Selection::within(namespace).named(SECRET));
        let bundles = source.objects::<ConfigMap>(Selection::within(namespace).labelled(LABEL_TRUST_BUNDLE));
        let followers = [
            tokio::task::spawn_local(follow_secret(secrets.clone(), Arc::clone(&identity), Arc::clone(&trust)))
                .abort_handle(),
            tokio::task::spawn_local(follow_bundles(bundles.clone(), Arc::clone(&trust))).abort_handle(),
        ];
        Self { secrets, bundles, secret: Key::new(namespace, SECRET), identity, trust, followers }
    }

    /// Waits until the source has given both kinds once, whatever they hold.
    pub async fn synced(&self) {
        self.secrets.synced().await;
        self.bundles.synced().await;
    }

    /// Why TLS is not ready, for people; none when it is: there is a certificate to show and an authority to trust.
    pub fn missing(&self) -> Option<String> {
        if self.identity.current().is_none() {
            let secret = &self.secret;
            return Some(match self.secrets.get(secret) {
                None => format!("there is no Secret {secret}"),
                Some(_) => format!("Secret {secret} holds no pair of tls.crt and tls.key that can be used"),
            });
        }
        match self.trust.roots() {
            Some(_) => None,
            None => Some(format!(
                "neither ca.crt of Secret {} nor a trust bundle holds a certificate authority",
                self.secret
            )),
        }
    }

    /// Waits until [`Certificates::missing`] has nothing to say.
    pub async fn ready(&self) {
        let (mut pairs, mut authorities) = (self.identity.changes(), self.trust.changes());
        while self.missing().is_some() {
            // The senders live in the stores.
            tokio::select! {
                _ = pairs.changed() => {}
                _ = authorities.changed() => {}
            }
        }
    }
}

/// A pair as a Secret gave it, until it is taken.
struct Pair {
    origin: String,
    secret: Arc<Secret>,
    /// Whether it may become good by itself, with time.
    waits: bool,
}

async fn follow_secret(secrets: Objects<Secret>, identity: Arc<identity::Store>, trust: Arc<trust::Store>) {
    let mut changes = secrets.changes();
    let mut expiry = expiry::Watch::default();
    let mut tick = tokio::time::interval(LOOK);
    let mut pair: Option<Pair> = None;
    loop {
        let change = tokio::select! {
            biased;
            change = changes.next() => Some(change),
            _ = tick.tick() => None,
        };
        match change {
            Some(Change::Applied(key, secret)) => {
                trust.set_source(&origin(&key), secret.value(names::FILE_CA));
                let mut new = Pair { origin: format!("Secret {key}"), secret, waits: false };
                // A change of `ca.crt` alone is no new certificate.
                let known = pair.as_ref().is_some_and(|pair| pair.is_like(&new));
                match (known, &mut pair) {
                    (true, Some(pair)) => pair.secret = new.secret,
                    _ => {
                        new.offer(&identity, true);
                        pair = Some(new);
                    }
                }
            }
            Some(Change::Deleted(key, _)) => {
                tracing::warn!("Secret {key} was deleted; its last certificate stays in use");
                trust.remove_source(&origin(&key));
                pair = None;
            }
            None => {
                if let Some(pair) = pair.as_mut().filter(|pair| pair.waits) {
                    pair.offer(&identity, false);
                }
            }
        }
        let now = OffsetDateTime::now_utc();
        if let Some(warning) = identity.current().and_then(|current| expiry.due(&current.leaf, now)) {
            tracing::warn!("{warning}");
        }
    }
}

impl Pair {
    fn is_like(&self, other: &Self) -> bool {
        let same = |name| self.secret.value(name) == other.secret.value(name);
        same(names::FILE_CERTIFICATE) && same(names::FILE_KEY)
    }

    /// Puts the pair into use if it is good; says so when it is not and `first` met.
    fn offer(&mut self, identity: &identity::Store, first: bool) {
        let (certificate, key) = (self.secret.value(names::FILE_CERTIFICATE), self.secret.value(names::FILE_KEY));
        match source::offer(identity, &self.origin, certificate, key, OffsetDateTime::now_utc()) {
            Ok(()) => {
                self.waits = false;
                tracing::info!("Certificate and/or key have changed in {} and were reloaded.", self.origin);
            }
            Err(rejection) => {
                self.waits = matches!(rejection.reason, Reason::NotYetValid | Reason::Expired);
                if first {
                    identity.count_failure(rejection.reason);
                    let in_use = source::consequence(identity);
                    tracing::error!(reason = rejection.reason.token(), "{rejection}; {in_use}");
                }
            }
        }
    }
}

fn origin(secret: &Key) -> String {
    format!("Secret {secret}, {}", names::FILE_CA)
}

async fn follow_bundles(bundles: Objects<ConfigMap>, trust: Arc<trust::Store>) {
    let mut changes = bundles.changes();
    let mut sources: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    loop {
        let (key, data) = match changes.next().await {
            Change::Applied(key, map) => (key, map.data.clone()),
            Change::Deleted(key, _) => (key, BTreeMap::new()),
        };
        let before = sources.remove(&key).unwrap_or_default();
        let mut after = BTreeSet::new();
        for (entry, text) in &data {
            let name = format!("ConfigMap {key}, {entry}");
            trust.set_source(&name, text.as_bytes());
            after.insert(name);
        }
        for gone in before.difference(&after) {
            trust.remove_source(gone);
        }
        if !after.is_empty() {
            sources.insert(key, after);
        }
    }
}
