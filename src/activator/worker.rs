//! What one worker thread holds: connections to pods, and what it keeps of revisions that it serves.
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;

use super::autoscaler::Poke;
use super::layer::observe::Observer;
use super::metrics::{HttpShards, Metrics};
use super::revisions::{Revision, Revisions};
use super::upstream::Network;
use crate::http::layer::timeouts::{Style, Timers};
use crate::http::pools::Pools;
use crate::telemetry::request_log::RevisionFacts;

/// What callers read when a timer of the revision ran out (`cmd/activator/main.go`).
const TIMEOUT: &str = "activator request timeout";

/// How long a worker remembers a revision that has no requests.
const FORGET: Duration = Duration::from_secs(60);

/// One worker's state. Belongs to its thread.
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// All revisions, from the control side.
    pub revisions: Arc<Revisions>,
    /// How pods are addressed, from the control side.
    pub network: Arc<ArcSwap<Network>>,
    /// `svc.` and the cluster's domain, as hosts of revisions end.
    pub cluster_domain: Rc<str>,
    /// Connections to pods.
    pub pools: Rc<Pools>,
    /// Tells the control side of revisions that wake up.
    pub pokes: UnboundedSender<Poke>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Longest time that a request waits for a pod, beside the revision's own limits.
    pub waiting_timeout: Option<Duration>,
    /// Whether requests that are lost with their pod go to another one, where that is safe.
    pub retry_lost: bool,
    /// What timers do to responses that have begun.
    pub timeout_style: Style,
    /// The port on which queues speak TLS.
    pub queue_tls_port: u16,
    locals: RefCell<HashMap<u64, Rc<Local>>>,
    timers: RefCell<HashMap<[Duration; 3], Rc<Timers>>>,
}

/// What a worker keeps of one revision.
pub struct Local {
    /// The revision.
    pub revision: Arc<Revision>,
    /// Its timers on this worker.
    pub timers: Rc<Timers>,
    /// What its lines in the request log may name.
    pub facts: RevisionFacts,
    used: Cell<Instant>,
    shards: OnceCell<HttpShards>,
}

impl Local {
    /// What its requests are measured with on this worker.
    pub fn shards(&self, observer: &Observer) -> &HttpShards {
        self.shards.get_or_init(|| observer.metrics.shards(Some(&self.revision.metrics), observer.index))
    }
}

impl Worker {
    /// The worker of this number.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "one caller, which names them all")]
    pub fn new(
        index: usize,
        revisions: Arc<Revisions>,
        network: Arc<ArcSwap<Network>>,
        cluster_domain: &str,
        pools: Rc<Pools>,
        pokes: UnboundedSender<Poke>,
        metrics: Arc<Metrics>,
        waiting_timeout: Option<Duration>,
        retry_lost: bool,
        timeout_style: Style,
        queue_tls_port: u16,
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            revisions,
            network,
            cluster_domain: cluster_domain.into(),
            pools,
            pokes,
            metrics,
            waiting_timeout,
            retry_lost,
            timeout_style,
            queue_tls_port,
            locals: RefCell::default(),
            timers: RefCell::default(),
        })
    }

    /// The revision of this name, if there is one.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str, now: Instant) -> Option<Rc<Local>> {
        let revision = self.revisions.find(namespace, name)?;
        let mut locals = self.locals.borrow_mut();
        let local = locals.entry(revision.id).or_insert_with(|| Rc::new(self.local(revision, now)));
        local.used.set(now);
        Some(local.clone())
    }

    fn local(&self, revision: Arc<Revision>, now: Instant) -> Local {
        let facts = RevisionFacts {
            name: revision.key.name().to_owned(),
            namespace: revision.key.namespace().to_owned(),
            service: revision.spec.service.to_string(),
            configuration: revision.spec.configuration.to_string(),
            ..RevisionFacts::default()
        };
        Local { timers: self.timers(&revision), facts, revision, used: Cell::new(now), shards: OnceCell::new() }
    }

    /// Revisions with the same limits share their lists of deadlines.
    fn timers(&self, revision: &Revision) -> Rc<Timers> {
        let [total, start, idle] =
            [revision.timeout(), revision.spec.response_start_timeout, revision.spec.idle_timeout];
        let mut timers = self.timers.borrow_mut();
        let timers = timers.entry([total, start, idle]);
        timers.or_insert_with(|| Timers::new(total, start, idle, TIMEOUT, self.timeout_style)).clone()
    }

    /// Forgets what was not used for a while. To be called each second or so.
    pub fn sweep(&self, now: Instant) {
        self.pools.sweep(now);
        let mut locals = self.locals.borrow_mut();
        locals
            .retain(|_, local| Rc::strong_count(local) > 1 || now.saturating_duration_since(local.used.get()) < FORGET);
        if locals.is_empty() {
            locals.shrink_to_fit();
        }
        drop(locals);
        self.timers.borrow_mut().retain(|_, timers| Rc::strong_count(timers) > 1);
    }
}
