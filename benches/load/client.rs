//! The load's side of connections: HTTP/1.1 by hand over plain sockets or TLS, HTTP/2 by hyper.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use http_body::Body as _;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use lockkeeper::local::pki::{Authority, Leaf, Mount};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::app::{BIG, LocalExecutor, Whole, content_length};

/// The host that is asked for; proxies' certificates have its name.
pub(crate) const HOST: &str = "hello.default.example.com";
/// The revision behind it, where requests name one.
pub(crate) const NAMESPACE: &str = "default";
pub(crate) const REVISION: &str = "hello-00001";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: hello.default.example.com\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n";
const GET_REVISION: &[u8] = b"GET / HTTP/1.1\r\nHost: hello.default.example.com\r\nUser-Agent: load\r\nAccept: */*\r\n\
    Knative-Serving-Namespace: default\r\nKnative-Serving-Revision: hello-00001\r\n\r\n";
pub(crate) const GET_BIG: &[u8] = b"GET /big HTTP/1.1\r\nHost: hello.default.example.com\r\nUser-Agent: load\r\n\r\n";

/// The small request of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// As callers send it.
    Plain,
    /// As the gateway sends it on: it names the revision.
    Revision,
}

impl Ask {
    pub(crate) fn http1(self) -> &'static [u8] {
        match self {
            Self::Plain => GET,
            Self::Revision => GET_REVISION,
        }
    }

    fn http2(self) -> http::Request<Whole> {
        let mut request = http::Request::get("http://hello.default.example.com/");
        if self == Self::Revision {
            request =
                request.header("knative-serving-namespace", NAMESPACE).header("knative-serving-revision", REVISION);
        }
        request.body(Whole::new(b"")).unwrap()
    }
}

/// Certificates for all proxies and applications, and how the load checks them.
pub(crate) struct Tls {
    h1: TlsConnector,
    h2: TlsConnector,
    pub(crate) authority: Authority,
    /// With every name that anybody looks for.
    pub(crate) leaf: Leaf,
}

impl Tls {
    /// Mints a certificate into `dir`: `tls.crt`, `tls.key`, `ca.crt`, and `pair.pem` for HAProxy.
    ///
    /// One key exchange for all, X25519: the peers' libraries know no other that lockkeeper prefers. No session is
    /// resumed, so that each handshake is a whole one.
    pub(crate) fn mint(dir: &Path) -> io::Result<Self> {
        let authority = Authority::mint("load")?;
        let leaf = authority.leaf(&["kn-user-default", "kn-routing", "data-plane.knative.dev", HOST], 1)?;
        let pair = format!("{}{}", leaf.chain, leaf.key);
        Mount::create(dir)?.publish(&[
            ("tls.crt", leaf.chain.as_bytes()),
            ("tls.key", leaf.key.as_bytes()),
            ("ca.crt", authority.pem().as_bytes()),
            ("pair.pem", pair.as_bytes()),
        ])?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().to_vec().into()).map_err(io::Error::other)?;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
        let config = |alpn: &[u8]| {
            let mut config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            config.resumption = Resumption::disabled();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Self { h1: config(b"http/1.1"), h2: config(b"h2"), authority, leaf })
    }

    /// What an application serves TLS with.
    pub(crate) fn acceptor(&self) -> io::Result<TlsAcceptor> {
        let chain = CertificateDer::pem_slice_iter(self.leaf.chain.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.leaf.key.as_bytes()).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(chain.map_err(io::Error::other)?, key)
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    async fn connect(connector: &TlsConnector, port: u16, name: &str) -> io::Result<Pin<Box<dyn Io>>> {
        let socket = dial(port).await?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(Box::pin(connector.connect(name, socket).await?))
    }
}

/// Where the files are that [`Tls::mint`] made in the run's directory.
pub(crate) fn certificates(dir: &Path) -> PathBuf {
    dir.join("certs")
}

async fn dial(port: u16) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A byte stream.
pub(crate) trait Io: AsyncRead + AsyncWrite {}
impl<T: AsyncRead + AsyncWrite> Io for T {}

/// An HTTP/1.1 connection.
pub(crate) struct H1 {
    stream: Pin<Box<dyn Io>>,
    buffer: Vec<u8>,
}

impl H1 {
    /// Plain without `tls`.
    pub(crate) async fn open(port: u16, tls: Option<&Tls>) -> io::Result<Self> {
        let stream: Pin<Box<dyn Io>> = match tls {
            Some(tls) => Tls::connect(&tls.h1, port, HOST).await?,
            None => Box::pin(dial(port).await?),
        };
        Ok(Self { stream, buffer: vec![0; 16 * 1024] })
    }

    /// Over TLS, as a caller of `host`.
    pub(crate) async fn open_as(port: u16, tls: &Tls, host: &str) -> io::Result<Self> {
        Ok(Self { stream: Tls::connect(&tls.h1, port, host).await?, buffer: vec![0; 16 * 1024] })
    }

    /// Sends a request and reads its answer to the end; the length of its body.
    ///
    /// # Errors
    /// Anything but a whole answer with status 200.
    pub(crate) async fn fetch(&mut self, request: &[u8]) -> io::Result<usize> {
        self.send(request).await?;
        self.answer().await
    }

    /// Sends a request and reads nothing.
    ///
    /// # Errors
    /// When it can't be sent.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await
    }

    /// Sends a large body and reads the answer.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub(crate) async fn upload(&mut self, piece: &[u8]) -> io::Result<usize> {
        let head = format!("POST /upload HTTP/1.1\r\nHost: hello.default.example.com\r\nContent-Length: {BIG}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        for _ in 0..BIG / piece.len() {
            self.stream.write_all(piece).await?;
        }
        self.stream.flush().await?;
        self.answer().await
    }

    /// Reads an answer to its end.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub(crate) async fn answer(&mut self) -> io::Result<usize> {
        let mut filled = 0;
        let head = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(at) = self.buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
        };
        if !self.buffer.starts_with(b"HTTP/1.1 200") {
            let line = self.buffer.split(|byte| *byte == b'\r').next().unwrap_or_default();
            return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
        }
        let length = content_length(&self.buffer[..head]).ok_or_else(|| io::Error::other("no length"))?;
        let mut left = length.saturating_sub(filled - head);
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left = left.saturating_sub(read);
        }
        Ok(length)
    }
}

/// The certificate that is shown to a caller of `host`.
pub(crate) async fn shown(tls: &Tls, port: u16, host: &str) -> io::Result<CertificateDer<'static>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connection = tls.h1.connect(name, dial(port).await?).await?;
    let leaf = connection.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or_else(|| io::Error::other("no certificate"))?;
    Ok(leaf.clone().into_owned())
}

/// A stream's worth of an HTTP/2 connection; clones share the connection.
#[derive(Clone)]
pub(crate) struct H2(SendRequest<Whole>, Ask);

impl H2 {
    /// With prior knowledge in plaintext without `tls`.
    pub(crate) async fn open(port: u16, tls: Option<&Tls>, ask: Ask) -> io::Result<Self> {
        let stream: Pin<Box<dyn Io>> = match tls {
            Some(tls) => Tls::connect(&tls.h2, port, HOST).await?,
            None => Box::pin(dial(port).await?),
        };
        let (send, connection) = hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::task::spawn_local(connection);
        Ok(Self(send, ask))
    }

    /// # Errors
    /// Anything but a whole answer with status 200.
    pub(crate) async fn fetch(&mut self) -> io::Result<()> {
        self.0.ready().await.map_err(io::Error::other)?;
        let response = self.0.send_request(self.1.http2()).await.map_err(io::Error::other)?;
        if response.status() != http::StatusCode::OK {
            return Err(io::Error::other(response.status().to_string()));
        }
        let mut body = response.into_body();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            frame.map_err(io::Error::other)?;
        }
        Ok(())
    }
}
