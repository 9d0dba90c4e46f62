//! One accepted stream to its end: TLS, finding out the protocol, requests, upgrades, and leaving politely.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use slab::Slab;
use tokio::io::{AsyncRead as _, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::call::{Call, Connection};
use super::cause::Cause;
use super::entrance::Entrance;
use super::h2_server::Http2;
use super::lines::{self, Lines};
use super::stream::{Socket, Stream};
use super::{Request, Response, limits, tunnel};
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

/// Whether an idle connection has given its buffers back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Park {
    No,
    /// It shall.
    Wanted,
    /// It has, or never does.
    Done,
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
            self.awaiting.set(Some(Instant::now()));
        }
        left == 0
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
    fn poll_unparked(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<bool> {
        self.register(cx);
        if self.order.get() > Order::Announce {
            return Poll::Ready(false);
        }
        stream.poll_readable(cx).map(|()| true)
    }

    /// Whether the connection may give its buffers back now: nobody has anything to say.
    fn may_park(&self, info: &Connection) -> bool {
        self.park.get() == Park::Wanted
            && self.under_way.get() == 0
            && info.quiet.get()
            && self.early.borrow().as_ref().is_none_or(|call| call.request_ended.get())
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

    /// Lets idle connections give their buffers back.
    /// Ends connections on which the first header block has been awaited for `header_time`, or nothing happened for `idle`.
    pub fn sweep(&self, now: Instant, header_time: Duration, idle: Option<Duration>) {
        for (_, guide) in &*self.guides.borrow() {
            let Some(since) = guide.awaiting.get() else { continue };
            guide.park_if(guide.served.get() && now.saturating_duration_since(since) > limits::PARK_AFTER);
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
    h2: h2::server::Builder,
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
        let mut h2 = h2::server::Builder::new();
        h2.max_concurrent_streams(settings.streams)
            .initial_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::H2_HEADER_LIST)
            .max_pending_accept_reset_streams(limits::PENDING_RESETS)
            .max_send_buffer_size(limits::SEND_BUFFER);
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
        let entrance = Entrance {
            stack: RefCell::new(self.stack.clone()),
            info: info.clone(),
            guide: guide.clone(),
            all: self.connections.clone(),
            told: self.told.clone(),
        };
        let mut told = Order::Serve;
        if h2 {
            guide.park.set(Park::Done);
            let connection = Box::new(Http2::new(&self.h2, stream, entrance));
            let _ = Driven { connection, guide, info, told: &mut told }.await;
        } else {
            self.serve_h1(stream, entrance, guide, info).await;
        }
    }

    async fn serve_h1(&self, mut stream: Stream, mut entrance: Entrance<S>, guide: Rc<Guide>, info: Rc<Connection>) {
        let mut told = Order::Serve;
        let (connection, result) = loop {
            guide.park.set(Park::No);
            let mut connection = Box::pin(self.h1.serve_connection(TokioIo::new(stream), entrance));
            let (guide, info) = (guide.clone(), info.clone());
            match (Driven { connection: &mut connection, guide: guide.clone(), info, told: &mut told }).await {
                Outcome::Ended(result) => break (connection, result),
                // Idle: hyper's buffers and state, two thirds of what a connection holds, are given back until there is
                // something to read.
                Outcome::Parked => {
                    guide.park.set(Park::Done);
                    let parts = Pin::into_inner(connection).into_parts();
                    (stream, entrance) = (parts.io.into_inner(), parts.service);
                    stream.unread(&parts.read_buf);
                }
            }
            if !std::future::poll_fn(|cx| guide.poll_unparked(&stream, cx)).await {
                let _ = stream.shutdown().await;
                return;
            }
        };
        let refused = result.as_ref().is_err_and(hyper::Error::is_parse);
        if refused {
            // hyper has answered by itself.
            self.told.answered(Cause::BadRequest("").token());
        }
        let Some(up) = info.tunnel.borrow_mut().take() else {
            // A response that was cut ends here and now.
            let unread = result.is_ok() && guide.early.take().is_some_and(|call| !call.request_ended.get());
            if refused || unread {
                Box::pin(linger(Pin::into_inner(connection).into_parts().io.into_inner(), &guide)).await;
            }
            return;
        };
        let Some((watches, websocket)) = up.1 else { return };
        let parts = Pin::into_inner(connection).into_parts();
        Box::pin(tunnel::run(parts.io.into_inner(), parts.read_buf, up.0, websocket, watches, guide)).await;
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

/// What the two kinds of connection have in common.
trait Drive {
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    fn finish(&mut self);
    /// Whether saying that we leave does not close what a caller may be about to use.
    const ANNOUNCES: bool;
}

impl<S> Drive for &mut Pin<Box<http1::Connection<TokioIo<Stream>, Entrance<S>>>>
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

impl<S> Drive for Box<Http2<S>>
where
    S: tower::Service<Request, Response = Response, Error = Cause>,
{
    const ANNOUNCES: bool = true;
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.poll(cx).map(Ok)
    }
    fn finish(&mut self) {
        Http2::finish(self);
    }
}

struct Driven<'a, C> {
    connection: C,
    guide: Rc<Guide>,
    info: Rc<Connection>,
    told: &'a mut Order,
}

/// Why a connection is not driven any more.
enum Outcome {
    Ended(hyper::Result<()>),
    /// It is idle and may give its buffers back.
    Parked,
}

impl<C: Drive + Unpin> Future for Driven<'_, C> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        this.guide.register(cx);
        let order = this.guide.order.get();
        if order > *this.told {
            *this.told = order;
            match order {
                Order::Leave => return Poll::Ready(Outcome::Ended(Ok(()))),
                Order::Announce if !C::ANNOUNCES => {}
                _ => this.connection.finish(),
            }
        }
        match this.connection.poll_drive(cx) {
            Poll::Ready(result) => Poll::Ready(Outcome::Ended(result)),
            Poll::Pending if this.guide.may_park(&this.info) => Poll::Ready(Outcome::Parked),
            Poll::Pending => Poll::Pending,
        }
    }
}
