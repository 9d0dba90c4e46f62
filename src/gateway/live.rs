//! What workers read: published whole by the control side, read with atomic loads in the path of a request.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::authz::check::Authorizer;
use super::backends::Backend;
use super::kourier::Kourier;
use super::route::table::{Side, Table};
use crate::telemetry::trace::Tracer;
use crate::tls::client::Connector;
use crate::tls::resolver::Resolver;
use crate::tls::trust;

/// The routing table of the gateway.
pub type Routes = Table<Arc<Backend>>;

/// What is in force. Every worker sees a publication at once: there is no copy of it anywhere.
pub struct Live {
    /// Where requests go.
    pub routes: ArcSwap<Routes>,
    /// `config-kourier`.
    pub settings: ArcSwap<Kourier>,
    /// Who decides about requests, if anybody does.
    pub authorizer: ArcSwapOption<Authorizer>,
    /// Begins the traces of requests, if they are traced.
    pub tracer: ArcSwapOption<Tracer>,
    /// Certificates of external hosts.
    pub external: Arc<Resolver>,
    /// Certificates of cluster-local hosts.
    pub internal: Arc<Resolver>,
    /// Shakes hands with activators and queues.
    pub connector: Arc<Connector>,
    /// What the connector trusts.
    pub trust: Arc<trust::Store>,
    /// The private load balancer's name: upstreams of this name are this very gateway.
    pub own_name: String,
    /// A proxy in front redirects, so that this one does not.
    pub never_redirect: bool,
    /// What following the objects has cost.
    pub work: Work,
    ready: AtomicBool,
    leads: AtomicBool,
    /// Whether `system-internal-tls` is on.
    pub encryption: AtomicBool,
    /// Secrets that are named and can't be used.
    pub unusable_certificates: AtomicUsize,
    /// Events that were not written since there were too many.
    pub events_dropped: Arc<AtomicU64>,
}

/// What following the objects has cost so far.
#[derive(Default)]
pub struct Work {
    /// Objects whose routes were compiled.
    pub compiled: AtomicU64,
    /// Certificates that were parsed.
    pub certificates: AtomicU64,
}

impl Live {
    /// Nothing in force yet, not ready.
    #[must_use]
    pub fn new(
        connector: Arc<Connector>,
        trust: Arc<trust::Store>,
        own_name: String,
        never_redirect: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            routes: ArcSwap::default(),
            settings: ArcSwap::default(),
            authorizer: ArcSwapOption::default(),
            tracer: ArcSwapOption::default(),
            external: Resolver::new(),
            internal: Resolver::new(),
            connector,
            trust,
            own_name,
            never_redirect,
            work: Work::default(),
            ready: AtomicBool::new(false),
            leads: AtomicBool::new(false),
            encryption: AtomicBool::new(false),
            unusable_certificates: AtomicUsize::new(0),
            events_dropped: Arc::default(),
        })
    }

    /// The certificates of one side.
    #[must_use]
    pub fn certificates(&self, side: Side) -> &Arc<Resolver> {
        match side {
            Side::External => &self.external,
            Side::Internal => &self.internal,
        }
    }

    /// Whether this replica shall be sent requests: it has been told everything once and is not leaving.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Says so.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Whether this replica writes status.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Says so.
    pub fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }
}
