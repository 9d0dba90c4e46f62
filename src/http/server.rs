//! One accepted stream to its end: TLS, finding out the protocol, requests, upgrades, and leaving politely.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use slab::Slab;
use tokio::io::{AsyncRead as _, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::body::{Aborted, Body};
use super::call::{Call, Connection};
use super::cause::Cause;
use super::lines::{self, Lines};
use super::stream::{Socket, Stream};
use super::upstream::LocalExecutor;
use super::{Request, Response, headers, limits, tunnel};
use crate::telemetry::request_log::TlsFacts;

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// One connection as its worker sees it from outside.
pub struct Guide {
    waker: RefCell<Option<Waker>>,
    order: Cell<Order>,
    /// Since when a header block has been awaited; none while a request or its response is under way.
    awaiting: Cell<Option<Instant>>,
    /// Whether a request was answered: from then on, waiting for the next one has no limit.
    served: Cell<bool>,
    under_way: Cell<u32>,
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

    /// Whether responses shall say `Connection: close`.
    #[must_use]
    pub fn announcing(&self) -> bool {
        self.order.get().is_some()
    }

    /// Ends connections on which the first header block has been awaited for `header_time`, or nothing happened for `idle`.
    pub fn sweep(&self, now: Instant, header_time: Duration, idle: Option<Duration>) {
        for (_, guide) in &*self.guides.borrow() {
            let Some(since) = guide.awaiting.get() else { continue };
            let limit = if guide.served.get() { idle } else { Some(header_time) };
            if limit.is_some_and(|limit| now.saturating_duration_since(since) > limit) {
                guide.order(Order::Leave);
            }
        }
    }

    fn enter(self: &Rc<Self>) -> Entered {
        let guide = Rc::new(Guide {
            waker: RefCell::default(),
            order: Cell::new(Order::Serve),
            awaiting: Cell::new(Some(Instant::now())),
            served: Cell::new(false),
            under_way: Cell::new(0),
            early: RefCell::default(),
        });
        if let Some(order) = self.order.get().filter(|o| *o > Order::Announce) {
            guide.order.set(order);
        }
        let key = self.guides.borrow_mut().insert(guide.clone());
        Entered { key, of: self.clone(), guide }
    }
}

struct Entered {
    key: usize,
    of: Rc<Connections>,
    guide: Rc<Guide>,
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

/// Settings of the HTTP side of connections.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of a header block, HTTP/1.1 and HTTP/2.
    pub header_bytes: usize,
    /// Lines of an HTTP/1.1 header block.
    pub header_lines: usize,
    /// Time for the handshake and the first header block to come in.
    pub header_time: Duration,
    /// Streams at once on an HTTP/2 connection.
    pub streams: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header_bytes: limits::HEADER_BYTES,
            header_lines: limits::HEADER_LINES,
            header_time: limits::HEADER_TIME,
            streams: limits::STREAMS,
        }
    }
}

/// Makes connections of sockets, with the stack that decides about their requests.
pub struct Server<S> {
    stack: S,
    h1: http1::Builder,
    h2: http2::Builder<LocalExecutor>,
    connections: Rc<Connections>,
    settings: Settings,
    told: Rc<dyn Told>,
}

/// Who is told of what happens on connections before there is a request, or without one.
pub trait Told {
    /// A connection was accepted.
    fn accepted(&self, connection: &Connection);
    /// A TLS handshake succeeded.
    fn handshake(&self, tls: &rustls::ServerConnection);
    /// A TLS handshake failed.
    fn handshake_failed(&self, error: &std::io::Error, connection: &Connection);
    /// An answer was made before the stack saw the request: the token of the cause.
    fn answered(&self, token: &'static str);
}

impl<S> Server<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static,
{
    /// A server for one worker.
    pub fn new(stack: S, settings: Settings, connections: Rc<Connections>, told: Rc<dyn Told>) -> Self {
        let mut h1 = http1::Builder::new();
        h1.title_case_headers(true)
            .max_header_size(settings.header_bytes)
            .max_buf_size(settings.header_bytes.max(limits::READ_BUFFER));
        if settings.header_lines < lines::HYPER {
            h1.max_headers(settings.header_lines);
        }
        let mut h2 = http2::Builder::new(LocalExecutor);
        h2.max_concurrent_streams(settings.streams)
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::H2_HEADER_LIST)
            .max_pending_accept_reset_streams(limits::PENDING_RESETS)
            .max_send_buf_size(limits::SEND_BUFFER);
        Self { stack, h1, h2, connections, settings, told }
    }

    /// Serves one connection to its end.
    pub async fn serve(
        self: Rc<Self>,
        socket: TcpStream,
        info: Rc<Connection>,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) {
        self.told.accepted(&info);
        let entered = self.connections.enter();
        let guide = entered.guide.clone();
        let limit = tokio::time::timeout(self.settings.header_time, self.open(socket, &info, tls));
        let Ok(Some((socket, prefix, h2))) = limit.await else { return };
        info.h2.set(h2);
        if !h2 {
            info.head.begin();
        }
        let lines = Lines::new(self.settings.header_lines, self.settings.header_bytes).after(prefix);
        let stream = Stream::new(socket, lines, info.clone());
        let service = ToHyper {
            stack: RefCell::new(self.stack.clone()),
            info: info.clone(),
            guide: guide.clone(),
            all: self.connections.clone(),
            told: self.told.clone(),
        };
        if h2 {
            let connection = self.h2.serve_connection(TokioIo::new(stream), service);
            let _ = Driven { connection: Box::pin(connection), guide, told: Order::Serve }.await;
            return;
        }
        let mut connection = Box::pin(self.h1.serve_connection(TokioIo::new(stream), service));
        let driven = Driven { connection: &mut connection, guide: guide.clone(), told: Order::Serve };
        let ended = driven.await;
        let refused = ended.as_ref().is_err_and(|error| error.is_parse());
        if refused {
            // hyper has answered by itself.
            self.told.answered(Cause::BadRequest("").token());
        }
        let Some(up) = info.tunnel.borrow_mut().take() else {
            let unread = guide.early.take().is_some_and(|call| !call.request_ended.get());
            // A response that was cut ends with the connection, or its caller would wait for the rest.
            if refused || (unread && ended.is_ok()) {
                linger(Pin::into_inner(connection).into_parts().io.into_inner(), &guide).await;
            }
            return;
        };
        let Some((watches, websocket)) = up.1 else { return };
        let parts = Pin::into_inner(connection).into_parts();
        tunnel::run(parts.io.into_inner(), parts.read_buf, up.0, websocket, watches, guide).await;
    }

    /// The handshake, and the first bytes: which protocol is it?
    async fn open(
        &self,
        socket: TcpStream,
        info: &Connection,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Option<(Socket, Vec<u8>, bool)> {
        let mut socket = match tls {
            None => Socket::Plain(socket),
            Some(config) => {
                if looks_like_http(&socket).await {
                    let error = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
                    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                    self.told.handshake_failed(&error, info);
                    answer_plain_http(socket).await;
                    return None;
                }
                match Box::pin(tokio_rustls::TlsAcceptor::from(config).accept(socket)).await {
                    Ok(stream) => {
                        self.told.handshake(stream.get_ref().1);
                        let _ = info.negotiated.set(negotiated(stream.get_ref().1));
                        Socket::Tls(Box::new(stream))
                    }
                    Err(error) => {
                        self.told.handshake_failed(&error, info);
                        return None;
                    }
                }
            }
        };
        if let Socket::Tls(stream) = &socket
            && let Some(name) = stream.get_ref().1.server_name()
        {
            let _ = info.server_name.set(name.into());
        }
        if let Socket::Tls(stream) = &socket
            && stream.get_ref().1.alpn_protocol() == Some(b"h2")
        {
            return Some((socket, Vec::new(), true));
        }
        let mut first = Vec::with_capacity(512);
        loop {
            let n = match &mut socket {
                Socket::Plain(s) => s.read_buf(&mut first).await,
                Socket::Tls(s) => s.read_buf(&mut first).await,
            };
            if n.ok()? == 0 {
                return None;
            }
            let common = first.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
            if common == PREFACE.len() {
                return Some((socket, first, true));
            }
            if common < first.len() {
                return Some((socket, first, false));
            }
        }
    }
}

/// Whether a caller of the TLS port begins with a request in plaintext, by the beginnings that Go's server knows. Looked at
/// before the handshake, since rustls would answer with an alert first.
async fn looks_like_http(socket: &TcpStream) -> bool {
    let mut first = [0; 5];
    let known: [&[u8]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
    socket.peek(&mut first).await.is_ok_and(|n| known.contains(&first.get(..n).unwrap_or_default()))
}

/// What the request log may name of a handshake.
fn negotiated(tls: &rustls::ServerConnection) -> TlsFacts {
    TlsFacts {
        version: tls.protocol_version().map_or(0, u16::from),
        resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        cipher_suite: tls.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
        group: tls.negotiated_key_exchange_group().map_or(0, |group| group.name().into()),
        protocol: match tls.alpn_protocol() {
            Some(b"h2") => "h2",
            Some(b"http/1.1") => "http/1.1",
            _ => "",
        },
        server_name: tls.server_name().unwrap_or_default().into(),
    }
}

/// Plain HTTP on a TLS port gets the answer of Go's server, not just a closed connection.
async fn answer_plain_http(mut socket: TcpStream) {
    // What is unread when a socket closes resets the connection, and the answer with it.
    let _ = socket.try_read(&mut vec![0; 16 * 1024]);
    let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let _ = socket.write_all(text).await;
    let _ = socket.shutdown().await;
}

/// Forgets what the caller still sends, after our last answer and our end of the connection: a socket that is closed with
/// unread bytes is reset, and the reset overtakes the answer (RFC 9112 section 9.6).
async fn linger(mut stream: Stream, guide: &Guide) {
    let mut sink = vec![0; 16 * 1024];
    let forget = async {
        loop {
            let read = std::future::poll_fn(|cx| {
                guide.register(cx);
                if guide.must_leave() {
                    return Poll::Ready(None);
                }
                let mut buf = ReadBuf::new(&mut sink);
                let read = ready!(Pin::new(&mut stream).poll_read(cx, &mut buf));
                Poll::Ready(read.ok().map(|()| buf.filled().len()).filter(|n| *n > 0))
            });
            if !matches!(tokio::time::timeout(limits::LINGER_IDLE, read).await, Ok(Some(_))) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(limits::LINGER, forget).await;
}

/// What hyper's two kinds of connection have in common.
trait Drive {
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    fn finish(&mut self);
    /// Whether saying that we leave does not close what a caller may be about to use.
    const ANNOUNCES: bool;
}

impl<S> Drive for &mut Pin<Box<http1::Connection<TokioIo<Stream>, ToHyper<S>>>>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static,
{
    const ANNOUNCES: bool = false;
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.as_mut().poll(cx)
    }
    fn finish(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}

impl<S> Drive for Pin<Box<http2::Connection<TokioIo<Stream>, ToHyper<S>, LocalExecutor>>>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static,
{
    const ANNOUNCES: bool = true;
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.as_mut().poll(cx)
    }
    fn finish(&mut self) {
        self.as_mut().graceful_shutdown();
    }
}

struct Driven<C> {
    connection: C,
    guide: Rc<Guide>,
    told: Order,
}

impl<C: Drive + Unpin> Future for Driven<C> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        let this = &mut *self;
        this.guide.register(cx);
        let order = this.guide.order.get();
        if order > this.told {
            this.told = order;
            match order {
                Order::Leave => return Poll::Ready(Ok(())),
                Order::Announce if !C::ANNOUNCES => {}
                _ => this.connection.finish(),
            }
        }
        this.connection.poll_drive(cx)
    }
}

/// The stack as hyper wants it.
struct ToHyper<S> {
    stack: RefCell<S>,
    info: Rc<Connection>,
    guide: Rc<Guide>,
    all: Rc<Connections>,
    told: Rc<dyn Told>,
}

impl<S> hyper::service::Service<http::Request<Incoming>> for ToHyper<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static,
{
    type Response = Response;
    type Error = Aborted;
    type Future = Answer<S::Future>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        self.info.head.end(&mut head.headers);
        let call = Rc::new(Call::new(self.info.clone(), Instant::now()));
        call.request_ended.set(hyper::body::Body::is_end_stream(&body));
        let under_way = Some(UnderWay::new(self.guide.clone(), self.info.clone()));
        let early = before_the_stack(&mut head, &call);
        if let Some(Err(cause)) = &early {
            self.told.answered(cause.token());
        }
        let future = match early {
            None => Some(self.stack.borrow_mut().call(Request { head, body, call: call.clone() })),
            Some(_) => None,
        };
        Answer { future, early, call, under_way, guide: self.guide.clone(), all: self.all.clone() }
    }
}

/// A request or its response is under way, until this is dropped.
pub struct UnderWay {
    guide: Rc<Guide>,
    info: Rc<Connection>,
}

impl UnderWay {
    fn new(guide: Rc<Guide>, info: Rc<Connection>) -> Self {
        guide.under_way.set(guide.under_way.get() + 1);
        guide.awaiting.set(None);
        Self { guide, info }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = self.guide.under_way.get().saturating_sub(1);
        self.guide.under_way.set(left);
        if left == 0 {
            self.guide.served.set(true);
            self.guide.awaiting.set(Some(Instant::now()));
            if !self.info.h2.get() {
                self.info.head.begin();
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
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

pin_project_lite::pin_project! {
    /// A request under way: turns causes into answers.
    struct Answer<F> {
        #[pin]
        future: Option<F>,
        early: Option<Result<Response, Cause>>,
        call: Rc<Call>,
        under_way: Option<UnderWay>,
        guide: Rc<Guide>,
        all: Rc<Connections>,
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Answer<F> {
    type Output = Result<Response, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match (this.early.take(), this.future.as_pin_mut()) {
            (Some(early), _) => early,
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
            *this.guide.early.borrow_mut() = Some(this.call.clone());
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
