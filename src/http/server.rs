//! One accepted stream to its end: requests, upgrades, and leaving politely. How it begins is [`super::opening`], what its
//! worker tells it meanwhile [`super::guide`].

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::call::{Connection, Turn};
use super::cause::Cause;
use super::entrance::Entrance;
use super::guide::{Connections, Guide, Order, Park};
use super::h2_server::Http2;
use super::lines::{self, Lines};
use super::stream::Stream;
use super::{Request, Response, limits, opening, tunnel};

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
        h2.enable_connect_protocol()
            .max_concurrent_streams(settings.streams)
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
        let entered = self.connections.enter(info.clone());
        let guide = entered.guide.clone();
        // In boxes, here and below: what is over, or not there yet, takes no room in the task of an idle connection.
        let opening = Box::pin(opening::open(socket, &info, tls, &*self.told));
        let limit = tokio::time::timeout(self.settings.header_time, opening);
        let Ok(Some((socket, prefix, h2))) = limit.await else { return };
        guide.opened(info.certified.get());
        info.h2.set(h2);
        if !h2 {
            info.head.begin();
        }
        let lines = Lines::new(self.settings.header_lines.min(lines::MOST), self.settings.header_bytes).after(prefix);
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
            guide.set_park(Park::Done);
            let connection = Box::new(Http2::new(&self.h2, stream, entrance));
            let _ = Driven { connection, guide, info, told: &mut told }.await;
        } else {
            self.serve_h1(Box::new((stream, entrance)), guide, info).await;
        }
    }

    async fn serve_h1(&self, mut idle: Box<(Stream, Entrance<S>)>, guide: Rc<Guide>, info: Rc<Connection>) {
        let mut told = Order::Serve;
        loop {
            guide.set_park(Park::No);
            let mut connection = Box::pin(self.h1.serve_connection(TokioIo::new(idle.0), idle.1));
            let driven =
                Driven { connection: &mut connection, guide: guide.clone(), info: info.clone(), told: &mut told };
            match driven.await {
                Outcome::Ended(result) => return Box::pin(self.end_h1(connection, result, guide, info)).await,
                // hyper's buffers and state, two thirds of what a connection holds, are given back until there is
                // something to read.
                Outcome::Parked => idle = put_aside(connection),
            }
            guide.set_park(Park::Done);
            if !std::future::poll_fn(|cx| guide.poll_unparked(&idle.0, cx)).await {
                let _ = idle.0.shutdown().await;
                return;
            }
        }
    }

    async fn end_h1(
        &self,
        connection: Pin<Box<Http1<S>>>,
        result: hyper::Result<()>,
        guide: Rc<Guide>,
        info: Rc<Connection>,
    ) {
        let refused = result.as_ref().is_err_and(hyper::Error::is_parse);
        if let Err(error) = &result
            && refused
        {
            let cause = unreadable(error, info.unread.take());
            self.told.answered(cause.0.token());
            let mut stream = Pin::into_inner(connection).into_parts().io.into_inner();
            if cause.1 {
                info.turn.set(Turn::Answer);
                let _ = stream.write_all(&cause.0.respond_unread()).await;
                let _ = stream.shutdown().await;
            }
            return linger(stream, &guide).await;
        }
        let Some(up) = info.tunnel.borrow_mut().take() else {
            // A response that was cut ends here and now.
            let unread = result.is_ok() && guide.left_unread();
            if unread {
                linger(Pin::into_inner(connection).into_parts().io.into_inner(), &guide).await;
            }
            return;
        };
        let Some((watches, websocket)) = up.1 else { return };
        info.turn.set(Turn::Tunnel);
        let parts = Pin::into_inner(connection).into_parts();
        tunnel::run(parts.io.into_inner(), parts.read_buf, up.0, websocket, watches, guide).await;
    }
}

/// Why hyper could not read a request, and whether its own answer, of the status `held`, was held back. Without one it had
/// gone out behind another answer.
fn unreadable(error: &hyper::Error, held: Option<StatusCode>) -> (Cause, bool) {
    // hyper has no other way to tell.
    if error.to_string().contains("invalid transfer-encoding") {
        return (Cause::Coding, held.is_some());
    }
    (Cause::Unreadable(held.unwrap_or(StatusCode::BAD_REQUEST)), held.is_some())
}

type Http1<S> = http1::Connection<TokioIo<Stream>, Entrance<S>>;

/// An idle connection without its buffers.
fn put_aside<S>(connection: Pin<Box<Http1<S>>>) -> Box<(Stream, Entrance<S>)>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static,
{
    let parts = Pin::into_inner(connection).into_parts();
    let mut stream = parts.io.into_inner();
    stream.unread(&parts.read_buf);
    if !parts.read_buf.is_empty() {
        // The beginning of a head that came with what was before it.
        parts.service.info.head.comes();
    }
    Box::new((stream, parts.service))
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
    /// It has to end: whether it says goodbye first, and then ends by itself.
    fn leaves_later(&mut self) -> bool {
        false
    }
    /// Whether saying that we leave does not close what a caller may be about to use.
    const ANNOUNCES: bool;
}

impl<S> Drive for &mut Pin<Box<Http1<S>>>
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
    fn leaves_later(&mut self) -> bool {
        self.leave()
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
        let order = this.guide.told();
        if order > *this.told {
            *this.told = order;
            match order {
                Order::Leave if !this.connection.leaves_later() => return Poll::Ready(Outcome::Ended(Ok(()))),
                Order::Leave => {}
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
