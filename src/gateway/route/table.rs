//! The table that requests are looked up in: immutable, shared by all workers.
use std::sync::Arc;

use http::HeaderMap;

use super::Route;
use super::compile::HostRoutes;
use crate::knative::ingress::{Visibility, hosts};
use crate::shards::Shards;

/// The sides of the gateway: where requests come in, and which rules a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// From outside of the cluster: external rules only.
    External,
    /// From inside: all rules; with TLS the cluster-local ones.
    Internal,
}

impl From<Visibility> for Side {
    fn from(visibility: Visibility) -> Self {
        match visibility {
            Visibility::ExternalIp => Self::External,
            Visibility::ClusterLocal => Self::Internal,
        }
    }
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

/// All routes, by host: wildcards under what follows the `*`, so that a suffix of a host is a key as it stands, `*` under
/// nothing. No host begins with a dot or is empty.
#[derive(Debug)]
pub struct Table<B>(Shards<Arc<HostRoutes<B>>>);

// Derived, it would ask `B: Clone`.
impl<B> Clone for Table<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> Default for Table<B> {
    fn default() -> Self {
        Self(Shards::default())
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
        let exact = self.0.get(host).into_iter();
        exact.chain(hosts::suffixes(host).chain([""]).filter_map(|suffix| self.0.get(suffix)))
    }

    /// Makes these the routes of `pattern`, or takes it out.
    pub(super) fn set(&mut self, pattern: &str, routes: Option<Arc<HostRoutes<B>>>) {
        let key = if pattern == "*" { "" } else { hosts::wildcard_suffix(pattern).unwrap_or(pattern) };
        self.0.set(key, routes);
    }

    /// The routes of every host, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<HostRoutes<B>>> {
        self.0.iter().map(|(_, routes)| routes)
    }

    /// How many hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no host.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
