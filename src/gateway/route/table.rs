//! The table that requests are looked up in: immutable, shared by all workers.
//!
//! It consists of shards, so that a change copies the few hosts of one shard and shares the rest with the table before.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use http::HeaderMap;

use super::Route;
use super::compile::HostRoutes;
use crate::knative::ingress::hosts;

/// Hosts are spread over this many maps: with 30,000 hosts a change copies about 30.
const SHARDS: usize = 1024;

/// On which side of the gateway a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From outside of the cluster: external rules only.
    External,
    /// From inside: all rules.
    Internal,
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The host is unknown.
    Host,
    /// The host is known on this side, no path or header matches.
    Path,
    /// The host is known, but inside the cluster only.
    Visibility,
}

type Shard<B> = HashMap<Box<str>, Arc<HostRoutes<B>>>;

/// All routes.
#[derive(Debug)]
pub struct Table<B> {
    shards: Box<[Arc<Shard<B>>]>,
    hasher: RandomState,
}

// Derived, it would ask `B: Clone`.
impl<B> Clone for Table<B> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone(), hasher: self.hasher.clone() }
    }
}

impl<B> Default for Table<B> {
    fn default() -> Self {
        let empty = Arc::new(Shard::new());
        Self { shards: vec![empty; SHARDS].into(), hasher: RandomState::new() }
    }
}

impl<B> Table<B> {
    /// The route of a request to `authority`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, side: Side, authority: &str, path: &str, headers: &HeaderMap) -> Result<&Arc<Route<B>>, Miss> {
        let host = hosts::normal(authority);
        let mut known = Miss::Host;
        for found in self.hosts(&host) {
            let routes = match side {
                Side::External => &found.external,
                Side::Internal => &found.internal,
            };
            if !routes.is_empty() {
                return routes.iter().find(|route| route.matches(path, headers)).ok_or(Miss::Path);
            }
            // As if the host were not there: a wildcard may have it on this side.
            known = Miss::Visibility;
        }
        Err(known)
    }

    /// The routes of a host (in lower case, without a port): its own, those of the wildcards that fit, the longest
    /// first, those for every host.
    pub fn hosts(&self, host: &str) -> impl Iterator<Item = &Arc<HostRoutes<B>>> {
        let exact = self.entry(host).into_iter();
        exact.chain(hosts::suffixes(host).chain([""]).filter_map(|suffix| self.entry(suffix)))
    }

    /// Makes these the routes of `pattern`, or takes it out.
    pub(super) fn set(&mut self, pattern: &str, routes: Option<Arc<HostRoutes<B>>>) {
        let key = key(pattern);
        let at = self.shard(key);
        let Some(shard) = self.shards.get_mut(at) else { return };
        let mut changed = Shard::clone(shard);
        match routes {
            Some(routes) => changed.insert(key.into(), routes),
            None => changed.remove(key),
        };
        *shard = Arc::new(changed);
    }

    /// The routes of every host, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<HostRoutes<B>>> {
        self.shards.iter().flat_map(|shard| shard.values())
    }

    fn entry(&self, key: &str) -> Option<&Arc<HostRoutes<B>>> {
        self.shards.get(self.shard(key))?.get(key)
    }

    fn shard(&self, key: &str) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    /// How many hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is no host.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Wildcards are kept under what follows the `*`: a suffix of a host is then a key as it stands. No host begins with a
/// dot or is empty.
fn key(pattern: &str) -> &str {
    if pattern == "*" { "" } else { hosts::wildcard_suffix(pattern).unwrap_or(pattern) }
}
