//! Certificates by server name, for a server that speaks for many hosts.
//!
//! The gateway's control side publishes; each handshake reads with one atomic load and at most two look-ups, whatever
//! the number of certificates (data side). A change copies one shard of the map. Connections that are open are never
//! touched: a certificate matters in the handshake only.
//!
//! Order: the exact name, the wildcard that covers it (one label, RFC 9525 section 6.3), the default, none. Names are
//! compared as ASCII without regard to case (RFC 6066 section 3); rustls hands them over in lower case.
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::identity::Identity;

/// Names are spread over this many maps, so that a change among 30,000 copies about 30.
const SHARDS: usize = 1024;

type Shard = HashMap<Box<str>, Arc<Identity>>;

/// Which certificate a name gets: immutable, shares with its predecessor what did not change.
#[derive(Clone)]
pub struct Names {
    shards: Box<[Arc<Shard>]>,
    hasher: RandomState,
    default: Option<Arc<Identity>>,
}

impl Default for Names {
    fn default() -> Self {
        // One empty shard stands in for all.
        let shards = std::iter::repeat_n(Arc::new(Shard::new()), SHARDS).collect();
        Self { shards, hasher: RandomState::new(), default: None }
    }
}

impl Names {
    /// Gives a name, or `*.` and the rest of one, its certificate, or takes it away. The same identity can serve any
    /// number of names.
    pub fn set(&mut self, name: &str, identity: Option<Arc<Identity>>) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        // A wildcard is kept under what follows the `*`, as no name begins with a dot.
        let key = name.strip_prefix('*').unwrap_or(&name);
        let at = self.shard(key);
        let Some(shard) = self.shards.get_mut(at) else { return };
        let mut changed = Shard::clone(shard);
        match identity {
            Some(identity) => changed.insert(key.into(), identity),
            None => changed.remove(key),
        };
        *shard = Arc::new(changed);
    }

    /// Sets the certificate for all other names, and for callers that send none.
    pub fn set_default(&mut self, identity: Option<Arc<Identity>>) {
        self.default = identity;
    }

    /// The certificate of a name in lower case; `None` asks for a caller who sent none.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Identity>> {
        let own = name.filter(|name| !name.starts_with('.')).and_then(|name| {
            self.entry(name).or_else(|| {
                let dot = name.find('.').filter(|at| *at > 0)?;
                self.entry(name.get(dot..)?)
            })
        });
        own.or(self.default.as_ref())
    }

    /// Every name with its certificate, wildcards as `*.example.com`, in no order; the default is not among them.
    pub fn all(&self) -> impl Iterator<Item = (String, &Arc<Identity>)> {
        let written = |key: &str| if key.starts_with('.') { format!("*{key}") } else { key.to_owned() };
        self.shards.iter().flat_map(|shard| shard.iter()).map(move |(key, identity)| (written(key), identity))
    }

    /// How many names there are, the default not among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether no name has a certificate; there may be a default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nobody can be served.
    #[must_use]
    pub fn serves_nobody(&self) -> bool {
        self.default.is_none() && self.is_empty()
    }

    fn entry(&self, key: &str) -> Option<&Arc<Identity>> {
        self.shards.get(self.shard(key))?.get(key)
    }

    fn shard(&self, key: &str) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }
}

/// The names in use.
#[derive(Default)]
pub struct Resolver {
    names: ArcSwap<Names>,
}

impl Resolver {
    /// A resolver that serves nobody yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts names into use from the next handshake on.
    pub fn publish(&self, names: Names) {
        self.names.store(Arc::new(names));
    }

    /// The names in use.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    /// Whether a caller who asks for this name can be served.
    #[must_use]
    pub fn serves(&self, name: Option<&str>) -> bool {
        self.names.load().find(name).is_some()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("names", &self.names.load().len()).finish()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.names.load().find(hello.server_name()).map(|identity| Arc::clone(&identity.certified))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn identity() -> Arc<Identity> {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pem = (certificate.pem(), key.serialize_pem());
        Arc::new(Identity::from_pem(pem.0.as_bytes(), pem.1.as_bytes()).unwrap())
    }

    #[test]
    fn given_names_when_one_is_asked_for_then_exact_beats_wildcard_beats_default() {
        let (exact, wild, default) = (identity(), identity(), identity());
        let mut names = Names::default();
        names.set("A.example.com", Some(exact.clone()));
        names.set("*.example.com", Some(wild.clone()));

        let is = |names: &Names, name, which: Option<&Arc<Identity>>| match (names.find(name), which) {
            (Some(found), Some(which)) => Arc::ptr_eq(found, which),
            (found, which) => found.is_none() && which.is_none(),
        };
        assert!(is(&names, Some("a.example.com"), Some(&exact)));
        assert!(is(&names, Some("b.example.com"), Some(&wild)));
        assert!(is(&names, Some("c.b.example.com"), None), "a wildcard stands for one label");
        assert!(is(&names, Some("example.com"), None));
        assert!(is(&names, None, None));
        assert!(is(&names, Some(".example.com"), None), "no host begins with a dot");

        names.set_default(Some(default.clone()));
        assert!(is(&names, Some("c.b.example.com"), Some(&default)));
        assert!(is(&names, None, Some(&default)));
    }

    #[test]
    fn given_a_published_set_when_a_copy_changes_then_what_is_in_use_does_not() {
        let resolver = Resolver::new();
        let mut names = Names::default();
        names.set("a", Some(identity()));
        resolver.publish(names.clone());

        names.set("a", None);

        assert!(resolver.serves(Some("a")));
        resolver.publish(names);
        assert!(!resolver.serves(Some("a")) && resolver.names().serves_nobody());
    }
}
