//! Small HTTP/1.1 servers of the control side: admin, statistics, metrics.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::http::body::Body;
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

/// How long a header block may take (`ReadHeaderTimeout` in `pkg/queue/sharedmain`).
const HEADER_TIME: Duration = Duration::from_secs(60);
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

/// Serves until `stop` turns true.
pub async fn serve(socket: std::net::TcpListener, speaks: Speaks, handler: Handler, mut stop: watch::Receiver<bool>) {
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
                tokio::task::spawn_local(connection(stream, peer, speaks.clone(), handler.clone()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(mut stream: TcpStream, peer: SocketAddr, speaks: Speaks, handler: Handler) {
    let mut first = [0];
    let peek = tokio::time::timeout(HEADER_TIME, stream.peek(&mut first)).await;
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
    let Some(config) = config else { return http(TokioIo::new(stream), peer, handler).await };
    let accept = tokio_rustls::TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(HEADER_TIME, accept).await {
        Ok(Ok(stream)) => http(TokioIo::new(stream), peer, handler).await,
        Ok(Err(error)) if FAILURES.allows(&format!("{} {error}", peer.ip())) => {
            let error = tls::error::Error::from_io(&error);
            tracing::info!(cause = error.token(), "http: TLS handshake error from {peer}: {error}");
        }
        _ => {}
    }
}

async fn http<I: hyper::rt::Read + hyper::rt::Write + Unpin>(io: I, peer: SocketAddr, handler: Handler) {
    let service = service_fn(move |request| {
        let answer = handler(request, peer);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).serve_connection(io, service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the control side ended");
    }
}
