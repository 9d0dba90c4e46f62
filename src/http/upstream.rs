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
use crate::worker::clock;

/// What a pool may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Idle HTTP/1.1 connections a worker.
    pub idle: usize,
    /// How long one may be idle.
    pub idle_time: Duration,
    /// Lines of a response's header block.
    pub header_lines: usize,
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

/// A shared HTTP/2 connection.
struct H2 {
    send: SendRequest<Bytes>,
    /// Takes no more streams.
    closed: Rc<Cell<bool>>,
    generation: u64,
    /// Its clones are the streams under way.
    streams: Rc<()>,
    /// Streams at once that the upstream allows.
    most: Rc<Cell<usize>>,
}

impl H2 {
    fn streams(&self) -> usize {
        Rc::strong_count(&self.streams) - 1
    }

    fn stream(&self) -> Stream {
        Stream { send: self.send.clone(), closed: self.closed.clone(), counted: Counted(self.streams.clone()) }
    }
}

/// The right to a stream of a shared HTTP/2 connection, used or about to be; counts until it is dropped.
pub struct Stream {
    send: SendRequest<Bytes>,
    closed: Rc<Cell<bool>>,
    counted: Counted,
}

/// Counts a stream until it is dropped.
pub struct Counted(#[expect(dead_code, reason = "counts until it is dropped")] Rc<()>);

/// HTTP/2 connections of a worker to one upstream, opened one by one as the streams that it allows are used up.
const H2_CONNECTIONS: usize = 16;

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
    /// The connection ended before it took the request, which is here again.
    Unsent(Box<http::Request<Outbound>>),
    /// The connection ended before a byte of the response to a request that was to be kept, which is here again. It was
    /// or may have been taken.
    Lost(Box<http::Request<Outbound>>, Broken),
    /// The exchange failed; the request was or may have been sent.
    Exchange(Broken),
    /// The request's body could not be read; the exchange was given up.
    RequestBody(Broken),
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
        idle.retain_mut(|(since, h1)| now.saturating_duration_since(*since) < self.limits.idle_time && h1.is_open());
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
        self.h2.borrow_mut().retain(|h2| !h2.closed.get());
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
        now.saturating_duration_since(self.used.get()) > time && self.h2.borrow().iter().all(|h2| h2.streams() == 0)
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
        Box::new(H1 { http: Http1::new(io, self.limits.header_lines), exchange })
    }

    /// An idle connection for one HTTP/1.1 request, if there is one.
    #[must_use]
    pub fn lease_idle(self: &Rc<Self>) -> Option<Lease> {
        loop {
            let (_, mut h1) = self.idle.borrow_mut().pop_back()?;
            if h1.is_open() && self.target.still_trusts(h1.exchange.generation.get()) {
                if let Some(local) = &self.target.local {
                    local.told().reused();
                }
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
        if let Some(found) = self.free_h2(false) {
            return Ok(found);
        }
        let _one = self.h2_connecting.acquire().await;
        if let Some(found) = self.free_h2(self.h2.borrow().len() >= H2_CONNECTIONS) {
            return Ok(found);
        }
        let (socket, generation) = self.dial().await?;
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::H2_HEADER_LIST)
            .max_send_buffer_size(limits::SEND_BUFFER)
            .enable_push(false)
            .initial_max_send_streams(limits::UPSTREAM_STREAMS)
            .handshake(socket)
            .await
            .map_err(|error| Unreached::Refused(io::Error::other(error)))?;
        let closed = Rc::new(Cell::new(false));
        let most = Rc::new(Cell::new(send.current_max_send_streams()));
        tokio::task::spawn_local({
            let (closed, most) = (closed.clone(), most.clone());
            async move {
                let end = std::future::poll_fn(|cx| {
                    let end = Pin::new(&mut connection).poll(cx);
                    most.set(connection.max_concurrent_send_streams());
                    end
                });
                if let Err(error) = end.await {
                    tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
                }
                closed.set(true);
            }
        });
        let h2 = H2 { send, closed, generation, streams: Rc::new(()), most };
        let stream = h2.stream();
        let mut all = self.h2.borrow_mut();
        all.retain(|h2| !h2.closed.get());
        all.push(h2);
        Ok(stream)
    }

    /// A stream that takes a request at once, at the time `now`, if there is one.
    #[must_use]
    pub fn stream_at_hand(&self, now: Instant) -> Option<Stream> {
        let mut stream = self.free_h2(false)?;
        self.used.set(now);
        // No waiting, so nobody to wake.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        matches!(stream.send.poll_ready(&mut cx), Poll::Ready(Ok(()))).then_some(stream)
    }

    /// A shared connection that may take another stream; with `full`, the one with the fewest.
    fn free_h2(&self, full: bool) -> Option<Stream> {
        let all = self.h2.borrow();
        let mut usable = all.iter().filter(|h2| !h2.closed.get() && self.target.still_trusts(h2.generation));
        let found = match full {
            false => usable.find(|h2| h2.streams() < h2.most.get()),
            true => usable.min_by_key(|h2| h2.streams()),
        }?;
        Some(found.stream())
    }
}

impl Stream {
    /// Sends a request. What is returned beside the response counts the stream, and belongs to the response's body.
    /// With `keep`, one without a body comes back if the connection ends first.
    ///
    /// # Errors
    /// No response on it.
    pub async fn send(
        mut self,
        request: http::Request<Outbound>,
        call: &Rc<Call>,
        keep: bool,
    ) -> Result<(http::Response<Received>, Counted), Failed> {
        if std::future::poll_fn(|cx| self.send.poll_ready(cx)).await.is_err() {
            self.closed.set(true);
            return Err(Failed::Unsent(Box::new(request)));
        }
        let mut sent = self.begin(request, call, keep)?;
        std::future::poll_fn(|cx| sent.poll_response(call, cx)).await
    }

    /// Begins to send a request, at once. With `keep`, one without a body comes back if the connection ends first.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn begin(self, request: http::Request<Outbound>, call: &Rc<Call>, keep: bool) -> Result<Sent, Failed> {
        let Self { mut send, counted, .. } = self;
        let (head, body) = request.into_parts();
        let ended = body.is_end_stream();
        let kept = (keep && ended).then(|| Box::new((head.clone(), Outbound::none(call.clone()))));
        let sent = send.send_request(http::Request::from_parts(head, ()), ended);
        let (response, to) = match sent {
            Ok(sent) => sent,
            Err(error) => return Err(lost(error, kept)),
        };
        let pump = if ended { None } else { Some(Pump::new(to, body)) };
        Ok(Sent { response, pump, counted: Some(counted), kept })
    }
}

/// A request on a stream, until its response begins.
pub struct Sent {
    response: h2::client::ResponseFuture,
    pump: Option<Pump<Outbound>>,
    counted: Option<Counted>,
    /// The request once more.
    kept: Option<Box<(http::request::Parts, Outbound)>>,
}

impl Sent {
    /// The response, and what counts the stream. Sends the request's body meanwhile.
    ///
    /// # Errors
    /// There is no response.
    pub fn poll_response(
        &mut self,
        call: &Call,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(http::Response<Received>, Counted), Failed>> {
        let final_one = loop {
            match self.response.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    self.kept = None;
                    call.interim_h2(interim);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(lost(error, self.kept.take()))),
                Poll::Ready(None) => break true,
                Poll::Pending => break false,
            }
        };
        if final_one && let Poll::Ready(response) = Pin::new(&mut self.response).poll(cx) {
            let response = match response {
                Ok(response) => response.map(Received::new),
                Err(error) => return Poll::Ready(Err(lost(error, self.kept.take()))),
            };
            if let Some(mut pump) = self.pump.take() {
                // The rest of the request goes on beside the response, whoever waits for whom.
                tokio::task::spawn_local(std::future::poll_fn(move |cx| pump.poll(cx).map(drop)));
            }
            let Some(counted) = self.counted.take() else { return Poll::Pending };
            return Poll::Ready(Ok((response, counted)));
        }
        match self.pump.as_mut().map(|pump| pump.poll(cx)) {
            Some(Poll::Ready(Err(Stopped::Body(error)))) => return Poll::Ready(Err(Failed::RequestBody(error))),
            // Refused: the response says why.
            Some(Poll::Ready(_)) => self.pump = None,
            Some(Poll::Pending) | None => {}
        }
        Poll::Pending
    }
}

/// A stream failed before its response: the connection's end gives back what was kept, the peer's word on this stream
/// does not, except that it did nothing with it (RFC 9113 section 8.7).
fn lost(error: h2::Error, kept: Option<Box<(http::request::Parts, Outbound)>>) -> Failed {
    let untouched = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    match kept {
        Some(kept) if error.is_io() || error.is_go_away() || untouched => {
            let (head, body) = *kept;
            Failed::Lost(Box::new(http::Request::from_parts(head, body)), error.into())
        }
        _ => Failed::Exchange(error.into()),
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
    /// Whether the connection served a request before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Begins to send a request, which [`Self::poll_response`] does. With `replay`, it goes out once more on a fresh
    /// connection if this one, reused, ends before a byte of the response. With `keep`, one without a body comes back if
    /// there is no other connection either, or the fresh one ends as well.
    pub fn begin(&mut self, head: http::request::Parts, body: Outbound, call: &Rc<Call>, replay: bool, keep: bool) {
        let Some(h1) = &mut self.h1 else { return };
        h1.exchange.replayable.set(self.reused && replay);
        h1.exchange.awaiting.set(true);
        *h1.exchange.call.borrow_mut() = Some(call.clone());
        h1.exchange.heard.set(false);
        let keep = keep && body.is_end_stream();
        h1.http.begin(&head, body);
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
                    Some(head) if !h1.exchange.heard.get() && !matches!(fault, Fault::Malformed(_)) => {
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
