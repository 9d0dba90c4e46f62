//! What a split's Service leads to: protocol, addresses, and the name that each address must prove.
//!
//! Control side: [`Backends`] holds Services, slices and settings and recomputes the backends of one Service when one
//! of them changes. Data side: a route's share holds its [`Backend`] and reads the [`State`] with one atomic load.
//! Routes and backends change independently: new addresses never touch the routing table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::encryption::Switch;
use super::objects::{EndpointSlice, Service};
use super::route::ServiceRef;
use crate::knative::ingress::PortRef;
use crate::knative::names;
use crate::kube::Key;
use crate::tls::verifier::ExpectedSan;

/// For how long after a change an address may be an activator's or a pod's: the slices of the activator and of a
/// revision are written by different controllers.
pub const UNSETTLED: Duration = Duration::from_secs(10);

/// The protocol towards an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// An address of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it must prove over TLS; none is plaintext.
    pub expected: Option<ExpectedSan>,
}

/// Where requests go at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is no such Service.
    NoService,
    /// Addresses that are ready, perhaps none.
    Addresses(Arc<[Upstream]>),
    /// A name to look up, and a port.
    Name(Arc<str>, u16),
}

/// What a backend is at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The protocol of the upstreams.
    pub protocol: Protocol,
    /// Where they are.
    pub place: Place,
}

/// What distinguishes backends of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The Service and its port.
    pub service: ServiceRef,
    /// Whether system-internal TLS is spoken when it is on.
    pub may_be_tls: bool,
    /// Whether HTTP/1.1 is spoken whatever the ports are called.
    pub http1_only: bool,
}

/// What a share of traffic goes to.
#[derive(Debug)]
pub struct Backend {
    /// What it is made for.
    pub identity: Identity,
    /// `namespace/service`, for logs and metrics.
    pub cluster: Box<str>,
    state: ArcSwap<State>,
}

impl Backend {
    /// Whether there is anybody to send requests to.
    #[must_use]
    pub fn leads_somewhere(&self) -> bool {
        match &self.state.load().place {
            Place::NoService => false,
            Place::Addresses(addresses) => !addresses.is_empty(),
            Place::Name(..) => true,
        }
    }

    /// Where requests go at the moment.
    #[must_use]
    pub fn state(&self) -> arc_swap::Guard<Arc<State>> {
        self.state.load()
    }
}

/// All backends that routes hold, and what they follow from.
#[derive(Debug)]
pub struct Backends {
    services: HashMap<Key, Arc<Service>>,
    slices: HashMap<Key, BTreeMap<Key, Arc<EndpointSlice>>>,
    made: HashMap<Key, BTreeMap<Identity, Weak<Backend>>>,
    tls: Switch,
    activator: Key,
    activators: Membership,
    seen: HashMap<Key, Membership>,
}

/// Addresses with the time of their last change.
#[derive(Debug, Default)]
struct Membership {
    now: BTreeSet<IpAddr>,
    changed: HashMap<IpAddr, Instant>,
}

impl Membership {
    fn update(&mut self, addresses: BTreeSet<IpAddr>, at: Instant) {
        self.changed.retain(|_, since| at.saturating_duration_since(*since) < UNSETTLED);
        for address in self.now.symmetric_difference(&addresses) {
            self.changed.insert(*address, at);
        }
        self.now = addresses;
    }

    fn unsettled(&self, address: &IpAddr, at: Instant) -> bool {
        self.changed.get(address).is_some_and(|since| at.saturating_duration_since(*since) < UNSETTLED)
    }
}

impl Backends {
    /// No Service yet. `system_namespace` is where the activator's Service is.
    #[must_use]
    pub fn new(system_namespace: &str) -> Self {
        Self {
            services: HashMap::new(),
            slices: HashMap::new(),
            made: HashMap::new(),
            tls: Switch::default(),
            activator: Key::new(system_namespace, "activator-service"),
            activators: Membership::default(),
            seen: HashMap::new(),
        }
    }

    /// The backend of a share, shared with all others of the same identity.
    pub fn backend(&mut self, identity: Identity, at: Instant) -> Arc<Backend> {
        let key = service_key(&identity.service);
        let made = self.made.get(&key).and_then(|made| made.get(&identity)).and_then(Weak::upgrade);
        if let Some(backend) = made {
            return backend;
        }
        let backend = Arc::new(Backend {
            cluster: key.as_str().into(),
            state: ArcSwap::from_pointee(self.state(&identity, at)),
            identity: identity.clone(),
        });
        self.made.entry(key).or_default().insert(identity, Arc::downgrade(&backend));
        backend
    }

    /// A Service is as told, or gone.
    pub fn service(&mut self, key: &Key, service: Option<Arc<Service>>, at: Instant) {
        match service {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(key),
        };
        self.refresh(key, at);
    }

    /// A slice is as told, or gone.
    pub fn slice(&mut self, key: &Key, slice: &Arc<EndpointSlice>, gone: bool, at: Instant) {
        let service = Key::new(key.namespace(), &slice.service);
        let of = self.slices.entry(service.clone()).or_default();
        match gone {
            false => of.insert(key.clone(), Arc::clone(slice)),
            true => of.remove(key),
        };
        if of.is_empty() {
            self.slices.remove(&service);
        }
        let addresses = self.addresses(&service);
        if service == self.activator {
            self.activators.update(addresses, at);
            // Who is an activator decides about the addresses of every Service.
            let all: Vec<Key> = self.made.keys().cloned().collect();
            all.iter().for_each(|key| self.refresh(key, at));
            return;
        }
        if addresses.is_empty() && !self.made.contains_key(&service) {
            self.seen.remove(&service);
        } else {
            self.seen.entry(service.clone()).or_default().update(addresses, at);
        }
        self.refresh(&service, at);
    }

    /// Switches system-internal TLS.
    pub fn set_tls(&mut self, on: bool, at: Instant) {
        self.tls.set(on, at);
        self.settle(at);
    }

    /// Recomputes all backends: names that either an activator or a pod could prove become exact. To be called now and
    /// then; costs nothing where nothing changed.
    pub fn settle(&mut self, at: Instant) {
        let all: Vec<Key> = self.made.keys().cloned().collect();
        all.iter().for_each(|key| self.refresh(key, at));
    }

    /// Ready addresses of a Service, whatever their port.
    #[must_use]
    pub fn addresses(&self, service: &Key) -> BTreeSet<IpAddr> {
        self.slices
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values)
            .flat_map(|slice| slice.ready.iter().copied())
            .collect()
    }

    fn refresh(&mut self, key: &Key, at: Instant) {
        let Some(made) = self.made.get_mut(key) else { return };
        made.retain(|_, backend| backend.strong_count() > 0);
        if made.is_empty() {
            self.made.remove(key);
            return;
        }
        let held: Vec<Arc<Backend>> = made.values().filter_map(Weak::upgrade).collect();
        for backend in held {
            let state = self.state(&backend.identity, at);
            if **backend.state.load() != state {
                backend.state.store(Arc::new(state));
            }
        }
    }

    fn state(&self, identity: &Identity, at: Instant) -> State {
        let key = service_key(&identity.service);
        let Some(service) = self.services.get(&key) else {
            return State { protocol: Protocol::Http1, place: Place::NoService };
        };
        let port = service.port(&identity.service.port);
        let h2 = !identity.http1_only && service.speaks_h2(port);
        let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
        if let Some(name) = &service.external_name {
            let number = port.map(|port| port.port).unwrap_or(80);
            return State { protocol, place: Place::Name(name.as_str().into(), number) };
        }
        let tls = identity.may_be_tls && self.tls.encrypts(service, port, at);
        let mut upstreams = Vec::new();
        for slice in self.slices.get(&key).into_iter().flat_map(BTreeMap::values) {
            // Kubernetes writes the port of the pods under the name of the Service's port.
            let name = port.map(|port| port.name.as_str()).unwrap_or_default();
            let of_slice = match slice.ports.as_slice() {
                [(only, number)] if only.is_empty() || port.is_none() => Some(*number),
                ports => ports.iter().find(|(of, _)| of == name).map(|(_, number)| *number),
            };
            let by_service = port.and_then(|port| match &port.target_port {
                Some(PortRef::Number(number)) => u16::try_from(*number).ok(),
                Some(PortRef::Name(_)) => None,
                None => Some(port.port),
            });
            let Some(number) = of_slice.or(by_service) else { continue };
            upstreams.extend(slice.ready.iter().map(|ip| Upstream {
                address: SocketAddr::new(*ip, number),
                expected: tls.then(|| self.expected(&key, ip, at)),
            }));
        }
        upstreams.sort_by_key(|upstream| upstream.address);
        upstreams.dedup_by_key(|upstream| upstream.address);
        State { protocol, place: Place::Addresses(upstreams.into()) }
    }

    /// `kn-routing` for an activator, `kn-user-<namespace>` for a pod, one of both while slices may disagree.
    fn expected(&self, service: &Key, ip: &IpAddr, at: Instant) -> ExpectedSan {
        let user = names::san_user(service.namespace());
        let unsettled =
            self.activators.unsettled(ip, at) || self.seen.get(service).is_some_and(|seen| seen.unsettled(ip, at));
        match (self.activators.now.contains(ip), unsettled) {
            (_, true) => ExpectedSan::new(names::SAN_ROUTING).or(user),
            (true, false) => ExpectedSan::new(names::SAN_ROUTING),
            (false, false) => ExpectedSan::new(user),
        }
    }
}

fn service_key(service: &ServiceRef) -> Key {
    Key::new(&service.namespace, &service.name)
}

#[cfg(test)]
mod tests;
