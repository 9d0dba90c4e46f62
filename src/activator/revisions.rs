//! The revisions that exist, as workers find them.
//!
//! The control side writes, workers read without a lock: the set is divided by a hash of the name into parts that are
//! replaced whole, so that a change copies a small part and a look-up is one atomic load and one map.
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use smallvec::SmallVec;

use super::statistics::Load;
use super::{metrics, throttle};
use crate::knative::names;
use crate::knative::revision::{Revision as Spec, RevisionKey};
use crate::tls::verifier::ExpectedSan;

/// Parts of the set; a power of two.
const PARTS: usize = 64;

/// Longest name that is looked for: two DNS labels and the slash between them.
const MAX_KEY: usize = 2 * 63 + 1;

/// One revision: what a request to it needs.
pub struct Revision {
    /// A number that no other version of any revision has.
    pub id: u64,
    /// Its namespace and name.
    pub key: RevisionKey,
    /// What its object says.
    pub spec: Arc<Spec>,
    /// Who may go to which pod.
    pub throttle: throttle::Revision,
    /// Its requests, for the autoscaler.
    pub load: Arc<Load>,
    /// The name that its pods must prove.
    pub expected: ExpectedSan,
    /// Its tables, once it had a request.
    pub metrics: Arc<metrics::Slot>,
    /// `Host` of its requests while pods are addressed through a mesh.
    pub mesh_host: HeaderValue,
}

impl Revision {
    /// A revision as its object says now. What outlives a change of the object is shared with the versions before.
    #[must_use]
    pub fn new(
        key: RevisionKey,
        spec: Arc<Spec>,
        throttle: throttle::Revision,
        load: Arc<Load>,
        metrics: Arc<metrics::Slot>,
        expected: ExpectedSan,
    ) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let host = format!("{}-private.{}", key.name(), key.namespace());
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            mesh_host: HeaderValue::try_from(host).unwrap_or(HeaderValue::from_static("")),
            key,
            spec,
            throttle,
            load,
            metrics,
            expected,
        })
    }

    /// Longest time from arrival to the end of the response.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.spec.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }
}

/// For a revision that has none, which the webhook excludes (`config-defaults`: `revision-timeout-seconds`).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// The name that pods of a namespace must prove.
#[must_use]
pub fn expected_san(namespace: &str, accept_legacy: bool) -> ExpectedSan {
    let exact = ExpectedSan::new(names::san_user(namespace));
    if accept_legacy { exact.or(names::SAN_LEGACY) } else { exact }
}

type Part = HashMap<RevisionKey, Arc<Revision>>;

/// All revisions.
pub struct Revisions {
    hasher: RandomState,
    parts: Box<[ArcSwap<Part>]>,
}

impl Default for Revisions {
    fn default() -> Self {
        Self { hasher: RandomState::new(), parts: (0..PARTS).map(|_| ArcSwap::default()).collect() }
    }
}

impl Revisions {
    /// The revision of this name, if there is one. Allocates nothing but for names that are too long to be any.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Revision>> {
        let mut key: SmallVec<[u8; MAX_KEY]> = SmallVec::new();
        key.extend_from_slice(namespace.as_bytes());
        key.push(b'/');
        key.extend_from_slice(name.as_bytes());
        let key = std::str::from_utf8(&key).ok()?;
        self.part(key)?.load().get(key).cloned()
    }

    /// Adds a revision, or replaces its former version. Control side only.
    pub fn insert(&self, revision: Arc<Revision>) {
        self.change(&revision.key.clone(), |part| {
            part.insert(revision.key.clone(), revision);
        });
    }

    /// Takes a revision out. Control side only.
    pub fn remove(&self, key: &RevisionKey) {
        self.change(key, |part| {
            part.remove(key);
        });
    }

    /// All of them, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Revision>> {
        self.parts.iter().flat_map(|part| part.load().values().cloned().collect::<Vec<_>>()).collect()
    }

    fn part(&self, key: &str) -> Option<&ArcSwap<Part>> {
        self.parts.get(self.hasher.hash_one(key) as usize % PARTS)
    }

    fn change(&self, key: &RevisionKey, change: impl FnOnce(&mut Part)) {
        let Some(part) = self.part(key.as_str()) else { return };
        let mut changed = Part::clone(&part.load());
        change(&mut changed);
        changed.shrink_to_fit();
        part.store(Arc::new(changed));
    }
}
