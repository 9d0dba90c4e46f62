//! The HTTP/2 connections of a pool, shared by many requests, and the streams on them.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http_body::Body as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Failed, Outgoing, Pool, Resend, Speaks};
use crate::http::again::Kept;
use crate::http::body::Outbound;
use crate::http::call::Call;
use crate::http::dial::Unreached;
use crate::http::inbound::Received;
use crate::http::limits;
use crate::http::pump::{Pump, Stopped};
use crate::http::wire::{Counted, Wire, Wired};

/// A shared HTTP/2 connection.
pub(super) struct H2 {
    send: SendRequest<Bytes>,
    wire: Rc<Wire>,
    generation: u64,
    /// Which of the pool's it is, from 1 on.
    number: u64,
}

impl H2 {
    pub(super) fn is_open(&self) -> bool {
        !self.wire.closed.get()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.wire.streams() == 0
    }

    /// The trust generation that verified it.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

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

impl Pool {
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
        all.retain(H2::is_open);
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
        self.h2.borrow().iter().filter(|h2| h2.is_open()).count()
    }

    /// A shared connection opened after the one of the number `after` that may take another stream; with `full`, the one
    /// with the fewest.
    fn free_h2(&self, full: bool, after: u64) -> Option<Stream> {
        let all = self.h2.borrow();
        let mut usable =
            all.iter().filter(|h2| h2.number > after && h2.is_open() && self.target.still_trusts(h2.generation));
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
        request: Outgoing,
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
    pub fn begin(self, request: Outgoing, resend: Resend) -> Result<Sent, Failed> {
        let Self { mut send, counted } = self;
        let Outgoing { head, mut body } = request;
        let ended = body.is_end_stream();
        body.keep();
        let kept = Kept::of(&head);
        let begun = counted.0.begin();
        let (response, to) = match send.send_request(http::Request::from_parts(*head, ()), ended) {
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
