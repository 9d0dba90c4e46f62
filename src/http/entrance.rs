//! Where a request enters the stack and its answer leaves it, whichever protocol it came by.
//!
//! Data side; called by hyper's HTTP/1.1 server and by [`super::h2_server`]. What a server answers by itself ends here.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;

use super::body::{Aborted, Body};
use super::call::{Call, Connection, Turn};
use super::cause::Cause;
use super::guide::{Connections, Guide};
use super::h2_tunnel::{self, Asked};
use super::inbound::Inbound;
use super::server::Told;
use super::{Request, Response, headers};
use crate::worker::clock;

/// Where the requests of one connection enter the stack.
pub struct Entrance<S> {
    /// The role's behaviours.
    pub stack: RefCell<S>,
    /// The connection.
    pub info: Rc<Connection>,
    /// What its worker tells it.
    pub guide: Rc<Guide>,
    /// All connections of the worker.
    pub all: Rc<Connections>,
    /// Who is told of answers that are made here.
    pub told: Rc<dyn Told>,
}

impl<S> Entrance<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause>,
{
    /// A request has come in.
    pub fn enter(&self, head: http::request::Parts, body: Inbound) -> Answer<S::Future> {
        self.enter_h2(head, body, None).0
    }

    /// As [`Self::enter`]; a request for a WebSocket gives what its caller will send apart, and gets it back.
    pub fn enter_h2(
        &self,
        mut head: http::request::Parts,
        body: Inbound,
        from_caller: Option<h2::RecvStream>,
    ) -> (Answer<S::Future>, Option<Box<Asked>>) {
        self.info.head.end(&mut head.headers);
        self.info.chunks.set(head.version == Version::HTTP_11);
        let call = Rc::new(Call::new(self.info.clone(), clock::now()));
        call.request_ended.set(hyper::body::Body::is_end_stream(&body));
        let under_way = Some(UnderWay::new(self.guide.clone(), self.info.clone()));
        let early = before_the_stack(&mut head, &call);
        let asked = from_caller.map(|from_caller| h2_tunnel::translate(&mut head, from_caller));
        if let Some(Err(cause)) = &early {
            self.told.answered(cause.token());
        }
        let future = match early {
            None => Some(self.stack.borrow_mut().call(Request { head: Box::new(head), body, call: call.clone() })),
            Some(_) => None,
        };
        let early = early.map(Box::new);
        (Answer { future, early, call, under_way, guide: self.guide.clone(), all: self.all.clone() }, asked)
    }
}

impl<S> hyper::service::Service<http::Request<Incoming>> for Entrance<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause>,
{
    type Response = Response;
    type Error = Aborted;
    type Future = Answer<S::Future>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        self.enter(head, Inbound::Http1(body))
    }
}

/// A request or its response is under way, until this is dropped.
pub struct UnderWay {
    guide: Rc<Guide>,
    info: Rc<Connection>,
}

impl UnderWay {
    fn new(guide: Rc<Guide>, info: Rc<Connection>) -> Self {
        guide.begin();
        info.turn.set(Turn::Answer);
        Self { guide, info }
    }

    /// Puts `trailers` behind the body that ends now, if the caller gets it in chunks.
    pub fn trail(&self, trailers: &HeaderMap) {
        if self.info.chunks.get() {
            self.info.interim.trail(trailers);
        }
    }

    /// Whether the caller speaks HTTP/1.1, where hyper writes announced trailers at most.
    pub fn is_http1(&self) -> bool {
        !self.info.h2.get()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.guide.end() && !self.info.h2.get() {
            self.info.head.begin();
            if self.info.turn.get() == Turn::Answer {
                self.info.turn.set(Turn::Rest);
            }
        }
    }
}

/// What a server answers by itself, as Go's does: targets and hosts that are none (RFC 9112 section 3.2).
fn before_the_stack(head: &mut http::request::Parts, call: &Call) -> Option<Result<Response, Cause>> {
    // One pass: a look into the map for each header would cost more.
    let (mut hosts, mut host_is_well_formed, mut coded) = (0, true, false);
    for (name, value) in &head.headers {
        match *name {
            header::HOST => {
                hosts += 1;
                host_is_well_formed &= value.as_bytes().iter().all(|b| is_host_byte(*b));
            }
            header::TRANSFER_ENCODING => coded = true,
            header::CONTENT_TYPE => call.grpc.set(value.as_bytes().starts_with(b"application/grpc")),
            _ => {}
        }
    }
    if head.version == Version::HTTP_2 {
        if hosts > 0 && head.uri.authority().is_some() {
            // The authority counts, and nothing may be decided by another name (RFC 9113 section 8.3.1).
            head.headers.remove(header::HOST);
        }
        return None;
    }
    if head.uri.path() == "*" && head.method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        return Some(Ok(response));
    }
    if coded && !headers::is_chunked_alone(&head.headers) {
        return Some(Err(Cause::Coding));
    }
    let bad = |why| Some(Err(Cause::BadRequest(why)));
    if head.method != Method::CONNECT && head.uri.scheme().is_none() && !head.uri.path().starts_with('/') {
        return bad("malformed target");
    }
    match hosts {
        0 if head.version == Version::HTTP_11 => bad("missing required Host header"),
        0 | 1 if host_is_well_formed => None,
        0 | 1 => bad("malformed Host header"),
        _ => bad("too many Host headers"),
    }
}

/// The bytes that Go's `httpguts.ValidHostHeader` lets pass.
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'$'..=b'.' | b':' | b';' | b'=' | b'[' | b']' | b'_' | b'~')
}

pin_project_lite::pin_project! {
    /// A request under way: turns causes into answers.
    pub struct Answer<F> {
        #[pin]
        future: Option<F>,
        early: Option<Box<Result<Response, Cause>>>,
        call: Rc<Call>,
        under_way: Option<UnderWay>,
        guide: Rc<Guide>,
        all: Rc<Connections>,
    }
}

impl<F> Answer<F> {
    /// The request.
    pub fn call(&self) -> &Call {
        &self.call
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Answer<F> {
    type Output = Result<Response, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match (this.early.take(), this.future.as_pin_mut()) {
            (Some(early), _) => *early,
            (None, Some(future)) => ready!(future.poll(cx)),
            (None, None) => return Poll::Pending,
        };
        let mut response = match result {
            Ok(response) => response,
            Err(cause) => cause.respond(this.call),
        };
        response.body_mut().under_way(this.under_way.take());
        if this.call.connection.h2.get() {
            return Poll::Ready(Ok(response));
        }
        if !this.call.request_ended.get() {
            this.guide.answered_early(this.call.clone());
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let websocket =
                headers::upgrade(response.headers()).is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"websocket"));
            let watches = std::mem::replace(response.body_mut(), Body::empty()).take_watches();
            if let Some(ready) = this.call.connection.tunnel.borrow_mut().as_mut() {
                ready.1 = Some((watches, websocket));
            }
        } else if this.all.announcing() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}
