//! The way of a request through routes to a backend: the share of each route that is taken, and the headers that these
//! set. A request that no upstream took can be put back to where it began, and take another way.
use std::sync::Arc;

use http::header::{Entry, HeaderMap, HeaderName, HeaderValue};

use crate::gateway::backends::{Backend, Place};
use crate::gateway::live::{Live, Routes};
use crate::gateway::route::Route;
use crate::gateway::route::table::{Miss, Side};
use crate::http::cause::Cause;
use crate::knative::names;

/// How often a route may lead back into this gateway before it counts as a circle.
const MOST_REWRITES: usize = 4;

/// A way that a request has taken.
pub struct Way {
    /// Where it ends.
    pub backend: Arc<Backend>,
    /// The route that the request was for, which another one may have led on from.
    pub route: Arc<Route<Arc<Backend>>>,
    /// The authority that the upstream sees in place of the caller's.
    pub host: Option<HeaderValue>,
    /// Of which table it is.
    routes: Arc<Routes>,
    steps: Vec<Step>,
}

/// A route on a way.
struct Step {
    route: Arc<Route<Arc<Backend>>>,
    share: usize,
    /// Header lines that it replaced.
    replaced: Vec<(HeaderName, HeaderValue)>,
}

/// The route of a request to `host`.
///
/// # Errors
/// There is none.
pub fn find<'r>(
    routes: &'r Routes,
    side: Side,
    host: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<&'r Arc<Route<Arc<Backend>>>, Cause> {
    routes.find(side, host, if path.is_empty() { "/" } else { path }, headers).map_err(|miss| {
        Cause::NoRoute(match miss {
            Miss::Host => "no_route_host",
            Miss::Path => "no_route_path",
            Miss::Visibility => "no_route_visibility",
        })
    })
}

/// Goes from `route` to a backend and sets the headers that belong to it.
///
/// # Errors
/// It leads nowhere.
pub fn follow(
    live: &Live,
    routes: &Arc<Routes>,
    taken: &Arc<Route<Arc<Backend>>>,
    path: &str,
    headers: &mut HeaderMap,
    mut random: impl FnMut() -> u32,
) -> Result<Way, Cause> {
    let mut route = Arc::clone(taken);
    let (mut steps, mut host) = (Vec::with_capacity(1), None);
    for _ in 0..MOST_REWRITES {
        let mut replaced = Vec::new();
        if headers.get(&names::NETWORK_HASH).is_some_and(|hash| hash == names::HASH_OVERRIDE) {
            set(headers, &names::NETWORK_HASH, &route.origin.hash, &mut replaced);
        }
        let Some((share, of)) = route.choose(random()) else { return Err(Cause::NoUpstream("no_share")) };
        for (name, value) in &of.set {
            set(headers, name, value, &mut replaced);
        }
        let backend = of.backend.clone();
        let rewritten = route.rewrite_host.clone();
        steps.push(Step { route, share, replaced });
        let leads_back = match &rewritten {
            None => false,
            Some(_) => matches!(&backend.state().place, Place::Name(name, _) if **name == *live.own_name),
        };
        host = rewritten.or(host);
        let Some(next) = host.as_ref().filter(|_| leads_back) else {
            return Ok(Way { backend, route: taken.clone(), host, routes: routes.clone(), steps });
        };
        // The next hop would be this very gateway: the way goes on here, without another connection, and with the
        // encryption of the route that it leads to.
        let next = next.to_str().unwrap_or_default();
        route = Arc::clone(find(routes, Side::Internal, next, path, headers)?);
    }
    Err(Cause::NoUpstream("rewrite_circle"))
}

impl Way {
    /// Whether the routes have changed since.
    #[must_use]
    pub fn is_outdated(&self, live: &Live) -> bool {
        !Arc::ptr_eq(&self.routes, &*live.routes.load())
    }

    /// Whether whoever may take this way may take the other one: it is the same object's, seen from the same side, and
    /// says the same of itself.
    #[must_use]
    pub fn is_as(&self, other: &Route<Arc<Backend>>) -> bool {
        let (ours, theirs) = (&self.route.origin, &other.origin);
        let same = (&ours.namespace, &ours.name, &ours.labels) == (&theirs.namespace, &theirs.name, &theirs.labels);
        same && self.route.visibility == other.visibility
    }

    /// Takes off what the way has set and puts back what it replaced, except for the authority: that is `caller`'s again.
    pub fn undo(self, headers: &mut HeaderMap) {
        for step in self.steps.into_iter().rev() {
            let share = step.route.shares.get(step.share);
            for (name, _) in share.iter().flat_map(|share| &share.set) {
                headers.remove(name);
            }
            for (name, _) in &step.replaced {
                headers.remove(name);
            }
            for (name, value) in step.replaced {
                headers.append(name, value);
            }
        }
    }
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue, replaced: &mut Vec<(HeaderName, HeaderValue)>) {
    match headers.entry(name) {
        Entry::Vacant(place) => drop(place.insert(value.clone())),
        Entry::Occupied(mut place) => {
            replaced.extend(place.insert_mult(value.clone()).map(|before| (name.clone(), before)));
        }
    }
}
