//! One HTTP/2 connection of a caller: all its streams in one task.
//!
//! Driven by [`super::server`]. A task of the runtime for each stream would cost an aligned allocation, several copies of
//! the stream's state and a wake-up through the runtime's queue for each request; here the streams are a set that the
//! connection's own task polls. It also sends interim responses, which hyper's server cannot.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream as _};
use h2::Reason;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::header::{self, HeaderValue};
use http_body::Body as _;

use super::body::Body;
use super::cause::Cause;
use super::entrance::{Answer, Entrance};
use super::h2_tunnel::{self, Asked, Leaving};
use super::headers::{self, Has};
use super::inbound::{Inbound, Received};
use super::pump::{Pump, Stopped};
use super::stream::Stream;
use super::{Request, Response, date};
use crate::worker::clock;

/// A connection under way.
pub struct Http2<S: tower::Service<Request>> {
    state: State,
    entrance: Entrance<S>,
    streams: FuturesUnordered<Exchange<S::Future>>,
    finishing: bool,
    leaving: Rc<Leaving>,
}

enum State {
    Opening(Handshake<Stream, Bytes>),
    Open(Connection<Stream, Bytes>),
}

impl<S> Http2<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause>,
{
    /// A connection whose preface is still to come.
    pub fn new(builder: &Builder, stream: Stream, entrance: Entrance<S>) -> Self {
        let state = State::Opening(builder.handshake(stream));
        Self { state, entrance, streams: FuturesUnordered::new(), finishing: false, leaving: Rc::default() }
    }

    /// Says that no more streams are taken, and ends when those under way have ended.
    pub fn finish(&mut self) {
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
        self.finishing = true;
    }

    /// Tells WebSockets to say goodbye; false if there are none. The connection then ends with the last of them.
    pub fn leave(&mut self) -> bool {
        self.leaving.begin();
        self.leaving.has_tunnels()
    }

    /// Goes on; ready at the end of the connection. Streams that are under way then are dropped.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // All that this turn begins and ends is of one moment.
        let _moment = clock::hold();
        let connection = loop {
            match &mut self.state {
                State::Open(connection) => break connection,
                State::Opening(opening) => match ready!(Pin::new(opening).poll(cx)) {
                    Err(_) => return Poll::Ready(()),
                    Ok(mut connection) => {
                        if self.finishing {
                            connection.graceful_shutdown();
                        }
                        self.state = State::Open(connection);
                    }
                },
            }
        };
        // First the streams: what they have to say goes out with this look at the connection.
        while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
        let mut came = false;
        while let Some(accepted) = match connection.poll_accept(cx) {
            Poll::Pending => None,
            Poll::Ready(Some(Ok(accepted))) => Some(accepted),
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
        } {
            let (request, reply) = accepted;
            let (head, body) = request.into_parts();
            let (asked, body) = match h2_tunnel::asks(&head) {
                true => (Some(body), Inbound::None),
                // Each question to a stream locks it, and there are some about the body.
                false if body.is_end_stream() => (None, Inbound::None),
                false => (None, Inbound::Http2(Received::new(body))),
            };
            let (answer, asked) = self.entrance.enter_h2(head, body, asked);
            let leaving = asked.is_some().then(|| self.leaving.clone());
            let asked = asked.zip(leaving);
            self.streams.push(Exchange { reply, asked, state: ExchangeState::Awaiting { answer } });
            came = true;
        }
        if came {
            while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
        }
        if self.leaving.is_over() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

pin_project_lite::pin_project! {
    /// A request and its response.
    struct Exchange<F> {
        reply: SendResponse<Bytes>,
        // It asks for a WebSocket.
        asked: Option<(Box<Asked>, Rc<Leaving>)>,
        #[pin]
        state: ExchangeState<F>,
    }
}

pin_project_lite::pin_project! {
    #[project = ExchangeProject]
    enum ExchangeState<F> {
        Awaiting { #[pin] answer: Answer<F> },
        Sending { pump: Pump<Body> },
        Tunnel { running: Pin<Box<dyn Future<Output = ()>>> },
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Exchange<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                ExchangeProject::Sending { pump } => {
                    if let Err(Stopped::Body(error)) = ready!(pump.poll(cx)) {
                        tracing::debug!(%error, "a response was reset");
                    }
                    return Poll::Ready(());
                }
                ExchangeProject::Tunnel { running } => return running.as_mut().poll(cx),
                ExchangeProject::Awaiting { mut answer } => {
                    let answered = answer.as_mut().poll(cx);
                    for interim in answer.call().informational.take() {
                        let _ = this.reply.send_informational(interim);
                    }
                    let Poll::Ready(Ok(response)) = answered else {
                        // The caller may take its request back.
                        return this.reply.poll_reset(cx).map(drop);
                    };
                    let response = match this.asked.take() {
                        None => response,
                        Some((asked, leaving)) => {
                            let upstream = answer.call().tunnel.take();
                            match upstream.filter(|_| asked.is_answered_by(&response)) {
                                Some(upstream) => match asked.open(response, *upstream, this.reply, &leaving) {
                                    Some(running) => {
                                        this.state.set(ExchangeState::Tunnel { running });
                                        continue;
                                    }
                                    None => return Poll::Ready(()),
                                },
                                // What is no refusal would be taken for a WebSocket.
                                None if response.status().as_u16() < 300 => {
                                    Cause::UpstreamSwitch.respond(answer.call())
                                }
                                None => response,
                            }
                        }
                    };
                    match begin(this.reply, response) {
                        Some(pump) => this.state.set(ExchangeState::Sending { pump }),
                        None => return Poll::Ready(()),
                    }
                }
            }
        }
    }
}

/// Sends the head, and all of the response if it has no body.
fn begin(reply: &mut SendResponse<Bytes>, response: Response) -> Option<Pump<Body>> {
    let (mut head, body) = response.into_parts();
    let has = Has::of(&head.headers);
    headers::strip_hop_by_hop(&mut head.headers, has);
    if !has.any(Has::DATE) {
        head.headers.insert(header::DATE, date::now());
    }
    let ended = body.is_end_stream();
    if !ended
        && !has.any(Has::LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    match reply.send_response(http::Response::from_parts(head, ()), ended) {
        Ok(to) => (!ended).then(|| Pump::new(to, body)),
        Err(error) => {
            tracing::debug!(%error, "a response could not be sent");
            reply.send_reset(Reason::INTERNAL_ERROR);
            None
        }
    }
}
