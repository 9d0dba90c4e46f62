//! Certificates by server name, for a server that speaks for many hosts.
//!
//! The gateway's control side publishes; each handshake reads with one atomic load and at most two look-ups, whatever
//! the number of certificates (data side). A change copies one shard of the map. Connections that are open are never
//! touched: a certificate matters in the handshake only.
//!
//! Order: the exact name, the wildcard that covers it (one label, RFC 9525 section 6.3), the default, none. Names are
//! compared as ASCII without regard to case (RFC 6066 section 3); rustls hands them over in lower case.
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::shards::Shards;
use crate::tls::identity::Identity;

/// Which certificate a name gets: immutable, shares with its predecessor what did not change.
#[derive(Clone, Default)]
pub struct Names {
    /// A wildcard is kept under what follows the `*`, as no name begins with a dot.
    by: Shards<Arc<Identity>>,
    default: Option<Arc<Identity>>,
}

impl Names {
    /// Gives a name, or `*.` and the rest of one, its certificate, or takes it away. The same identity can serve any
    /// number of names.
    pub fn set(&mut self, name: &str, identity: Option<Arc<Identity>>) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.by.set(name.strip_prefix('*').unwrap_or(&name), identity);
    }

    /// Sets the certificate for all other names, and for callers that send none.
    pub fn set_default(&mut self, identity: Option<Arc<Identity>>) {
        self.default = identity;
    }

    /// The certificate of a name in lower case; `None` asks for a caller who sent none.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Identity>> {
        let own = name.filter(|name| !name.starts_with('.')).and_then(|name| {
            self.by.get(name).or_else(|| {
                let dot = name.find('.').filter(|at| *at > 0)?;
                self.by.get(name.get(dot..)?)
            })
        });
        own.or(self.default.as_ref())
    }

    /// Every name with its certificate, wildcards as `*.example.com`, in no order; the default is not among them.
    pub fn all(&self) -> impl Iterator<Item = (String, &Arc<Identity>)> {
        let written = |key: &str| if key.starts_with('.') { format!("*{key}") } else { key.to_owned() };
        self.by.iter().map(move |(key, identity)| (written(key), identity))
    }

    /// How many names there are, the default not among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by.len()
    }

    /// Whether no name has a certificate; there may be a default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by.is_empty()
    }

    /// Whether nobody can be served.
    #[must_use]
    pub fn serves_nobody(&self) -> bool {
        self.default.is_none() && self.is_empty()
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

        assert!(resolver.names().find(Some("a")).is_some());
        resolver.publish(names);
        assert!(resolver.names().find(Some("a")).is_none() && resolver.names().serves_nobody());
    }
}
