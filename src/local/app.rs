//! The sample application: what a user container would be. `lockkeeper local` and the tests put it behind the queue.
//!
//! One port of loopback speaks HTTP/1.1 and HTTP/2 with prior knowledge. It runs on a thread of its own with a
//! single-threaded runtime, and ends with its [`App`] value.
//!
//! | path | answer |
//! |---|---|
//! | `/`, `/page...` | a greeting and the request's headers |
//! | `/echo` | the request's body, as it comes |
//! | `/bytes?n=` | that many zero bytes, with a `Content-Length` |
//! | `/sse?n=&ms=` | n events (0: endless), `ms` apart |
//! | `/slow?ms=` | a greeting, later |
//! | `/status?code=` | that status, empty |
//! | `/ws` | a WebSocket that echoes |
//! | `/grpc...` | the request's messages, then the trailer `grpc-status: 0` |
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::net::websocket;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A running sample application; dropping it stops it.
#[derive(Debug)]
pub struct App {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl App {
    /// Starts it on `listen` (port 0: any free one).
    ///
    /// # Errors
    /// When the address cannot be bound or the thread not started.
    pub fn start(listen: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("sample-app".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { addr, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// hyper's way to start tasks, on the thread that calls.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

async fn serve(listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(connection(stream))),
            // No descriptors left, most likely: others will end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut start = [0; PREFACE.len()];
    let http2 = loop {
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return,
            Ok(count) if start[..count] != PREFACE[..count] => break false,
            Ok(count) if count == PREFACE.len() => break true,
            // The rest of the preface is on its way; a peek would return at once with what is there.
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let io = TokioIo::new(stream);
    if http2 {
        let mut server = hyper::server::conn::http2::Builder::new(LocalExecutor);
        server.max_concurrent_streams(1000).initial_stream_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let _ = server.serve_connection(io, service_fn(answer)).await;
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(io, service_fn(answer)).with_upgrades().await;
    }
}

fn number(request: &Request<Incoming>, name: &str, default: u64) -> u64 {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then(|| value.parse().ok())?)
        .unwrap_or(default)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    if path.starts_with("/grpc") {
        let mut response = Response::new(Body::Grpc(Some(request.into_body())));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        return Ok(response);
    }
    Ok(match path {
        "/echo" => {
            let kind = request.headers().get(CONTENT_TYPE).cloned();
            let mut response = Response::new(Body::Echo(request.into_body()));
            if let Some(kind) = kind {
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
            response
        }
        "/bytes" => {
            let count = number(&request, "n", 1024);
            let mut response = Response::new(Body::Zeros(count));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(count));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            response
        }
        "/sse" => events(number(&request, "n", 3), Duration::from_millis(number(&request, "ms", 100))),
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number(&request, "ms", 1000))).await;
            text("slow but sure\n".to_owned())
        }
        "/status" => {
            let code = u16::try_from(number(&request, "code", 200)).unwrap_or(500);
            let mut response = Response::new(Body::Full(None));
            *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response
        }
        "/ws" => upgrade(request),
        page if page == "/" || page.starts_with("/page") => text(greeting(&request)),
        other => {
            let mut response = text(format!("nothing at {other}\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

fn greeting(request: &Request<Incoming>) -> String {
    let mut page =
        format!("hello from the sample application\n{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        page.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    page
}

fn text(page: String) -> Response<Body> {
    let mut response = Response::new(Body::Full(Some(page.into())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn events(count: u64, pause: Duration) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_local(async move {
        let mut number = 0;
        while count == 0 || number < count {
            if number > 0 {
                tokio::time::sleep(pause).await;
            }
            if sender.send(Bytes::from(format!("data: {number}\n\n"))).await.is_err() {
                return;
            }
            number += 1;
        }
    });
    let mut response = Response::new(Body::Events(receiver));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn upgrade(request: Request<Incoming>) -> Response<Body> {
    const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
    const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
    let key = request.headers().get(KEY).and_then(|key| key.to_str().ok()).map(websocket::accept);
    let Some(accept) = key.and_then(|key| HeaderValue::from_str(&key).ok()) else {
        let mut response = text("a WebSocket handshake belongs here\n".to_owned());
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return response;
    };
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let _ = echo_frames(TokioIo::new(upgraded)).await;
        }
    });
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(ACCEPT, accept);
    response
}

async fn echo_frames(mut stream: TokioIo<hyper::upgrade::Upgraded>) -> io::Result<()> {
    loop {
        let frame = websocket::read(&mut stream).await?;
        let opcode = if frame.opcode == websocket::PING { websocket::PONG } else { frame.opcode };
        websocket::write(&mut stream, opcode, &frame.payload, false).await?;
        if frame.opcode == websocket::CLOSE {
            return Ok(());
        }
    }
}

/// A response's body.
enum Body {
    Full(Option<Bytes>),
    Zeros(u64),
    Events(mpsc::Receiver<Bytes>),
    Echo(Incoming),
    Grpc(Option<Incoming>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Zeros(0) => Poll::Ready(None),
            Self::Zeros(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(ZEROS.len());
                *left -= count as u64;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS[..count])))))
            }
            Self::Events(events) => events.poll_recv(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Echo(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Grpc(incoming) => {
                let Some(messages) = incoming else { return Poll::Ready(None) };
                loop {
                    match ready!(Pin::new(&mut *messages).poll_frame(cx)) {
                        Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                        None => break,
                    }
                }
                *incoming = None;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Zeros(left) => *left == 0,
            _ => false,
        }
    }
}
