//! A small HTTP client that says what it verified: `local --check` and the tests look at the queue through it.
//!
//! One [`Connection`] is one TCP connection, plain or TLS, HTTP/1.1 or HTTP/2. Must be called inside a `LocalSet`.
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::local::app::LocalExecutor;
use crate::tls::error::Error;
use crate::tls::verifier::{ExpectedSan, Verifier};

/// HTTP/1.1 or HTTP/2 (over TLS by ALPN, else with prior knowledge).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How to check the server.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The only certificate authorities that count, DER.
    pub roots: Vec<Vec<u8>>,
    /// The DNS name that the certificate must hold.
    pub name: String,
    /// How that is compared.
    pub comparison: Comparison,
    /// The TLS versions offered.
    pub versions: &'static [&'static SupportedProtocolVersion],
}

/// How the name that is expected is compared with those of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// As any client of the web compares a host, with wildcards; the host is sent as the server name.
    Host,
    /// As the roles compare each other's names ([`crate::tls::verifier`]): exactly, also one that is longer than a DNS label
    /// may be. No server name is sent, as the gateway does it.
    Exact,
}

impl Trust {
    /// TLS 1.2 and 1.3, the host `name` expected under `root`.
    #[must_use]
    pub fn new(root: &[u8], name: &str) -> Self {
        let (roots, name) = (vec![root.to_vec()], name.to_owned());
        Self { roots, name, comparison: Comparison::Host, versions: rustls::ALL_VERSIONS }
    }

    /// As [`Trust::new`], with exactly `name`.
    #[must_use]
    pub fn exact(root: &[u8], name: &str) -> Self {
        Self { comparison: Comparison::Exact, ..Self::new(root, name) }
    }

    fn config(&self, protocol: Protocol) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(CertificateDer::from(root.clone())).map_err(io::Error::other)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .map_err(io::Error::other)?;
        let mut config = match self.comparison {
            Comparison::Host => builder.with_root_certificates(roots),
            Comparison::Exact => {
                let verifier = Verifier::new(Arc::new(roots), ExpectedSan::new(&self.name), algorithms);
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        }
        .with_no_client_auth();
        config.alpn_protocols = vec![match protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        Ok(config)
    }

    /// The server name for the hello of a connection to `addr`. An address is not sent.
    fn server_name(&self, addr: SocketAddr) -> io::Result<ServerName<'static>> {
        match self.comparison {
            Comparison::Host => ServerName::try_from(self.name.clone()).map_err(io::Error::other),
            Comparison::Exact => Ok(ServerName::from(addr.ip())),
        }
    }
}

/// What the handshake verified.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The TLS version, such as `TLSv1_3`.
    pub version: String,
    /// The key exchange group, such as `X25519MLKEM768`.
    pub group: String,
    /// The leaf's serial number, hexadecimal.
    pub serial: String,
    /// The leaf's DNS names.
    pub names: Vec<String>,
}

/// A request's body: a channel of frames; closing the sender ends it.
#[derive(Debug)]
pub struct Outgoing(mpsc::Receiver<Frame<Bytes>>);

impl Outgoing {
    /// A body that is sent as `sender` gets it.
    #[must_use]
    pub fn stream() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(receiver))
    }

    /// A whole body; empty: none.
    #[must_use]
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let (sender, receiver) = mpsc::channel(1);
        if !bytes.is_empty() {
            let _ = sender.try_send(Frame::data(bytes));
        }
        Self(receiver)
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.get_mut().0.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

enum Sender {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

/// An open connection.
pub struct Connection {
    sender: Sender,
    /// What the handshake verified; `None` without TLS.
    pub peer: Option<Peer>,
}

/// A response that came in whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers, if any came.
    pub trailers: Option<HeaderMap>,
}

/// A TCP connection, with TLS over it if `trust` is given, and what that verified.
///
/// # Errors
/// When the connection or the handshake fails; the error begins with the token of [`crate::tls::error::Reason`].
pub async fn dial(
    addr: SocketAddr,
    trust: Option<&Trust>,
    protocol: Protocol,
) -> io::Result<(Pin<Box<dyn Io>>, Option<Peer>)> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let Some(trust) = trust else { return Ok((Box::pin(stream), None)) };
    let connector = TlsConnector::from(Arc::new(trust.config(protocol)?));
    let tls = connector.connect(trust.server_name(addr)?, stream).await.map_err(|error| in_words(&error))?;
    let peer = peer(tls.get_ref().1)?;
    Ok((Box::pin(tls), Some(peer)))
}

/// Why a handshake failed: the word that the roles have for it in logs and metrics, and the reason.
fn in_words(error: &io::Error) -> io::Error {
    let why = Error::from_io(error);
    io::Error::new(error.kind(), format!("{}: {why}", why.token()))
}

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

fn peer(session: &rustls::ClientConnection) -> io::Result<Peer> {
    let leaf = session.peer_certificates().and_then(<[_]>::first).ok_or_else(|| io::Error::other("no certificate"))?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(io::Error::other)?;
    let names = leaf.subject_alternative_name().ok().flatten().map(|extension| {
        let names = extension.value.general_names.iter();
        names
            .filter_map(|name| match name {
                x509_parser::prelude::GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect()
    });
    Ok(Peer {
        version: session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
        group: session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())).unwrap_or_default(),
        serial: leaf.serial.to_str_radix(16),
        names: names.unwrap_or_default(),
    })
}

impl Connection {
    /// Connects, shakes hands and drives the connection on this thread.
    ///
    /// # Errors
    /// When the connection or one of the handshakes fails.
    pub async fn open(addr: SocketAddr, trust: Option<&Trust>, protocol: Protocol) -> io::Result<Self> {
        let (stream, peer) = dial(addr, trust, protocol).await?;
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::task::spawn_local(connection.with_upgrades());
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(LocalExecutor, io).await.map_err(io::Error::other)?;
                tokio::task::spawn_local(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender, peer })
    }

    /// Sends a request; returns when the response's header is there.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn send(&mut self, request: Request<Outgoing>) -> io::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await
            }
        }
        .map_err(io::Error::other)
    }

    /// Sends a request and reads the response to its end.
    ///
    /// # Errors
    /// When the connection fails, also in the middle of the response.
    pub async fn fetch(&mut self, request: Request<Outgoing>) -> io::Result<Answer> {
        let response = self.send(request).await?;
        read(response).await
    }

    /// A `GET` of `path` at `host`.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<Answer> {
        self.fetch(self.request("GET", host, path).body(Outgoing::whole("")).map_err(io::Error::other)?).await
    }

    /// The start of a request in this connection's form: HTTP/2 wants the authority in the target.
    #[must_use]
    pub fn request(&self, method: &str, host: &str, path: &str) -> http::request::Builder {
        let builder = Request::builder().method(method);
        match self.sender {
            Sender::Http1(_) => builder.uri(path).header("host", host),
            Sender::Http2(_) => builder.uri(format!("http://{host}{path}")),
        }
    }
}

/// Reads a response to its end.
///
/// # Errors
/// When it does not end properly.
pub async fn read(response: Response<Incoming>) -> io::Result<Answer> {
    let (head, mut body) = response.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), trailers: None };
    while let Some(frame) = frame(&mut body).await? {
        match frame.into_data() {
            Ok(data) => answer.body.extend_from_slice(&data),
            Err(frame) => answer.trailers = frame.into_trailers().ok(),
        }
    }
    Ok(answer)
}

/// The next frame of a body, `None` at its proper end.
///
/// # Errors
/// When the body is cut.
pub async fn frame(body: &mut Incoming) -> io::Result<Option<Frame<Bytes>>> {
    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.transpose().map_err(io::Error::other)
}
