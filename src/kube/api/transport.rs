//! Connections to the API server.
//!
//! One HTTP/2 connection carries all watches, or several do when there are many; pings find out when its peer is gone.
//! A server that speaks HTTP/1.1 only (a proxy on loopback) gets a connection for each request.
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::kube::api::cluster::Cluster;
use crate::kube::api::error::Error;

/// Limit of connecting, the handshake included.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that could not be made is not tried again for so long: all who ask meanwhile, and all who waited for it,
/// hear the same.
const AGAIN: Duration = Duration::from_millis(500);
/// Limit to the head of an answer.
const HEAD: Duration = Duration::from_secs(30);
/// A connection on which nothing came for so long is asked for a sign of life (client-go: 30 s and 15 s).
const PING_AFTER: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(15);
/// Requests and watches that share a connection. Servers allow 250 and more; one that is beyond their limit would wait
/// for a watch to end.
const STREAMS: usize = 100;
/// What may be on its way to us unread: for one watch, and for all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// A request's body, whole.
#[derive(Debug, Default)]
pub(super) struct Payload(Option<Bytes>);

impl Payload {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Sends requests to one API server.
pub(super) struct Transport {
    cluster: Cluster,
    shared: RefCell<Vec<Shared>>,
    /// Held while connecting, so that watches which start together share what comes of it; the last failure, and when.
    connecting: Mutex<Option<(Instant, Error)>>,
}

/// A connection that is shared; whoever uses it holds its slot too.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<Payload>,
    slot: Rc<()>,
}

enum Sender {
    Shared(Shared),
    Own(http1::SendRequest<Payload>),
}

/// The body of an answer. While it is held, its connection has one stream less to give.
pub(super) struct Answer {
    body: Incoming,
    _slot: Option<Rc<()>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

impl Transport {
    pub(super) fn new(cluster: Cluster) -> Rc<Self> {
        Rc::new(Self { cluster, shared: RefCell::default(), connecting: Mutex::default() })
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Sends a request whose URI is a path with a query; the answer's body is still to come.
    pub(super) async fn send(&self, mut request: Request<Payload>) -> Result<Response<Answer>, Error> {
        if let Some(token) = self.cluster.bearer().map_err(Error::settings)? {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Error::settings("the token is no header value".to_owned()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let authority = self.cluster.authority();
        let path = format!("{}{}", self.cluster.prefix, request.uri());
        let sender = self.sender().await?;
        let answer = async {
            match sender {
                Sender::Shared(Shared { mut sender, slot }) => {
                    let uri = Uri::builder().scheme(self.cluster.scheme.clone()).authority(authority);
                    *request.uri_mut() = uri.path_and_query(path).build().map_err(Error::settings)?;
                    Ok((sender.send_request(request).await.map_err(Error::lost)?, Some(slot)))
                }
                Sender::Own(mut sender) => {
                    let host = HeaderValue::try_from(authority).map_err(Error::settings)?;
                    request.headers_mut().insert(HOST, host);
                    *request.uri_mut() = path.parse().map_err(Error::settings)?;
                    Ok((sender.send_request(request).await.map_err(Error::lost)?, None))
                }
            }
        };
        match tokio::time::timeout(HEAD, answer).await {
            Ok(answer) => answer.map(|(response, slot)| response.map(|body| Answer { body, _slot: slot })),
            Err(_) => Err(Error::lost(format!("no answer within {HEAD:?}"))),
        }
    }

    async fn sender(&self) -> Result<Sender, Error> {
        let asked = Instant::now();
        let mut failed = self.connecting.lock().await;
        let known = {
            let mut shared = self.shared.borrow_mut();
            shared.retain(|shared| !shared.sender.is_closed());
            shared.iter().find(|shared| Rc::strong_count(&shared.slot) <= STREAMS).cloned()
        };
        if let Some(mut shared) = known
            && std::future::poll_fn(|cx| shared.sender.poll_ready(cx)).await.is_ok()
        {
            return Ok(Sender::Shared(shared));
        }
        if let Some((at, error)) = &*failed
            && (*at > asked || at.elapsed() < AGAIN)
        {
            return Err(error.clone());
        }
        let connecting = tokio::time::timeout(CONNECT, Box::pin(self.connect())).await;
        let sender = match connecting.unwrap_or_else(|_| Err(Error::lost(format!("no connection within {CONNECT:?}"))))
        {
            Ok(sender) => sender,
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                return Err(error);
            }
        };
        if let Sender::Shared(shared) = &sender {
            self.shared.borrow_mut().push(shared.clone());
        }
        Ok(sender)
    }

    async fn connect(&self) -> Result<Sender, Error> {
        let Cluster { host, port, .. } = &self.cluster;
        let tls = self.cluster.tls().map_err(Error::settings)?;
        let tcp = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|error| Error::lost(format!("dial tcp {}: {error}", self.cluster.authority())))?;
        let _ = tcp.set_nodelay(true);
        let Some((config, name)) = tls else {
            return own(tcp).await;
        };
        let stream = tokio_rustls::TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|error| Error::lost(format!("TLS with {}: {error}", self.cluster.authority())))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => shared(stream).await,
            _ => own(stream).await,
        }
    }
}

async fn own(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Sender, Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Error::lost)?;
    tokio::task::spawn_local(async move {
        // Its end is seen by whoever waits for the answer.
        let _ = connection.await;
    });
    Ok(Sender::Own(sender))
}

async fn shared(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Sender, Error> {
    let (sender, connection) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Error::lost)?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(Sender::Shared(Shared { sender, slot: Rc::default() }))
}
