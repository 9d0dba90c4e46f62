//! The application behind the proxies: cheap, so that the CPU that it shares with the load is left to the load.
//!
//! HTTP/1.1 is answered by hand: `GET /big` with [`BIG`] bytes, an activator's probe as a queue answers it, everything
//! else with a line, once the request's body has come in. HTTP/2 with prior knowledge, or over TLS, goes to hyper.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Bytes of a large body.
pub(crate) const BIG: usize = 10 * 1024 * 1024;

const GREETING: &[u8] = b"hello knative\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nhello knative\n";
const OTHER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nother\n";
const PROBED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const PIECE: usize = 64 * 1024;

/// hyper's way to start tasks, on the thread that calls.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// The running application; it lives as long as the process.
pub(crate) struct App {
    port: u16,
}

impl App {
    /// On a free port of 127.0.0.1, in plaintext.
    pub(crate) fn start() -> io::Result<Self> {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), None)
    }

    /// Lengths of answers.
    pub(crate) const GREETING_LENGTH: usize = GREETING.len();
    pub(crate) const OTHER_LENGTH: usize = 6;

    /// Another one, to be told from the first by the length of its answers.
    pub(crate) fn other() -> io::Result<Self> {
        Self::answering((Ipv4Addr::LOCALHOST, 0).into(), None, OTHER)
    }

    /// On any address; over TLS with `tls`.
    pub(crate) fn listen(address: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        Self::answering(address, tls, ANSWER)
    }

    fn answering(address: SocketAddr, tls: Option<TlsAcceptor>, answer: &'static [u8]) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("app".to_owned()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    if let Ok((socket, _)) = listener.accept().await {
                        let _ = socket.set_nodelay(true);
                        tokio::task::spawn_local(serve(socket, tls.clone(), answer));
                    }
                }
            });
        })?;
        Ok(Self { port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

async fn serve(socket: TcpStream, tls: Option<TlsAcceptor>, answer: &'static [u8]) -> io::Result<()> {
    match tls {
        None => sniff(socket, answer).await,
        Some(tls) => sniff(tls.accept(socket).await?, answer).await,
    }
}

/// Tells HTTP/2 with prior knowledge from HTTP/1.1, as a queue does; ALPN says nothing where callers offer none.
async fn sniff(mut socket: impl AsyncRead + AsyncWrite + Unpin + 'static, answer: &'static [u8]) -> io::Result<()> {
    let mut start = Vec::new();
    while start.len() < PREFACE.len() && PREFACE.starts_with(&start) {
        if socket.read_buf(&mut start).await? == 0 {
            return Ok(());
        }
    }
    if !start.starts_with(PREFACE) {
        return http1(&mut socket, &start, answer).await;
    }
    let (read, write) = tokio::io::split(socket);
    http2(tokio::io::join(io::Cursor::new(start).chain(read), write)).await;
    Ok(())
}

async fn http2(socket: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let mut server = hyper::server::conn::http2::Builder::new(LocalExecutor);
    server.max_concurrent_streams(1000);
    let answer = service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(Whole::new(GREETING))) });
    let _ = server.serve_connection(TokioIo::new(socket), answer).await;
}

/// `start` is what has been read.
async fn http1(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), start: &[u8], answer: &[u8]) -> io::Result<()> {
    let piece = vec![b'x'; PIECE];
    let mut buffer = vec![0; PIECE];
    buffer[..start.len()].copy_from_slice(start);
    let mut filled = start.len();
    loop {
        let Some(head) = buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4) else {
            let read = socket.read(&mut buffer[filled..]).await?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            continue;
        };
        let big = buffer.starts_with(b"GET /big");
        // The path of probes; no request of the load has it.
        let probe = buffer.starts_with(b"GET /healthz");
        let length = content_length(&buffer[..head]).unwrap_or(0);
        let here = length.min(filled - head);
        buffer.copy_within(head + here..filled, 0);
        filled -= head + here;
        let mut left = length - here;
        while left > 0 {
            let most = left.min(PIECE);
            let read = socket.read(&mut buffer[..most]).await?;
            if read == 0 {
                return Ok(());
            }
            left -= read;
        }
        if big {
            socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n").as_bytes()).await?;
            for _ in 0..BIG / PIECE {
                socket.write_all(&piece).await?;
            }
        } else {
            socket.write_all(if probe { PROBED } else { answer }).await?;
        }
        // TLS may hold back what it could not write at once.
        socket.flush().await?;
    }
}

/// The value of `Content-Length` in a header block.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME)))?;
    std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok()
}

/// A body that is there whole; or none.
pub(crate) struct Whole(Option<Bytes>);

impl Whole {
    pub(crate) fn new(bytes: &'static [u8]) -> Self {
        Self((!bytes.is_empty()).then(|| Bytes::from_static(bytes)))
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
