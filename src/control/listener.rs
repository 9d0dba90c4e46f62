//! Small HTTP/1.1 servers of the control side: admin, statistics, metrics.
//!
//! As with Go's server there is a limit for the head of a request, and none for a connection that is idle between two:
//! Prometheus and the autoscaler come back on theirs. hyper's own limit would count from the end of the last answer.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::http::body::Body;
use crate::http::cause;
use crate::telemetry::log::Throttle;
use crate::tls;

/// A request to one of these servers.
pub type Request = http::Request<Incoming>;
/// What it answers.
pub type Response = http::Response<Body>;
/// Decides about requests; called on the control side.
pub type Handler = Rc<dyn Fn(Request, SocketAddr) -> Pin<Box<dyn Future<Output = Response>>>>;
/// The TLS settings of the moment; none while there is no certificate.
pub type TlsNow = Rc<dyn Fn() -> Option<Arc<rustls::ServerConfig>>>;

/// What a server speaks.
#[derive(Clone)]
pub enum Speaks {
    /// Plaintext alone.
    Plain,
    /// Plaintext, and TLS while there are settings for it: the first byte of a connection tells.
    Both(TlsNow),
    /// TLS alone.
    Tls(TlsNow),
}

/// What Go's server says to who speaks plaintext to a TLS port.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// One line a minute for each peer and reason of a handshake that failed.
static FAILURES: Throttle = Throttle::every(Duration::from_secs(60));

/// Binds `port` on `address`, or on all addresses, IPv6 and IPv4 (IPv4 alone where there is no IPv6).
///
/// # Errors
/// The port is taken or not allowed.
pub fn bind(address: Option<IpAddr>, port: u16) -> io::Result<std::net::TcpListener> {
    if let Some(address) = address {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        return listen(socket, SocketAddr::from((address, port)))?.into_std();
    }
    let v6 = TcpSocket::new_v6().and_then(|s| listen(s, SocketAddr::from(([0u16; 8], port))));
    let listener = match v6 {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(_) => listen(TcpSocket::new_v4()?, SocketAddr::from(([0u8; 4], port)))?,
    };
    listener.into_std()
}

/// Why a port cannot be opened, in Go's words.
#[must_use]
pub fn refusal(port: u16, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        _ => error.to_string(),
    };
    format!("listen tcp :{port}: {why}")
}

fn listen(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Serves until `stop` turns true. `header_time` is how long a handshake, and the head of a request, may take
/// ([`crate::http::limits::HEADER_TIME`] by default).
pub async fn serve(
    socket: std::net::TcpListener,
    speaks: Speaks,
    handler: Handler,
    header_time: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener could not be registered"),
    };
    loop {
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            taken = listener.accept() => taken,
        };
        match taken {
            Ok((stream, peer)) => {
                tokio::task::spawn_local(connection(stream, peer, speaks.clone(), handler.clone(), header_time));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(mut stream: TcpStream, peer: SocketAddr, speaks: Speaks, handler: Handler, header_time: Duration) {
    let mut first = [0];
    let peek = tokio::time::timeout(header_time, stream.peek(&mut first)).await;
    if !matches!(peek, Ok(Ok(1))) {
        return;
    }
    // The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
    let is_hello = first[0] == 0x16;
    let config = match &speaks {
        Speaks::Plain => None,
        Speaks::Both(now) if is_hello => now(),
        Speaks::Both(_) => None,
        Speaks::Tls(_) if !is_hello => {
            let _ = stream.write_all(NOT_TLS).await;
            return;
        }
        Speaks::Tls(now) => match now() {
            Some(config) => Some(config),
            None => return,
        },
    };
    let Some(config) = config else { return http(stream, peer, handler, header_time).await };
    let accept = tokio_rustls::TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(header_time, accept).await {
        Ok(Ok(stream)) => http(stream, peer, handler, header_time).await,
        Ok(Err(error)) if FAILURES.allows(&format!("{} {error}", peer.ip())) => {
            let error = tls::error::Error::from_io(&error);
            tracing::info!(cause = error.token(), "http: TLS handshake error from {peer}: {error}");
        }
        _ => {}
    }
}

async fn http<I: AsyncRead + AsyncWrite + Unpin>(io: I, peer: SocketAddr, handler: Handler, header_time: Duration) {
    let head = Rc::new(Head { since: Cell::new(Some(Instant::now())), answering: Cell::new(false) });
    let of = head.clone();
    let service = service_fn(move |request| {
        of.since.set(None);
        of.answering.set(true);
        let (answer, of) = (handler(request, peer), of.clone());
        async move {
            let mut answer = answer.await;
            of.answering.set(false);
            cause::name(&mut answer);
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(Watched { io, head: head.clone() });
    let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(io, service));
    let mut late = std::pin::pin!(tokio::time::sleep(header_time));
    let end = std::future::poll_fn(|cx| {
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        let Some(since) = head.since.get() else { return Poll::Pending };
        if late.deadline() != since + header_time {
            late.as_mut().reset(since + header_time);
        }
        late.as_mut().poll(cx).map(Ok)
    });
    if let Err(error) = end.await {
        tracing::debug!(%error, "a connection to the control side ended");
    }
}

/// What is known of the head of the next request.
struct Head {
    /// Since when it has been coming in; the first one is awaited from the beginning.
    since: Cell<Option<Instant>>,
    answering: Cell<bool>,
}

/// A connection that notices when a head begins to come in.
struct Watched<I> {
    io: I,
    head: Rc<Head>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let head = &self.head;
        if buf.filled().len() > before && !head.answering.get() && head.since.get().is_none() {
            head.since.set(Some(Instant::now()));
        }
        Poll::Ready(read)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
