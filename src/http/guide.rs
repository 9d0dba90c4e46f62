//! What a worker tells its connections while they run, and what it knows of each: whether a request is under way, since
//! when nothing is, and whether the buffers may go.
//!
//! Data side. [`super::server`] registers each connection; the role's housekeeping sweeps them, and its drain gives orders.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::watch;

use super::call::{Call, Connection};
use super::limits;
use super::stream::Stream;
use crate::memory;
use crate::tls::trust;
use crate::worker::clock;

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go on.
    Serve,
    /// HTTP/2: GOAWAY now; HTTP/1.1: `Connection: close` with the next response.
    Announce,
    /// Close once nothing is under way.
    Finish,
    /// Close now.
    Leave,
}

/// Whether an idle connection has given its buffers back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Park {
    No,
    /// It shall.
    Wanted,
    /// It has, or never does.
    Done,
}

/// What is known of who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// Nothing yet. An authority may have been removed since the connection was accepted.
    Unknown { distrusted: bool },
    /// It has shown no certificate.
    Anonymous,
    /// It has shown one.
    Certified,
}

/// One connection as its worker sees it from outside.
pub struct Guide {
    waker: RefCell<Option<Waker>>,
    order: Cell<Order>,
    caller: Cell<Caller>,
    /// Since when a header block has been awaited; none while a request or its response is under way.
    awaiting: Cell<Option<Instant>>,
    /// Whether a request was answered: from then on, waiting for the next one has no limit until its head begins to come.
    served: Cell<bool>,
    /// When a sweep first saw that a head is coming in, and what was awaited then, by its time.
    coming: Cell<Option<(Instant, Instant)>>,
    info: Rc<Connection>,
    under_way: Cell<u32>,
    park: Cell<Park>,
    /// The last request that was answered before its body had come in whole (HTTP/1.1).
    early: RefCell<Option<Rc<Call>>>,
}

impl Guide {
    /// Remembers whom to wake when there is an order.
    pub fn register(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Whether the connection has to end now.
    #[must_use]
    pub fn must_leave(&self) -> bool {
        self.order.get() == Order::Leave
    }

    /// The connection has begun, by a caller that has shown a certificate, or not.
    pub(super) fn opened(&self, certified: bool) {
        let before = self.caller.replace(if certified { Caller::Certified } else { Caller::Anonymous });
        // Whether it was verified before or after the authority went is not known: it may come again.
        if certified && before == (Caller::Unknown { distrusted: true }) {
            self.order(Order::Finish);
        }
    }

    fn distrust(&self) {
        match self.caller.get() {
            Caller::Unknown { .. } => self.caller.set(Caller::Unknown { distrusted: true }),
            Caller::Anonymous => {}
            Caller::Certified => self.order(Order::Finish),
        }
    }

    /// A request has come in.
    pub fn begin(&self) {
        self.under_way.set(self.under_way.get() + 1);
        self.awaiting.set(None);
    }

    /// A request and its response have ended; true if nothing else is under way.
    pub fn end(&self) -> bool {
        let left = self.under_way.get().saturating_sub(1);
        self.under_way.set(left);
        if left == 0 {
            self.served.set(true);
            self.awaiting.set(Some(clock::now()));
        }
        left == 0
    }

    /// What it has been told last.
    pub(super) fn told(&self) -> Order {
        self.order.get()
    }

    /// Where it is with giving its buffers back.
    pub(super) fn set_park(&self, park: Park) {
        self.park.set(park);
    }

    /// Whether the last answer was given before its request had ended, which has not ended since.
    pub(super) fn left_unread(&self) -> bool {
        self.early.take().is_some_and(|call| !call.request_ended.get())
    }

    /// The answer to `call` has begun before its request had ended.
    pub fn answered_early(&self, call: Rc<Call>) {
        *self.early.borrow_mut() = Some(call);
    }

    fn park_if(&self, idle: bool) {
        if idle && self.park.get() == Park::No {
            self.park.set(Park::Wanted);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    /// Ready when a connection that gave its buffers back has to go on: whether there is something to read, or else that
    /// it has to end.
    pub(super) fn poll_unparked(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<bool> {
        self.register(cx);
        if self.order.get() > Order::Announce {
            return Poll::Ready(false);
        }
        stream.poll_readable(cx).map(|()| true)
    }

    /// Whether the connection may give its buffers back now: nobody has anything to say.
    pub(super) fn may_park(&self, info: &Connection) -> bool {
        self.park.get() == Park::Wanted
            && self.under_way.get() == 0
            && info.quiet.get()
            && self.early.borrow().as_ref().is_none_or(|call| call.request_ended.get())
    }

    /// Since when the next head has been coming in, as far as is known `now`; none while nothing of it is there. Only
    /// HTTP/1.1: there it is told from the rest of the last request's body.
    fn head_comes(&self, awaited: Instant, now: Instant) -> Option<Instant> {
        let early = self.early.borrow();
        let ended = early.as_ref().is_none_or(|call| call.request_ended.get());
        if !self.served.get() || self.info.h2.get() || !self.info.head.has_begun() || !ended {
            return None;
        }
        let seen = self.coming.get().filter(|(of, _)| *of == awaited).map_or(now, |(_, seen)| seen);
        self.coming.set(Some((awaited, seen)));
        Some(seen)
    }

    fn order(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }
}

/// The connections of one worker.
#[derive(Default)]
pub struct Connections {
    guides: RefCell<Slab<Rc<Guide>>>,
    order: Cell<Option<Order>>,
}

impl Connections {
    /// Gives all connections, and those to come, an order.
    pub fn order(&self, order: Order) {
        self.order.set(Some(order));
        for (_, guide) in &*self.guides.borrow() {
            guide.order(order);
        }
    }

    /// An authority was removed: connections whose callers have shown a certificate end, once nothing is under way on
    /// them. Who is still trusted comes again.
    fn distrust(&self) {
        for (_, guide) in &*self.guides.borrow() {
            guide.distrust();
        }
    }

    /// Whether responses shall say `Connection: close`.
    #[must_use]
    pub fn announcing(&self) -> bool {
        self.order.get().is_some()
    }

    /// One look of [`housekeeping`]; whether a connection may soon give its buffers back.
    fn sweep(&self, now: Instant, header_time: Duration, idle: Option<Duration>) -> bool {
        let mut soon = false;
        for (_, guide) in &*self.guides.borrow() {
            let Some(since) = guide.awaiting.get() else { continue };
            let coming = guide.head_comes(since, now);
            let served = guide.served.get() && coming.is_none();
            guide.park_if(served && now.saturating_duration_since(since) > limits::PARK_AFTER);
            soon |= guide.park.get() == Park::No && coming.is_none();
            let limit = if served { idle } else { Some(header_time) };
            let since = coming.unwrap_or(since);
            if limit.is_some_and(|limit| now.saturating_duration_since(since) > limit) {
                guide.order(Order::Leave);
            }
        }
        soon
    }

    /// A connection of this worker, until what is returned is dropped.
    pub(super) fn enter(self: &Rc<Self>, info: Rc<Connection>) -> Entered {
        let guide = Rc::new(Guide {
            waker: RefCell::default(),
            order: Cell::new(Order::Serve),
            caller: Cell::new(Caller::Unknown { distrusted: false }),
            awaiting: Cell::new(Some(Instant::now())),
            served: Cell::new(false),
            coming: Cell::new(None),
            info,
            under_way: Cell::new(0),
            park: Cell::new(Park::No),
            early: RefCell::default(),
        });
        if let Some(order) = self.order.get().filter(|o| *o > Order::Announce) {
            guide.order.set(order);
        }
        let key = self.guides.borrow_mut().insert(guide.clone());
        Entered { key, of: self.clone(), guide }
    }
}

/// Looks after the connections of a worker, for ever: ends those on which a first header block has been awaited for
/// `header_time`, or a later one has been coming in for so long, or nothing happened for `idle`, and lets idle ones give
/// their buffers back. `upstreams` looks after what else the worker holds, once a second, and the worker's stock of freed
/// memory goes back as often.
pub async fn housekeeping(
    connections: Rc<Connections>,
    header_time: Duration,
    idle: Option<Duration>,
    mut upstreams: impl FnMut(Instant),
) {
    let mut last = Instant::now();
    loop {
        let soon = connections.sweep(Instant::now(), header_time, idle);
        tokio::time::sleep(if soon { limits::SWEEP_SOON } else { limits::SWEEP }).await;
        let now = Instant::now();
        if now.saturating_duration_since(last) >= limits::SWEEP {
            upstreams(now);
            memory::blocks::give_back();
            last = now;
        }
    }
}

/// Passes on the orders of a role's drain, for as long as there is one to give any.
pub async fn follow_orders(mut orders: watch::Receiver<Option<Order>>, connections: Rc<Connections>) {
    loop {
        if let Some(order) = *orders.borrow_and_update() {
            connections.order(order);
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

/// Follows the authorities of callers' certificates, for as long as there are any to come: what was verified by one that is
/// removed does not outlive it.
pub async fn follow_trust(trust: Arc<trust::Store>, connections: Rc<Connections>) {
    let mut changes = trust.changes();
    let removal = || trust.snapshot().map_or(0, |snapshot| snapshot.last_removal);
    let mut last = removal();
    while changes.changed().await.is_ok() {
        let now = removal();
        if now != last {
            last = now;
            connections.distrust();
        }
    }
}

/// A connection's place among its worker's.
pub(super) struct Entered {
    key: usize,
    of: Rc<Connections>,
    pub(super) guide: Rc<Guide>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut guides = self.of.guides.borrow_mut();
        guides.try_remove(self.key);
        if guides.is_empty() {
            guides.shrink_to_fit();
        }
    }
}
