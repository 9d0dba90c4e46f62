//! An HTTP/1.1 connection of a pool in use by one request, and idle between requests.

use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::net::TcpStream;

use super::{Failed, Outgoing, Pool};
use crate::http::body::Outbound;
use crate::http::call::Call;
use crate::http::dial::{Socket, Unreached};
use crate::http::h1_client::{Failure, Http1};
use crate::http::h1_framing::Fault;
use crate::http::limits;
use crate::http::replay::{Exchange, Upstream};
use crate::http::tunnel::Ready;
use crate::worker::clock;

pub(super) struct H1 {
    http: Http1,
    exchange: Rc<Exchange>,
}

/// So long before the upstream closes an idle connection by its own word, no request is sent on it any more.
const CLOSE_TO_THE_END: Duration = Duration::from_millis(500);

impl H1 {
    /// Whether it is as it was left, so long ago: neither closed nor, by its upstream's own word, about to be. The waker
    /// does nothing: no task waits for it, and the one that used it last must not be kept alive by it.
    pub(super) fn is_usable_after(&mut self, idle: impl FnOnce() -> Duration) -> bool {
        let ends = self.http.keep_time().is_some_and(|time| idle() + CLOSE_TO_THE_END >= time);
        !ends && self.http.is_usable()
    }

    /// The trust generation that verified it.
    pub(super) fn generation(&self) -> u64 {
        self.exchange.generation.get()
    }
}

/// A connection in use; dropping it closes the connection.
pub struct Lease {
    h1: Option<Box<H1>>,
    pool: Weak<Pool>,
    reused: bool,
    /// The head of a request that comes back.
    kept: Option<Box<http::request::Parts>>,
}

impl Pool {
    /// Takes over a connection that served an exchange elsewhere and is idle: the next request uses it.
    pub async fn adopt(&self, connection: std::net::TcpStream) {
        let Ok(socket) = TcpStream::from_std(connection) else { return };
        let _ = socket.set_nodelay(true);
        let mut h1 = self.h1(Socket::Plain(socket), 0);
        if h1.is_usable_after(|| Duration::ZERO) {
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
            if h1.is_usable_after(|| since.elapsed()) && self.target.still_trusts(h1.generation()) {
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
}

impl Lease {
    /// Begins to send a request, which [`Self::poll_response`] does. With `replay`, it goes out once more on a fresh
    /// connection if this one, reused, ends before a byte of the response. With `keep`, one without a body comes back if
    /// there is no other connection either, or the fresh one ends as well.
    ///
    /// What is larger than can be kept for a replay, or may become so, gets a fresh connection at once: it could not go out
    /// again, should this one turn out to be closed. A connection costs little beside so large a request.
    pub fn begin(&mut self, request: Outgoing, call: &Rc<Call>, replay: bool, keep: bool) {
        let Outgoing { head, body } = request;
        let Some(h1) = &mut self.h1 else { return };
        h1.exchange.awaiting.set(true);
        *h1.exchange.call.borrow_mut() = Some(call.clone());
        h1.exchange.heard.set(false);
        let keep = keep && body.is_end_stream();
        // The requests of an HTTP/2 connection go out one behind the other anyhow, and polling each again costs more.
        h1.http.begin(&head, body, !call.connection.h2.get());
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
        self.kept = keep.then_some(head);
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
                        Failed::Lost(Box::new(Outgoing { head, body }), fault.into())
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
        if idle.len() < pool.limits.idle && h1.http.is_over() && pool.target.still_trusts(h1.generation()) {
            h1.http.shrink();
            let now = clock::now();
            pool.used.set(now);
            idle.push_back((now, h1));
        }
    }
}
