//! Clients: raw bytes over plain TCP or TLS (blocking), and HTTP/2 over the product's own small client.
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::binary::socket_timeout;
use super::message::{Body, Head, Reader};

/// Anything that carries bytes.
pub trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

/// A connection that sends what it is told, byte for byte.
pub struct Raw {
    reader: Reader<Box<dyn Bytes>>,
    socket: TcpStream,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status line and headers.
    pub head: Head,
    /// The body and how it ended.
    pub body: Body,
}

impl Reply {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }

    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }
}

/// What came of one connection: the statuses of its answers, and what the application saw meanwhile.
#[derive(Clone, Debug)]
pub struct Connected {
    /// In order.
    pub statuses: Vec<u16>,
    /// Requests at the application.
    pub seen: Vec<Head>,
}

/// The loopback address with `port`.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Raw {
    /// A plain connection.
    #[track_caller]
    pub fn plain(port: u16) -> Self {
        Self::plain_at(local(port))
    }

    /// A plain connection to any address.
    #[track_caller]
    pub fn plain_at(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).expect("the port is open"))
    }

    /// A plain connection that is open.
    pub fn over(socket: TcpStream) -> Self {
        let _ = socket.set_nodelay(true);
        socket.set_read_timeout(socket_timeout()).unwrap();
        Self { reader: Reader::new(Box::new(socket.try_clone().unwrap())), socket }
    }

    /// A TLS connection; the handshake happens with the first byte.
    #[track_caller]
    pub fn tls(port: u16, config: ClientConfig, name: &str) -> Self {
        Self::tls_over(TcpStream::connect(local(port)).expect("the port is open"), config, name)
    }

    /// The same on a connection that is open, on which something may have been said before.
    pub fn tls_over(socket: TcpStream, config: ClientConfig, name: &str) -> Self {
        socket.set_read_timeout(socket_timeout()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = StreamOwned::new(session, socket.try_clone().unwrap());
        Self { reader: Reader::new(Box::new(stream)), socket }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.reader.stream.write_all(bytes.as_ref());
        let _ = self.reader.stream.flush();
        self
    }

    /// Sends a `GET` with `headers` (each line ended by CRLF).
    pub fn get(&mut self, path: &str, headers: &str) -> &mut Self {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: hello.example.com\r\n{headers}\r\n"))
    }

    /// Sends a `POST` with a body.
    pub fn post(&mut self, path: &str, body: &str) -> &mut Self {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: hello.example.com\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    /// The next head, interim ones too.
    pub fn head(&mut self) -> Option<Head> {
        self.reader.head()
    }

    /// The next response, interim ones skipped; `None` when the connection ended first.
    pub fn try_reply(&mut self) -> Option<Reply> {
        loop {
            let head = self.reader.head()?;
            if (100..200).contains(&head.status()) && head.status() != 101 {
                continue;
            }
            let body = self.reader.response_body(&head, "GET");
            return Some(Reply { head, body });
        }
    }

    /// The next response.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a response and not the end of the connection")
    }

    /// The next response, if its first byte comes within `limit`.
    pub fn reply_within(&mut self, limit: Duration) -> Option<Reply> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let came = self.socket.peek(&mut [0]).is_ok_and(|count| count > 0);
        self.socket.set_read_timeout(socket_timeout()).unwrap();
        if came { self.try_reply() } else { None }
    }

    /// One chunk of a response whose head was read.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        self.reader.chunk()
    }

    /// Exactly that many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.reader.bytes(count)
    }

    /// Whether the peer closes without another byte.
    pub fn closes(&mut self) -> bool {
        self.reader.some().is_empty()
    }

    /// Whether the peer has closed or reset it by now, with nothing to be read before.
    pub fn is_closed(&mut self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let closed = match self.socket.peek(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        self.socket.set_nonblocking(false).unwrap();
        closed
    }

    /// Half-closes, then reads what still comes.
    pub fn shutdown_and_read(&mut self) -> Option<Reply> {
        self.shutdown();
        self.try_reply()
    }

    /// When it is dropped, the connection is reset and not closed.
    pub fn reset_on_close(&self) {
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Half-closes.
    pub fn shutdown(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }
}

/// One `GET` on a connection of its own.
#[track_caller]
pub fn get(port: u16, path: &str, headers: &str) -> Reply {
    Raw::plain(port).get(path, headers).reply()
}

/// One request of raw bytes on a connection of its own.
#[track_caller]
pub fn exchange(port: u16, request: &str) -> Reply {
    Raw::plain(port).send(request).reply()
}

/// Runs a future on a runtime of its own, for clients that are asynchronous.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    run_for(super::wait::patience(), future)
}

/// The same for futures that take longer than the usual patience.
pub fn run_for<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(limit, future).await.expect("done in time") })
}

/// Why the peer reset an HTTP/2 stream, if that is what the error says.
pub fn reset_reason(error: &std::io::Error) -> Option<h2::Reason> {
    let mut source = error.get_ref().map(|error| error as &(dyn std::error::Error + 'static));
    while let Some(error) = source {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.reason();
        }
        source = error.source();
    }
    None
}
