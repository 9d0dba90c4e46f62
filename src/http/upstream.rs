//! Connections to one upstream: a pool of HTTP/1.1 connections a worker, and a few shared HTTP/2 connections.
//!
//! An HTTP/1.1 connection is driven by the request that uses it, in the caller's own task, not by a task of its own:
//! that saves a few wake-ups a request. Between requests nothing drives it, so it is looked at before it is used
//! again, and once a second by [`Pool::sweep`].
//!
//! A connection remembers the trust generation that verified it. When an authority is removed, idle connections of older
//! generations are closed at once ([`Pool::distrust`]), busy ones after their response.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderValue;
use http::uri::Authority;
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::again::Kept;
use super::body::Outbound;
use super::call::Call;
use super::dial::{Socket, Target, Unreached};
use super::h1_client::{Failure, Http1};
use super::h1_framing::Fault;
use super::inbound::{Broken, Received};
use super::limits;
use super::pump::{Pump, Stopped};
use super::replay::{Exchange, Upstream};
use super::tunnel::Ready;
use super::wire::{Counted, Wire, Wired};
use crate::worker::clock;

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

struct H1 {
    http: Http1,
    exchange: Rc<Exchange>,
}

/// So long before the upstream closes an idle connection by its own word, no request is sent on it any more.
const CLOSE_TO_THE_END: Duration = Duration::from_millis(500);

impl H1 {
    /// Whether an upstream that said how long it keeps idle connections may close one that is idle for so long.
    fn may_be_closed(&self, idle: impl FnOnce() -> Duration) -> bool {
        self.http.keep_time().is_some_and(|time| idle() + CLOSE_TO_THE_END >= time)
    }
}

/// A shared HTTP/2 connection.
struct H2 {
    send: SendRequest<Bytes>,
    wire: Rc<Wire>,
    generation: u64,
    /// Which of the pool's it is, from 1 on.
    number: u64,
}

impl H2 {
    fn stream(&self) -> Stream {
        Stream { send: self.send.clone(), counted: Counted::new(&self.wire) }
    }
}

/// The right to a stream of a shared HTTP/2 connection, used or about to be; counts until it is dropped.
pub struct Stream {
    send: SendRequest<Bytes>,
    counted: Counted,
}

/// HTTP/2 connections of a worker to one upstream, opened one by one as the streams that it allows are used up.
const H2_CONNECTIONS: usize = 16;
/// How many of them may be opened so that requests do not share one which may have been closed while it was idle: of several
/// on it none could be sent again, since nobody knows which of them the upstream has read.
const H2_APART: usize = 4;

/// A connection in use; dropping it closes the connection.
pub struct Lease {
    h1: Option<Box<H1>>,
    pool: Weak<Pool>,
    reused: bool,
    /// The head of a request that comes back.
    kept: Option<Box<http::request::Parts>>,
}

/// Why no response came.
pub enum Failed {
    /// The request may go out again on a fresh connection, and is here again.
    Again {
        /// It, less its target.
        request: Box<http::Request<Outbound>>,
        /// What happened; nothing, where the connection was found closed.
        error: Option<Broken>,
        /// The upstream did nothing with it (RFC 9113 section 8.7). Else doing it twice is allowed, or the upstream closed
        /// an idle connection without having read it.
        untouched: bool,
    },
    /// The connection ended before a byte of the response to a request that was to be kept, which is here again. It was
    /// or may have been taken.
    Lost(Box<http::Request<Outbound>>, Broken),
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
            idle < self.limits.idle_time && !h1.may_be_closed(|| idle) && h1.is_open()
        });
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
        self.h2.borrow_mut().retain(|h2| !h2.wire.closed.get());
    }

    /// Closes what was verified by an authority that is no longer trusted: idle connections now, busy ones after their
    /// response, since they are not given back.
    pub fn distrust(&self) {
        self.idle.borrow_mut().retain(|(_, h1)| self.target.still_trusts(h1.exchange.generation.get()));
        self.h2.borrow_mut().retain(|h2| self.target.still_trusts(h2.generation));
    }

    /// Whether nothing was sent for `time` and nothing is under way.
    #[must_use]
    pub fn is_idle(&self, now: Instant, time: Duration) -> bool {
        now.saturating_duration_since(self.used.get()) > time
            && self.h2.borrow().iter().all(|h2| h2.wire.streams() == 0)
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

    /// Takes over a connection that served an exchange elsewhere and is idle: the next request uses it.
    pub async fn adopt(&self, connection: std::net::TcpStream) {
        let Ok(socket) = TcpStream::from_std(connection) else { return };
        let _ = socket.set_nodelay(true);
        let mut h1 = self.h1(Socket::Plain(socket), 0);
        if h1.is_open() {
            self.idle.borrow_mut().push_back((Instant::now(), h1));
        }
    }

    fn h1(&self, socket: Socket, generation: u64) -> Box<H1> {
        let exchange = Rc::new(Exchange::default());
        exchange.generation.set(generation);
        let io = Upstream::new(socket, self.target.clone(), exchange.clone());
        Box::new(H1 { http: Http1::new(io, &self.limits), exchange })
    }

    /// An idle connection for one HTTP/1.1 request, if there is one.
    #[must_use]
    pub fn lease_idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let (since, mut h1) = self.idle.borrow_mut().pop_back()?;
            if !h1.may_be_closed(|| since.elapsed())
                && h1.is_open()
                && self.target.still_trusts(h1.exchange.generation.get())
            {
                return Some(Lease { h1: Some(h1), pool: Rc::downgrade(self), reused: true, kept: None });
            }
        }
    }

    /// A connection for one HTTP/1.1 request: an idle one, else a new one.
    ///
    /// # Errors
    /// There is none to be had.
    pub async fn lease(self: &Rc<Self>) -> Result<Lease, Unreached> {
        if let Some(lease) = self.lease_idle() {
            return Ok(lease);
        }
        let (socket, generation) = self.dial().await?;
        Ok(Lease { h1: Some(self.h1(socket, generation)), pool: Rc::downgrade(self), reused: false, kept: None })
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

    /// Whether the application answers the preface of HTTP/2 with something else, as servers that speak HTTP/1 only do
    /// (with an error page without a status line, some of them). Asked on a connection of its own, at most until the
    /// application has answered over HTTP/2 once.
    pub async fn refuses_h2(&self) -> bool {
        // The preface and an empty SETTINGS frame (RFC 9113 section 3.4).
        const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        // One asks, and those that come meanwhile wait for the answer.
        let _one = self.h2_connecting.acquire().await;
        if self.speaks.get() != Speaks::Unknown {
            return self.speaks.get() == Speaks::Http1Only;
        }
        let ask = async {
            let (mut socket, _) = self.target.dial_now().await.ok()?;
            socket.write_all(HELLO).await.ok()?;
            // Length, type: a server's first frame is SETTINGS (RFC 9113 section 3.4).
            let mut first = [0; 4];
            socket.read_exact(&mut first).await.ok()?;
            Some(first[3] != 4)
        };
        let refuses = tokio::time::timeout(limits::CONTINUE_WAIT, ask).await.ok().flatten().unwrap_or(false);
        if refuses {
            self.speaks.set(Speaks::Http1Only);
        }
        refuses
    }

    /// The right to one more stream on a shared HTTP/2 connection (prior knowledge), opened if need be.
    ///
    /// # Errors
    /// There is no connection to be had.
    pub async fn stream(&self) -> Result<Stream, Unreached> {
        self.used.set(Instant::now());
        match self.free_h2(false, 0) {
            Some(found) => Ok(found),
            None => self.open_h2(0).await,
        }
    }

    /// As [`Self::stream`], for a request that an older connection gave back: on one that is opened from now on, which all
    /// that are in the same need share.
    ///
    /// # Errors
    /// There is no connection to be had.
    pub async fn stream_again(&self) -> Result<Stream, Unreached> {
        if let Some(local) = &self.target.local {
            local.told().sent_again();
        }
        self.open_h2(self.h2_opened.get()).await
    }

    /// A stream on a connection after the one of the number `after`; there is none free, or none at all.
    async fn open_h2(&self, after: u64) -> Result<Stream, Unreached> {
        let _one = self.h2_connecting.acquire().await;
        let full = self.h2_open() >= H2_CONNECTIONS;
        if let Some(found) = self.free_h2(full, if full { 0 } else { after }) {
            return Ok(found);
        }
        let (socket, generation) = self.dial().await?;
        let wire = Wire::new(self.h2_most.get());
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::H2_HEADER_LIST)
            .max_send_buffer_size(limits::SEND_BUFFER)
            .enable_push(false)
            .initial_max_send_streams(wire.most.get())
            .handshake(Wired::new(socket, wire.clone()))
            .await
            .map_err(|error| Unreached::Refused(io::Error::other(error)))?;
        tokio::task::spawn_local({
            let (wire, learned) = (wire.clone(), self.h2_most.clone());
            async move {
                let end = std::future::poll_fn(|cx| {
                    let end = Pin::new(&mut connection).poll(cx);
                    let most = connection.max_concurrent_send_streams();
                    if wire.most.replace(most) != most {
                        // The next connection does not begin with more than this one takes.
                        learned.set(most.min(limits::UPSTREAM_STREAMS));
                    }
                    end
                });
                if let Err(error) = end.await {
                    tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
                }
                wire.closed.set(true);
            }
        });
        let number = self.h2_opened.get() + 1;
        self.h2_opened.set(number);
        let h2 = H2 { send, wire, generation, number };
        let stream = h2.stream();
        let mut all = self.h2.borrow_mut();
        all.retain(|h2| !h2.wire.closed.get());
        all.push(h2);
        Ok(stream)
    }

    /// A stream that takes a request at once, at the time `now`, if there is one.
    #[must_use]
    pub fn stream_at_hand(&self, now: Instant) -> Option<Stream> {
        let mut stream = self.free_h2(false, 0)?;
        self.used.set(now);
        // No waiting, so nobody to wake.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        matches!(stream.poll_ready(&mut cx), Poll::Ready(true)).then_some(stream)
    }

    fn h2_open(&self) -> usize {
        self.h2.borrow().iter().filter(|h2| !h2.wire.closed.get()).count()
    }

    /// A shared connection opened after the one of the number `after` that may take another stream; with `full`, the one
    /// with the fewest.
    fn free_h2(&self, full: bool, after: u64) -> Option<Stream> {
        let all = self.h2.borrow();
        let mut usable = all
            .iter()
            .filter(|h2| h2.number > after && !h2.wire.closed.get() && self.target.still_trusts(h2.generation));
        let apart = || self.h2_open() < H2_APART;
        let found = match full {
            false => usable.find(|h2| h2.wire.streams() < h2.wire.most.get() && !(h2.wire.is_doubtful() && apart())),
            true => usable.min_by_key(|h2| h2.wire.streams()),
        }?;
        Some(found.stream())
    }
}

impl Stream {
    /// Whether its connection takes a request, once that is known.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let ready = std::task::ready!(self.send.poll_ready(cx)).is_ok();
        if !ready {
            self.counted.0.closed.set(true);
        }
        Poll::Ready(ready)
    }

    /// Sends a request. What is returned beside the response counts the stream, and belongs to the response's body.
    ///
    /// # Errors
    /// No response on it.
    pub async fn send(
        mut self,
        request: http::Request<Outbound>,
        call: &Rc<Call>,
        resend: Resend,
    ) -> Result<(http::Response<Received>, Counted), Failed> {
        if !std::future::poll_fn(|cx| self.poll_ready(cx)).await {
            return Err(Failed::Again { request: Box::new(request), error: None, untouched: true });
        }
        let mut sent = self.begin(request, resend)?;
        std::future::poll_fn(|cx| sent.poll_response(call, cx)).await
    }

    /// Begins to send a request, at once.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn begin(self, request: http::Request<Outbound>, resend: Resend) -> Result<Sent, Failed> {
        let Self { mut send, counted } = self;
        let (head, mut body) = request.into_parts();
        let ended = body.is_end_stream();
        body.keep();
        let kept = Kept::of(&head);
        let begun = counted.0.begin();
        let (response, to) = match send.send_request(http::Request::from_parts(head, ()), ended) {
            Ok(sent) => sent,
            // The connection does not take it any more, or the request itself cannot be sent.
            Err(error) if error.is_io() || error.is_go_away() => {
                let request = Box::new(kept.with(body));
                return Err(Failed::Again { request, error: Some(error.into()), untouched: true });
            }
            Err(error) => return Err(Failed::Exchange(error.into())),
        };
        let pump = if ended { None } else { Some(Pump::new(to, body)) };
        Ok(Sent { response, pump, pumped: ended, counted: Some(counted), kept: Some(kept), begun, resend })
    }
}

/// A request on a stream, until its response begins.
pub struct Sent {
    response: h2::client::ResponseFuture,
    pump: Option<Pump<Outbound>>,
    /// Nothing more of the body goes out.
    pumped: bool,
    counted: Option<Counted>,
    kept: Option<Kept>,
    begun: u64,
    resend: Resend,
}

impl Sent {
    /// The response, and what counts the stream. Sends the request's body meanwhile.
    ///
    /// # Errors
    /// There is no response.
    pub fn poll_response(
        &mut self,
        call: &Rc<Call>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(http::Response<Received>, Counted), Failed>> {
        let final_one = loop {
            match self.response.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    self.kept = None;
                    call.interim_h2(interim);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.lost(error, call))),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        if final_one && let Poll::Ready(response) = Pin::new(&mut self.response).poll(cx) {
            let response = match response {
                Ok(response) => response.map(Received::new),
                Err(error) => return Poll::Ready(Err(self.lost(error, call))),
            };
            if let Some(mut pump) = self.pump.take().filter(|_| !self.pumped) {
                pump.body_mut().forget();
                // The rest of the request goes on beside the response, whoever waits for whom.
                tokio::task::spawn_local(std::future::poll_fn(move |cx| pump.poll(cx).map(drop)));
            }
            let Some(counted) = self.counted.take() else { return Poll::Pending };
            counted.0.serves();
            return Poll::Ready(Ok((response, counted)));
        }
        if !self.pumped
            && let Some(pump) = &mut self.pump
        {
            match pump.poll(cx) {
                Poll::Ready(Err(Stopped::Body(error))) => return Poll::Ready(Err(Failed::RequestBody(error))),
                // All of it is on its way, or it is refused: the response says why.
                Poll::Ready(_) => self.pumped = true,
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// The stream failed before its response. What the upstream did nothing with, for sure, may always go out again: it said
    /// so (REFUSED_STREAM, or a GOAWAY that names an earlier stream), or not a byte was written since the request began. Of
    /// what may have been taken only what the sender allows.
    fn lost(&mut self, error: h2::Error, call: &Rc<Call>) -> Failed {
        let Self { resend, begun, .. } = *self;
        let body = self.pump.take().map_or_else(|| Outbound::none(call.clone()), Pump::into_body);
        let (Some(kept), Some(counted)) = (self.kept.take(), &self.counted) else {
            return Failed::Exchange(error.into());
        };
        let wire = &counted.0;
        let refused = error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // h2 tells so only streams above the last one that a GOAWAY names.
        let above = error.is_go_away() && error.is_remote();
        let ended = error.is_io() || error.is_go_away();
        if above || ended {
            wire.closed.set(true);
        }
        let untouched = refused || above || (ended && wire.is_unwritten(begun));
        let idempotent = kept.method().is_idempotent();
        if resend.keep && ended && !untouched {
            return Failed::Lost(Box::new(kept.with(body)), error.into());
        }
        let allowed = (idempotent && wire.has_served()) || wire.was_closed_while_idle();
        let again = untouched || (ended && resend.replay && allowed);
        match body.rewound().filter(|_| again) {
            Some(body) => Failed::Again { request: Box::new(kept.with(body)), error: Some(error.into()), untouched },
            None => Failed::Exchange(error.into()),
        }
    }
}

impl H1 {
    /// Looks at what happened to an idle connection. The waker does nothing: no task waits for it, and the one that used
    /// it last must not be kept alive by it.
    fn is_open(&mut self) -> bool {
        self.http.is_usable()
    }
}

impl Lease {
    /// Begins to send a request, which [`Self::poll_response`] does. With `replay`, it goes out once more on a fresh
    /// connection if this one, reused, ends before a byte of the response. With `keep`, one without a body comes back if
    /// there is no other connection either, or the fresh one ends as well.
    ///
    /// What is larger than can be kept for a replay, or may become so, gets a fresh connection at once: it could not go out
    /// again, should this one turn out to be closed. A connection costs little beside so large a request.
    pub fn begin(&mut self, head: http::request::Parts, body: Outbound, call: &Rc<Call>, replay: bool, keep: bool) {
        let Some(h1) = &mut self.h1 else { return };
        h1.exchange.awaiting.set(true);
        *h1.exchange.call.borrow_mut() = Some(call.clone());
        h1.exchange.heard.set(false);
        let keep = keep && body.is_end_stream();
        h1.http.begin(&head, body);
        if self.reused && replay && h1.http.outgrows(limits::REPLAY_BYTES) {
            h1.http.renew();
            self.reused = false;
        }
        h1.exchange.replayable.set(self.reused && replay);
        if self.reused
            && let Some(pool) = self.pool.upgrade()
            && let Some(local) = &pool.target.local
        {
            local.told().reused();
        }
        self.kept = keep.then(|| Box::new(head));
    }

    /// The response's head. A 101 leaves the connection in `tunnel` of the call (HTTP/2) or of its connection.
    ///
    /// # Errors
    /// There is no response.
    pub fn poll_response(&mut self, call: &Rc<Call>, cx: &mut Context<'_>) -> Poll<Result<http::Response<()>, Failed>> {
        let Some(h1) = &mut self.h1 else { return Poll::Ready(Err(Failed::Exchange(Fault::Eof.into()))) };
        let response = match std::task::ready!(h1.http.poll_response(cx)) {
            Ok(response) => response,
            Err(Failure::Upstream(fault)) => {
                return Poll::Ready(Err(match self.kept.take() {
                    Some(head)
                        if !h1.exchange.heard.get()
                            && !matches!(fault, Fault::Malformed(_) | Fault::HeadTooLarge(_)) =>
                    {
                        let body = Outbound::none(call.clone());
                        Failed::Lost(Box::new(http::Request::from_parts(*head, body)), fault.into())
                    }
                    _ => Failed::Exchange(fault.into()),
                }));
            }
            Err(Failure::RequestBody(error)) => return Poll::Ready(Err(Failed::RequestBody(error))),
        };
        self.kept = None;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS
            && let Some(h1) = self.h1.take()
        {
            let (io, read_ahead) = h1.http.into_parts();
            let ready = Ready::new(io, read_ahead);
            if call.connection.h2.get() {
                *call.tunnel.borrow_mut() = Some(Box::new(ready));
            } else {
                *call.connection.tunnel.borrow_mut() = Some(Box::new((ready, None)));
            }
        }
        Poll::Ready(Ok(response))
    }

    /// Whether the response has ended.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.h1.as_ref().is_none_or(|h1| h1.http.is_end())
    }

    /// How much of the response's body is to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.h1.as_ref().map_or_else(|| SizeHint::with_exact(0), |h1| h1.http.size_hint())
    }

    /// The next frame of the response's body.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut self.h1 {
            Some(h1) => h1.http.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    /// Puts the connection back into its pool, if it can serve another request.
    pub fn give_back(mut self) {
        let (Some(mut h1), Some(pool)) = (self.h1.take(), self.pool.upgrade()) else { return };
        *h1.exchange.call.borrow_mut() = None;
        let mut idle = pool.idle.borrow_mut();
        // Whether it is still open is looked at when it is leased.
        if idle.len() < pool.limits.idle && h1.http.is_over() && pool.target.still_trusts(h1.exchange.generation.get())
        {
            h1.http.shrink();
            let now = clock::now();
            pool.used.set(now);
            idle.push_back((now, h1));
        }
    }
}
