//! Connections to one upstream: a pool of HTTP/1.1 connections a worker, and a few shared HTTP/2 connections.
//!
//! An HTTP/1.1 connection is driven by the request that uses it, in the caller's own task, not by a task of its own:
//! that saves a few wake-ups a request. Between requests nothing drives it, so it is looked at before it is used
//! again, and once a second by [`Pool::sweep`].
//!
//! A connection remembers the trust generation that verified it. When an authority is removed, idle connections of older
//! generations are closed at once ([`Pool::distrust`]), busy ones after their response.

mod lease;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::uri::Authority;

use self::lease::H1;
pub use self::lease::Lease;
use self::stream::H2;
pub use self::stream::{Sent, Stream};
use super::body::Outbound;
use super::dial::{Socket, Target, Unreached};
use super::inbound::Broken;
use super::limits;

/// What a pool may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Idle HTTP/1.1 connections a worker.
    pub idle: usize,
    /// How long one may be idle.
    pub idle_time: Duration,
    /// Lines of a response's header block (HTTP/1.1).
    pub header_lines: usize,
    /// Bytes of it.
    pub header_bytes: usize,
    /// Headers for which the map of a response has room: its own, and those that a caller's next request has, which hyper
    /// reads into the same map, with what the role adds to it.
    pub header_room: usize,
}

/// The connections of one worker to one upstream.
pub struct Pool {
    target: Rc<Target>,
    host: HeaderValue,
    authority: Authority,
    limits: Limits,
    idle: RefCell<VecDeque<(Instant, Box<H1>)>>,
    h2: RefCell<Vec<H2>>,
    h2_connecting: tokio::sync::Semaphore,
    /// HTTP/2 connections opened so far.
    h2_opened: Cell<u64>,
    /// Streams at once that the last of them allowed, as far as is known.
    h2_most: Rc<Cell<usize>>,
    speaks: Cell<Speaks>,
    presumed: Speaks,
    used: Cell<Instant>,
}

/// What is known of the upstream's protocols, for callers that come by HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Nothing yet.
    Unknown,
    /// It answered over HTTP/2, or is known to.
    Http2,
    /// It answered the preface of HTTP/2 with HTTP/1.
    Http1Only,
}

/// A request on its way to an upstream.
pub struct Outgoing {
    /// Its head.
    pub head: Box<http::request::Parts>,
    /// Its body.
    pub body: Outbound,
}

/// Why no response came.
pub enum Failed {
    /// The request may go out again on a fresh connection, and is here again.
    Again {
        /// It, less its target.
        request: Box<Outgoing>,
        /// What happened; nothing, where the connection was found closed.
        error: Option<Broken>,
        /// The upstream did nothing with it (RFC 9113 section 8.7). Else doing it twice is allowed, or the upstream closed
        /// an idle connection without having read it.
        untouched: bool,
    },
    /// The connection ended before a byte of the response to a request that was to be kept, which is here again. It was
    /// or may have been taken.
    Lost(Box<Outgoing>, Broken),
    /// The exchange failed; the request was or may have been sent.
    Exchange(Broken),
    /// The request's body could not be read; the exchange was given up.
    RequestBody(Broken),
}

/// What a request's sender allows when its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    /// It goes out again when a connection that served before ends: if its method is idempotent, or the connection was
    /// closed while it was idle.
    pub replay: bool,
    /// It comes back as [`Failed::Lost`] instead, if it has no body.
    pub keep: bool,
}

impl Pool {
    /// An empty pool. `speaks` is what is known of the upstream beforehand.
    #[must_use]
    pub fn new(target: Target, limits: Limits, speaks: Speaks) -> Rc<Self> {
        let text = target.address.to_string();
        Rc::new(Self {
            authority: text.parse().unwrap_or(Authority::from_static("127.0.0.1")),
            host: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("127.0.0.1")),
            target: Rc::new(target),
            limits,
            idle: RefCell::default(),
            h2: RefCell::default(),
            h2_connecting: tokio::sync::Semaphore::new(1),
            h2_opened: Cell::new(0),
            h2_most: Rc::new(Cell::new(limits::UPSTREAM_STREAMS)),
            speaks: Cell::new(speaks),
            presumed: speaks,
            used: Cell::new(Instant::now()),
        })
    }

    /// The upstream's address as the value of `Host`.
    #[must_use]
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The upstream's address as the authority of a target.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Closes what was idle for too long, and what the upstream closed.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|(since, h1)| {
            let idle = now.saturating_duration_since(*since);
            idle < self.limits.idle_time && h1.is_usable_after(|| idle)
        });
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
        self.h2.borrow_mut().retain(H2::is_open);
    }

    /// Closes what was verified by an authority that is no longer trusted: idle connections now, busy ones after their
    /// response, since they are not given back.
    pub fn distrust(&self) {
        self.idle.borrow_mut().retain(|(_, h1)| self.target.still_trusts(h1.generation()));
        self.h2.borrow_mut().retain(|h2| self.target.still_trusts(h2.generation()));
    }

    /// Whether nothing was sent for `time` and nothing is under way.
    #[must_use]
    pub fn is_idle(&self, now: Instant, time: Duration) -> bool {
        now.saturating_duration_since(self.used.get()) > time && self.h2.borrow().iter().all(H2::is_idle)
    }

    /// Whether the other end must prove who it is.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.target.tls.is_some()
    }

    /// Idle HTTP/1.1 connections.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Closes idle HTTP/1.1 connections, the oldest first, down to `most`.
    pub fn keep_idle(&self, most: usize) {
        let mut idle = self.idle.borrow_mut();
        let extra = idle.len().saturating_sub(most);
        idle.drain(..extra);
    }

    async fn dial(&self) -> Result<(Socket, u64), Unreached> {
        self.target.dial().await.inspect_err(|_| {
            // Another application may come up in its place.
            self.speaks.set(self.presumed);
        })
    }

    /// What is known of the application's protocols.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        self.speaks.get()
    }

    /// The application answered over HTTP/2.
    pub fn speaks_h2(&self) {
        self.speaks.set(Speaks::Http2);
    }
}
