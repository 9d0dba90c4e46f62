//! Opening one connection to an upstream: TCP, and TLS where the upstream must prove who it is.
//!
//! Called by [`super::upstream`] when a pool has no connection left, and by [`super::replay`] when a pooled one turns out
//! to be dead. Data side. Connecting and shaking hands have a limit each: a slow handshake on a throttled pod is not
//! mistaken for a host that is not there. Whatever fails here has failed before a byte of a request was written, so the
//! request may go elsewhere.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::limits;
use super::local::Local;
use crate::tls;
use crate::tls::client::{Alpn, Connector};
use crate::tls::trust;
use crate::tls::verifier::ExpectedSan;

/// Where connections go, and what the other end has to prove.
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// TLS; none is plaintext.
    pub tls: Option<Tls>,
    /// How long TCP may take to connect; none is the kernel's limit.
    pub connect: Option<Rc<Patience>>,
    /// Longest time for the TLS handshake; none is no limit.
    pub handshake: Option<Duration>,
    /// For the application of this pod: how it is reached.
    pub local: Option<Rc<Local>>,
}

/// How long TCP may take to connect: six times what it took of late, so that a host that does not answer costs little
/// where networks are fast, and a slow network is not taken for one.
#[derive(Debug)]
pub struct Patience {
    most: Duration,
    slowest: Cell<Duration>,
}

impl Patience {
    const LEAST: Duration = Duration::from_millis(100);
    const FACTOR: u32 = 6;

    /// At most `most`, which also holds until something was measured.
    #[must_use]
    pub fn new(most: Duration) -> Self {
        Self { most, slowest: Cell::new(most) }
    }

    fn limit(&self) -> Duration {
        (self.slowest.get() * Self::FACTOR).max(Self::LEAST).min(self.most)
    }

    async fn wait(
        &self,
        connecting: impl Future<Output = io::Result<TcpStream>>,
    ) -> Result<io::Result<TcpStream>, Unreached> {
        let (limit, began) = (self.limit(), Instant::now());
        match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(socket)) => {
                // Falls within some connections, rises at once.
                self.slowest.set((self.slowest.get() / 2).max(began.elapsed()));
                Ok(Ok(socket))
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(_) => {
                self.slowest.set((self.slowest.get() * 2).max(Self::LEAST / Self::FACTOR).min(self.most));
                Err(Unreached::ConnectTimeout(limit))
            }
        }
    }
}

/// What a TLS upstream must prove, and to whom.
#[derive(Clone)]
pub struct Tls {
    /// Shakes hands.
    pub connector: Arc<Connector>,
    /// The store that the connector verifies with: says whether an older generation's verdict still counts.
    pub trust: Arc<trust::Store>,
    /// The exact name.
    pub expected: ExpectedSan,
}

/// Why there is no connection. No byte of a request was written.
#[derive(Debug, thiserror::Error)]
pub enum Unreached {
    /// TCP did not connect.
    #[error(transparent)]
    Refused(io::Error),
    /// TCP did not connect in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The handshake failed: the peer is not who it should be, or speaks no TLS.
    #[error("TLS handshake failed: {0}")]
    Handshake(tls::error::Error),
    /// The handshake was not over in time.
    #[error("TLS handshake not over within {0:?}")]
    HandshakeTimeout(Duration),
}

impl From<Unreached> for io::Error {
    fn from(error: Unreached) -> Self {
        match error {
            Unreached::Refused(error) => error,
            Unreached::ConnectTimeout(_) | Unreached::HandshakeTimeout(_) => {
                Self::new(io::ErrorKind::TimedOut, error.to_string())
            }
            Unreached::Handshake(_) => Self::new(io::ErrorKind::InvalidData, error.to_string()),
        }
    }
}

impl Target {
    /// A plaintext target without limits of its own.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, connect: None, handshake: None, local: None }
    }

    /// The application of this pod, in plaintext.
    #[must_use]
    pub fn local(local: Rc<Local>) -> Self {
        let address = local.address();
        Self { local: Some(local), ..Self::plain(address) }
    }

    /// Opens a connection. Returns the trust generation that verified the peer with it; 0 for plaintext.
    ///
    /// # Errors
    /// There is none.
    pub async fn dial(&self) -> Result<(Socket, u64), Unreached> {
        match &self.local {
            Some(local) => {
                let socket = local.connect().await.map_err(Unreached::Refused)?;
                Ok((Socket::Plain(socket), 0))
            }
            None => self.dial_now().await,
        }
    }

    /// As [`Self::dial`], without waiting for an application that restarts.
    ///
    /// # Errors
    /// There is none.
    pub async fn dial_now(&self) -> Result<(Socket, u64), Unreached> {
        if let Some(local) = &self.local {
            let socket = local.connect_now().await.map_err(Unreached::Refused)?;
            return Ok((Socket::Plain(socket), 0));
        }
        let connecting = TcpStream::connect(self.address);
        let connected = match &self.connect {
            None => connecting.await,
            Some(patience) => patience.wait(connecting).await?,
        };
        let socket = connected.map_err(Unreached::Refused)?;
        let _ = socket.set_nodelay(true);
        keep_alive(&socket);
        match &self.tls {
            None => Ok((Socket::Plain(socket), 0)),
            Some(tls) => Box::pin(tls.shake_hands(socket, self.address, self.handshake)).await,
        }
    }

    /// Whether what `generation` verified may go on.
    #[must_use]
    pub fn still_trusts(&self, generation: u64) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.trust.is_current(generation))
    }
}

/// A node that vanished says nothing: the kernel asks for a sign of life while a response is awaited and while the
/// connection is idle. No limit on what is sent and not taken, which the kernel would also apply to an application that
/// reads slowly.
fn keep_alive(socket: &TcpStream) {
    use rustix::net::sockopt;
    let _ = sockopt::set_socket_keepalive(socket, true)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, limits::KEEP_ALIVE))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, limits::KEEP_ALIVE))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, limits::KEEP_ALIVE_PROBES));
}

impl Tls {
    async fn shake_hands(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        limit: Option<Duration>,
    ) -> Result<(Socket, u64), Unreached> {
        // No protocol is offered: the protocol inside follows the request, as with the Go activator.
        let shaking = self.connector.connect(socket, address.ip(), &self.expected, Alpn::None);
        let connected = match limit {
            None => shaking.await,
            Some(limit) => {
                tokio::time::timeout(limit, shaking).await.map_err(|_| Unreached::HandshakeTimeout(limit))?
            }
        }
        .map_err(Unreached::Handshake)?;
        Ok((Socket::Tls(Box::new(connected.stream)), connected.generation))
    }
}

/// A connection to an upstream as bytes.
pub enum Socket {
    /// As it is.
    Plain(TcpStream),
    /// After a verified handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Whether the peer has reset the connection, as far as is known by now. Over TLS that is not looked at.
    #[must_use]
    pub fn was_reset(&self) -> bool {
        match self {
            Self::Plain(socket) => matches!(socket.take_error(), Ok(Some(_)) | Err(_)),
            Self::Tls(_) => false,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
