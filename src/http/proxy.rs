//! The core: one request in, one request to the application, its response back.

mod failure;
mod hop;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Version};

pub use self::failure::{Failure, unreached};
use self::failure::{closed, exchange};
use self::hop::Hop;
use super::body::Outbound;
use super::cause::Cause;
use super::headers::{self, Has};
use super::upstream::{Failed, Lease, Outgoing, Pool, Sent, Speaks, Stream};
use super::{Request, Response};

/// The parent of the application's spans (W3C Trace Context).
const TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");

/// Sends requests to one application.
#[derive(Clone)]
pub struct Proxy {
    pool: Rc<Pool>,
}

impl Proxy {
    /// A proxy to the application behind `pool`.
    #[must_use]
    pub fn new(pool: Rc<Pool>) -> Self {
        Self { pool }
    }

    /// Sends `request` on, in the protocol that it came by.
    ///
    /// # Errors
    /// Why there is no response of the application.
    pub fn forward(&self, request: Request) -> Forwarding {
        // In a box, since each layer above moves what it gets from below; none larger than its kind has to be.
        match Prepared::new(request, Replay::Any).map(|prepared| prepared.send(&self.pool).0) {
            Ok(On::Http1(exchange)) => Box::pin(Forwarded(exchange)),
            Ok(on) => Box::pin(Forwarded(Sending(on))),
            Err(cause) => Box::pin(std::future::ready(Err(cause))),
        }
    }
}

/// A request on its way to the application.
pub type Forwarding = Pin<Box<dyn Future<Output = Result<Response, Cause>>>>;

/// What has a cause where it has no response.
struct Forwarded<F>(F);

impl<F: Future<Output = Result<Response, Failure>> + Unpin> Future for Forwarded<F> {
    type Output = Result<Response, Cause>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(Failure::into_cause)
    }
}

/// Which requests go out once more when a reused connection ends before a byte of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All of them: the upstream is one process, which closed an idle connection.
    Any,
    /// Those that Go's transport sends again: safe ones without a body, and those with an idempotency key.
    Idempotent,
}

/// Whether the caller's address is added to `X-Forwarded-For`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedFor {
    /// It is.
    Append,
    /// The header passes as it came.
    Leave,
}

/// How often a request goes out again over HTTP/2: so often when the upstream did nothing with it each time.
const UNTOUCHED: u8 = 3;

/// How often a request may still go out again.
#[derive(Clone, Copy)]
struct Tries {
    /// When the upstream does nothing with it.
    untouched: u8,
    /// When it may have begun to.
    doubtful: u8,
    /// It went out before.
    again: bool,
}

impl Tries {
    const FIRST: Self = Self { untouched: UNTOUCHED, doubtful: 1, again: false };

    /// Takes one; false if there was none left.
    fn take(&mut self, untouched: bool) -> bool {
        let left = if untouched { &mut self.untouched } else { &mut self.doubtful };
        let some = *left > 0;
        *left = left.saturating_sub(1);
        self.again = true;
        some
    }
}

/// A request whose headers are ready for the next hop, whichever it is.
pub struct Prepared {
    request: Outgoing,
    hop: Hop,
}

impl Prepared {
    /// Applies what a proxy does to a request's headers, whatever the upstream.
    ///
    /// # Errors
    /// The request is not one that can be sent on.
    pub fn new(request: Request, replay: Replay) -> Result<Self, Cause> {
        Self::with(request, replay, ForwardedFor::Append)
    }

    /// As [`Prepared::new`], with a say in `X-Forwarded-For`.
    ///
    /// # Errors
    /// The request is not one that can be sent on.
    pub fn with(request: Request, replay: Replay, forwarded_for: ForwardedFor) -> Result<Self, Cause> {
        let Request { mut head, body, call } = request;
        if head.method == Method::CONNECT {
            return Err(Cause::Connect);
        }
        let h2 = head.version == Version::HTTP_2;
        let ended = hyper::body::Body::is_end_stream(&body);
        let has = Has::of(&head.headers);
        let expects = match head.headers.get(header::EXPECT).filter(|_| has.any(Has::EXPECT)) {
            None => false,
            Some(v) if v.is_empty() => false,
            Some(v) if v.as_bytes().eq_ignore_ascii_case(b"100-continue") => !ended,
            Some(_) => return Err(Cause::Expectation),
        };
        let upgrade = if h2 || !has.any(Has::CONNECTION) { None } else { headers::upgrade(&head.headers) };
        let trailers = has.any(Has::TE) && headers::accepts_trailers(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, has);
        if ended && has.any(Has::TRAILER) {
            head.headers.remove(header::TRAILER);
        }
        if trailers {
            head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if forwarded_for == ForwardedFor::Append {
            headers::append_forwarded_for(&mut head.headers, has, &call.connection.peer_ip);
        }
        if let Some(trace) = call.trace.borrow_mut().as_mut() {
            trace.client_started(std::time::Instant::now());
            head.headers.insert(TRACEPARENT, trace.traceparent());
        }
        if let Some(protocol) = &upgrade {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(header::UPGRADE, protocol.clone());
        }
        if !escapes_are_whole(head.uri.path()) {
            return Err(Cause::BadRequest("malformed escape in the path"));
        }
        let path = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let authority = head.uri.authority().cloned();
        head.extensions = http::Extensions::new();
        let no_host = authority.is_none() && !has.any(Has::HOST);
        let replay = replay == Replay::Any || (ended && is_idempotent(&head));
        let length = has.any(Has::LENGTH);
        let body = Outbound::new(body, call.clone(), expects);
        Ok(Self {
            request: Outgoing { head, body },
            hop: Hop { call, authority, path, upgrade, no_host, ended, length, replay, keep: false },
        })
    }

    /// It comes back as [`Failure::Lost`] when its upstream goes away before a byte of the response, if doing it twice is
    /// the same as doing it once (RFC 9110 section 9.2.2) and it has no body.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.hop.keep = self.hop.ended && self.hop.upgrade.is_none() && self.request.head.method.is_idempotent();
        self
    }

    /// Its headers, for whoever sends it another way than it was made for.
    pub fn headers_mut(&mut self) -> &mut header::HeaderMap {
        &mut self.request.head.headers
    }

    /// Its path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.hop.path.path()
    }

    /// The authority that the upstream sees.
    pub fn set_host(&mut self, host: HeaderValue) {
        self.hop.authority = None;
        self.hop.no_host = false;
        self.request.head.headers.insert(header::HOST, host);
    }

    /// Whether it asks for another protocol: then only HTTP/1.1 can carry it.
    #[must_use]
    pub fn is_upgrade(&self) -> bool {
        self.hop.upgrade.is_some()
    }

    /// The protocol that it came by.
    #[must_use]
    pub fn version(&self) -> Version {
        self.request.head.version
    }

    /// Sends it to the upstream of `pool`, in the protocol that it came by.
    pub fn send(self, pool: &Rc<Pool>) -> Sending {
        if self.request.head.version != Version::HTTP_2 {
            return self.send_over(pool, false);
        }
        if pool.speaks() == Speaks::Http2 {
            return self.send_over(pool, true);
        }
        let pool = pool.clone();
        Sending(On::Slow(Box::pin(async move {
            if pool.speaks() == Speaks::Unknown && !self.hop.ended {
                // A body can be sent once only, so this is found out before.
                pool.refuses_h2().await;
            }
            if pool.speaks() == Speaks::Http1Only {
                return self.send_h1(&pool).await;
            }
            self.send_h2(&pool, Tries::FIRST).await
        })))
    }

    /// Sends it to the upstream of `pool` over HTTP/2 with prior knowledge, or over HTTP/1.1, whatever it came by.
    pub fn send_over(self, pool: &Rc<Pool>, h2: bool) -> Sending {
        Sending(match h2 {
            false => match pool.lease_idle() {
                Some(lease) => On::Http1(self.on(lease, pool)),
                None => {
                    let pool = pool.clone();
                    On::Slow(Box::pin(async move { self.send_h1(&pool).await }))
                }
            },
            true => match pool.stream_at_hand(self.hop.call.started).filter(|_| pool.speaks() == Speaks::Http2) {
                Some(stream) => self.on_stream(stream, pool),
                None => {
                    let pool = pool.clone();
                    On::Slow(Box::pin(async move { self.send_h2(&pool, Tries::FIRST).await }))
                }
            },
        })
    }

    async fn send_h1(self, pool: &Rc<Pool>) -> Result<Response, Failure> {
        match pool.lease().await {
            Ok(lease) => self.on(lease, pool).await,
            Err(error) => Err(Failure::Unreached(Box::new(self), error)),
        }
    }

    /// Begins to send it over an HTTP/1.1 connection of `pool`.
    fn on(self, mut lease: Lease, pool: &Pool) -> Exchange {
        let Self { mut request, hop } = self;
        hop.target_h1(&mut request.head, pool);
        lease.begin(request, &hop.call, hop.replay, hop.keep);
        Exchange { lease: Some(lease), hop: Some(hop) }
    }

    /// Begins to send it over an HTTP/2 stream of `pool`.
    fn on_stream(self, stream: Stream, pool: &Rc<Pool>) -> On {
        let Self { mut request, mut hop } = self;
        if let Err(cause) = hop.target_h2(&mut request.head, pool) {
            return On::Slow(Box::pin(std::future::ready(Err(Failure::Taken(cause)))));
        }
        match stream.begin(request, hop.resend()) {
            Ok(sent) => On::Http2(Streamed { sent, hop, pool: pool.clone() }),
            Err(failed) => On::Slow(Self::after(failed, hop, pool.clone())),
        }
    }

    /// What follows the failure of a first try over HTTP/2.
    fn after(failed: Failed, hop: Hop, pool: Rc<Pool>) -> Slow {
        let failure = match failed {
            Failed::Again { request, untouched, .. } => {
                let mut tries = Tries::FIRST;
                tries.take(untouched);
                let again = Self { request: *request, hop };
                return Box::pin(async move { again.send_h2(&pool, tries).await });
            }
            Failed::Lost(lost, error) => {
                Failure::Lost(Box::new(Self { request: *lost, hop }), exchange(Failed::Exchange(error)))
            }
            failed => Failure::Taken(exchange(failed)),
        };
        Box::pin(std::future::ready(Err(failure)))
    }

    async fn send_h2(self, pool: &Rc<Pool>, mut tries: Tries) -> Result<Response, Failure> {
        let Self { mut request, mut hop } = self;
        // Until the upstream has answered over HTTP/2 once, it may turn out to speak HTTP/1 only. A request without a
        // body can then be sent again.
        let spare = (pool.speaks() == Speaks::Unknown && hop.ended).then(|| {
            let body = Outbound::none(hop.call.clone());
            Box::new(Self { request: Outgoing { head: request.head.clone(), body }, hop: hop.clone() })
        });
        let failure = loop {
            hop.target_h2(&mut request.head, pool).map_err(Failure::Taken)?;
            let stream = match if tries.again { pool.stream_again().await } else { pool.stream().await } {
                Ok(stream) => stream,
                Err(error) => return Err(Failure::Unreached(Box::new(Self { request, hop }), error)),
            };
            match stream.send(request, &hop.call, hop.resend()).await {
                Ok((response, counted)) => {
                    pool.speaks_h2();
                    return Ok(hop.answer_h2(response, counted));
                }
                Err(Failed::Again { request: again, error, untouched }) => {
                    if tries.take(untouched) {
                        request = *again;
                        continue;
                    }
                    let prepared = Box::new(Self { request: *again, hop });
                    break match error {
                        None => Failure::Unreached(prepared, closed()),
                        Some(error) if prepared.hop.keep => Failure::Lost(prepared, exchange(Failed::Exchange(error))),
                        Some(error) => Failure::Taken(exchange(Failed::Exchange(error))),
                    };
                }
                Err(Failed::Lost(lost, error)) => {
                    let prepared = Box::new(Self { request: *lost, hop });
                    break Failure::Lost(prepared, exchange(Failed::Exchange(error)));
                }
                Err(failed) => break Failure::Taken(exchange(failed)),
            }
        };
        // Another request may have found it out meanwhile.
        let http1_only = match pool.speaks() {
            Speaks::Http1Only => true,
            Speaks::Unknown => pool.refuses_h2().await,
            Speaks::Http2 => false,
        };
        match spare {
            Some(spare) if http1_only => Box::pin(spare.send_h1(pool)).await,
            _ => Err(failure),
        }
    }
}

/// A request on its way to an upstream, until its response begins.
///
/// Small where there is a connection at hand, which is most of the time: what each layer above moves, it copies.
pub struct Sending(On);

#[allow(clippy::large_enum_variant, reason = "another box would be another allocation for each HTTP/2 request")]
enum On {
    Http1(Exchange),
    Http2(Streamed),
    Slow(Slow),
}

/// A way that has to wait for a connection, or begins again.
type Slow = Pin<Box<dyn Future<Output = Result<Response, Failure>>>>;

impl Future for Sending {
    type Output = Result<Response, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                On::Http1(exchange) => return Pin::new(exchange).poll(cx),
                On::Slow(slow) => return slow.as_mut().poll(cx),
                On::Http2(streamed) => match ready!(streamed.sent.poll_response(&streamed.hop.call, cx)) {
                    Ok((response, counted)) => return Poll::Ready(Ok(streamed.hop.answer_h2(response, counted))),
                    Err(failed) => {
                        let slow = Prepared::after(failed, streamed.hop.clone(), streamed.pool.clone());
                        self.0 = On::Slow(slow);
                    }
                },
            }
        }
    }
}

/// A request on an HTTP/1.1 connection, until its response begins.
struct Exchange {
    lease: Option<Lease>,
    hop: Option<Hop>,
}

impl Future for Exchange {
    type Output = Result<Response, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { lease: Some(lease), hop: Some(hop) } = &mut *self else { return Poll::Pending };
        let response = ready!(lease.poll_response(&hop.call, cx));
        // Dropped, and its connection closed, where there is no response.
        let (Some(lease), Some(hop)) = (self.lease.take(), self.hop.take()) else { return Poll::Pending };
        Poll::Ready(match response {
            Ok(response) => hop.answer_h1(response, lease).map_err(Failure::Taken),
            Err(Failed::Lost(lost, error)) => {
                let prepared = Box::new(Prepared { request: *lost, hop });
                Err(Failure::Lost(prepared, exchange(Failed::Exchange(error))))
            }
            Err(failed) => Err(Failure::Taken(exchange(failed))),
        })
    }
}

/// A request on an HTTP/2 stream, until its response begins.
struct Streamed {
    sent: Sent,
    hop: Hop,
    pool: Rc<Pool>,
}

/// What Go's transport sends again (`net/http`, `Request.isReplayable`).
fn is_idempotent(head: &http::request::Parts) -> bool {
    const KEYS: [header::HeaderName; 2] =
        [header::HeaderName::from_static("idempotency-key"), header::HeaderName::from_static("x-idempotency-key")];
    head.method.is_safe() || KEYS.iter().any(|key| head.headers.contains_key(key))
}

/// Whether each `%` begins two hexadecimal digits; Go's server refuses a path with others.
fn escapes_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}
