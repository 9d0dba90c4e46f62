//! The handle on a revision's throttle that workers and the control side share.
//!
//! Each call holds the lock for what the state machine does and wakes others after it has let go of it. What a slot or
//! a waiting place stands for is given back by dropping it, whatever the reason.

use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use smallvec::SmallVec;
use tokio::sync::mpsc::UnboundedSender;

use super::assign::Activators;
use super::budget::Budget;
use super::pod::{Failure, Outcome, Pace};
use super::rules::Rules;
use super::state::Throttle;
use super::waking::{Waking, Woke};
use super::words::{Arrived, Counts, Difference, ProbeKey, SlotKey, Ticket, Wanted};

/// What a revision asks of the prober.
#[derive(Clone, Debug)]
pub struct Command {
    /// Who asks.
    pub revision: Revision,
    /// What for.
    pub wanted: Wanted,
}

/// One revision's throttle; clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Revision {
    shared: Arc<Shared>,
}

/// A handle that does not keep the revision alive.
#[derive(Clone, Debug)]
pub struct WeakRevision(Weak<Shared>);

impl WeakRevision {
    /// The revision, if anybody else still has it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Revision> {
        self.0.upgrade().map(|shared| Revision { shared })
    }
}

#[derive(Debug)]
struct Shared {
    id: u64,
    /// `namespace/name`, for the log.
    name: Box<str>,
    /// `Host` of probes, when pods are addressed through a mesh.
    probe_host: Option<Box<str>>,
    budget: Arc<Budget>,
    prober: UnboundedSender<Command>,
    waiting: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    throttle: Throttle,
    waking: Waking,
    /// Connections on which a probe passed while requests waited, for the first of them.
    parked: SmallVec<[(ProbeKey, TcpStream); 1]>,
}

/// Why a request is not sent at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many requests as may wait for this revision.
    QueueFull,
    /// The waiting requests of all revisions hold as many bytes as they may.
    NoMemory,
    /// The revision was deleted.
    RevisionGone,
}

/// What a request finds when it arrives.
#[derive(Debug)]
pub enum Entry {
    /// It may go.
    Granted(Slot),
    /// It may go when the future is ready.
    Wait(Wait),
    /// Answer it without a pod.
    Refused(Refused),
}

impl Revision {
    /// A throttle without pods. `name` is `namespace/name`; `prober` is told which addresses to probe.
    #[must_use]
    pub fn new(name: &str, rules: Rules, budget: Arc<Budget>, prober: UnboundedSender<Command>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let probe_host = rules.policy.pod_addressability.then(|| {
            let (namespace, revision) = name.split_once('/').unwrap_or(("", name));
            format!("{revision}-private.{namespace}").into()
        });
        // Only the spread over pods depends on it, and activators should differ.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), id);
        let inner = Inner { throttle: Throttle::new(rules, seed), waking: Waking::default(), parked: SmallVec::new() };
        let shared = Shared {
            id,
            name: name.into(),
            probe_host,
            budget,
            prober,
            waiting: AtomicUsize::new(0),
            inner: Mutex::new(inner),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A number that no other handle has but the clones of this one.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// A handle that does not keep the revision alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakRevision {
        WeakRevision(Arc::downgrade(&self.shared))
    }

    /// `namespace/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// `Host` that probes of this revision carry, if pods are addressed through a mesh.
    #[must_use]
    pub fn probe_host(&self) -> Option<&str> {
        self.shared.probe_host.as_deref()
    }

    /// Whether requests wait; without the lock, for the prober.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Numbers for metrics and reports.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().throttle.counts()
    }

    // For the data side.

    /// Asks for a slot; never blocks. `cost` is what the request holds while it waits, in bytes.
    #[must_use]
    pub fn enter(&self, cost: usize) -> Entry {
        self.enter_as(cost, false)
    }

    /// Asks for another slot after [`Slot::failed`]; the request goes before all that wait.
    #[must_use]
    pub fn enter_again(&self, cost: usize) -> Entry {
        self.enter_as(cost, true)
    }

    /// A slot, as soon as there is one.
    ///
    /// # Errors
    /// The request must be answered without a pod.
    pub async fn acquire(&self, cost: usize) -> Result<Slot, Refused> {
        match self.enter(cost) {
            Entry::Granted(slot) => Ok(slot),
            Entry::Wait(wait) => wait.await,
            Entry::Refused(why) => Err(why),
        }
    }

    fn enter_as(&self, cost: usize, again: bool) -> Entry {
        let mut inner = self.shared.lock();
        let arrived = inner.throttle.arrived(again);
        match arrived {
            Arrived::Go(key) => match inner.throttle.address(key) {
                Some(to) => Entry::Granted(self.slot(key, to, None)),
                None => Entry::Refused(Refused::RevisionGone),
            },
            Arrived::Full => Entry::Refused(Refused::QueueFull),
            Arrived::Gone => Entry::Refused(Refused::RevisionGone),
            Arrived::Wait(ticket) if !self.shared.budget.take(cost) => {
                inner.throttle.cancelled(ticket);
                self.after(inner);
                Entry::Refused(Refused::NoMemory)
            }
            Arrived::Wait(ticket) => {
                self.after(inner);
                Entry::Wait(Wait { revision: self.clone(), ticket: Some(ticket), cost })
            }
        }
    }

    fn slot(&self, key: SlotKey, (address, is_cluster_ip): (SocketAddr, bool), woke: Option<Box<Woke>>) -> Slot {
        Slot { revision: self.clone(), key, address, is_cluster_ip, woke, reached: false, over: false }
    }

    // For the control side.

    /// What Kubernetes lists as ready and as not ready; the whole lists. Deleted Endpoints are two empty ones.
    pub fn endpoints(&self, ready: &[SocketAddr], not_ready: &[SocketAddr]) {
        self.tell(|throttle| throttle.endpoints(ready, not_ready));
    }

    /// Address and plain port of the revision's private service, if there is one.
    pub fn cluster_ip(&self, address: Option<SocketAddr>) {
        self.tell(|throttle| throttle.cluster_ip(address));
    }

    /// The activators in the revision's path.
    pub fn activators(&self, activators: Arc<Activators>) {
        self.tell(|throttle| throttle.activators(activators));
    }

    /// The revision was deleted: who waits is refused, what runs may end, and probing stops.
    pub fn close(&self) {
        self.tell(Throttle::close);
    }

    /// Computes everything again and puts right what differs, which is always a defect: count and log it. Every 30 s.
    #[must_use]
    pub fn resync(&self) -> Vec<Difference> {
        self.tell(Throttle::resync)
    }

    // For the prober.

    /// What a probe found; `connection` is the one on which it passed, if it can carry a request. False if the result
    /// no longer counts.
    pub fn probed(&self, key: ProbeKey, outcome: Outcome, connection: Option<TcpStream>) -> bool {
        let mut inner = self.shared.lock();
        if let Some(connection) = connection
            && inner.throttle.counts().waiting > 0
        {
            inner.parked.push((key, connection));
        }
        let waited_for = inner.throttle.waiting() > 0;
        let counts = inner.throttle.probed(key, outcome);
        if inner.waking.is_asleep() {
            inner.see(waited_for);
        }
        if !counts {
            inner.parked.retain(|(parked, _)| *parked != key);
        }
        self.after(inner);
        counts
    }

    /// Closes connections of probes that no request has taken; call it some seconds after a probe has passed.
    pub fn drop_parked(&self) {
        let parked = std::mem::take(&mut self.shared.lock().parked);
        drop(parked);
    }

    /// All probes that are wanted now, to compare with those that run.
    #[must_use]
    pub fn probes(&self) -> Vec<(ProbeKey, SocketAddr, Pace)> {
        self.shared.lock().throttle.probes()
    }

    fn tell<T>(&self, what: impl FnOnce(&mut Throttle) -> T) -> T {
        let mut inner = self.shared.lock();
        let waited_for = inner.throttle.waiting() > 0;
        let result = what(&mut inner.throttle);
        inner.see(waited_for);
        self.after(inner);
        result
    }

    /// Lets go of the lock, then wakes and tells whom it concerns.
    fn after(&self, mut inner: MutexGuard<'_, Inner>) {
        let wakers = inner.throttle.take_wakers();
        // Within the lock, so that the prober hears things in the order in which they happened.
        for wanted in inner.throttle.take_wanted() {
            let _ = self.shared.prober.send(Command { revision: self.clone(), wanted });
        }
        self.shared.waiting.store(inner.throttle.waiting(), Ordering::Relaxed);
        drop(inner);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    /// Something has changed that may have woken the revision, or sent it to sleep.
    fn see(&mut self, waited_for: bool) {
        let counts = self.throttle.counts();
        self.waking.see(counts.listed > 0, counts.usable > 0 || counts.fallback, waited_for, Instant::now());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that holds it can leave the state half changed for a reason that waiting for ever would mend.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits; dropping it leaves the queue.
#[derive(Debug)]
#[must_use = "dropping it leaves the queue"]
pub struct Wait {
    revision: Revision,
    ticket: Option<Ticket>,
    cost: usize,
}

impl Future for Wait {
    type Output = Result<Slot, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ticket) = self.ticket else { return Poll::Ready(Err(Refused::RevisionGone)) };
        let mut inner = self.revision.shared.lock();
        let Some(decided) = inner.throttle.poll(ticket, cx.waker()) else { return Poll::Pending };
        let granted = decided.ok().and_then(|key| Some((key, inner.throttle.address(key)?)));
        let woke = granted.and_then(|_| inner.waking.take());
        drop(inner);
        self.ticket = None;
        self.revision.shared.budget.give_back(self.cost);
        Poll::Ready(granted.map(|(key, to)| self.revision.slot(key, to, woke)).ok_or(Refused::RevisionGone))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut inner = self.revision.shared.lock();
        inner.throttle.cancelled(ticket);
        self.revision.after(inner);
        self.revision.shared.budget.give_back(self.cost);
    }
}

/// The right to run one request on one pod; given back on drop.
#[derive(Debug)]
pub struct Slot {
    revision: Revision,
    key: SlotKey,
    address: SocketAddr,
    is_cluster_ip: bool,
    woke: Option<Box<Woke>>,
    reached: bool,
    over: bool,
}

impl Slot {
    /// Address and plain port, as Kubernetes lists them.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether this is the revision's cluster IP, and not a pod.
    #[must_use]
    pub fn is_cluster_ip(&self) -> bool {
        self.is_cluster_ip
    }

    /// When the revision woke up, if this is the first slot since.
    #[must_use]
    pub fn woke(&self) -> Option<Woke> {
        self.woke.as_deref().copied()
    }

    /// The connection on which this pod passed its probe, if nobody has taken it yet: cleartext HTTP/1.1, idle, after
    /// one exchange. Ask when the worker's pool has none.
    #[must_use]
    pub fn take_connection(&self) -> Option<TcpStream> {
        let mut inner = self.revision.shared.lock();
        let key = self.key.probe();
        let at = inner.parked.iter().position(|(parked, _)| *parked == key)?;
        Some(inner.parked.swap_remove(at).1)
    }

    /// The pod took the request: its failures in a row end here.
    pub fn reached(&mut self) {
        self.reached = true;
    }

    /// The pod took no byte of the request: it is put aside at once. Ask for another with [`Revision::enter_again`].
    pub fn failed(mut self, why: Failure) {
        self.over = true;
        let mut inner = self.revision.shared.lock();
        inner.throttle.failed(self.key, why);
        self.revision.after(inner);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut inner = self.revision.shared.lock();
        inner.throttle.completed(self.key, self.reached);
        self.revision.after(inner);
    }
}
