//! A scripted application: raw TCP, so that it can do what no library would: cut bodies, reset, close at bad moments.
//!
//! The script runs once a connection, on a thread of its own. What was asked for is kept in order.
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::binary::socket_timeout;
use super::message::{Body, Head, Reader};
use super::port::free_listener;

/// A running application.
pub struct App {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    seen: Mutex<Vec<Head>>,
}

/// One connection, given to the script.
pub struct Conn {
    /// Its number, from 0.
    pub index: usize,
    reader: Reader<TcpStream>,
    state: Arc<State>,
}

impl App {
    /// Starts an application that runs `script` for each connection.
    pub fn start(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::listen(free_listener(), script)
    }

    /// The same on a given listener: for applications that come up late.
    pub fn listen(listener: TcpListener, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let script = Arc::new(script);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let index = shared.accepted.fetch_add(1, Ordering::SeqCst);
                shared.open.fetch_add(1, Ordering::SeqCst);
                let (script, state) = (script.clone(), shared.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let _ = stream.set_read_timeout(socket_timeout());
                    let mut conn = Conn { index, reader: Reader::new(stream), state };
                    script(&mut conn);
                });
            }
        });
        Self { address, state }
    }

    /// An application that answers every request on every connection with `respond`.
    pub fn each(respond: impl Fn(&Head, &[u8]) -> String + Send + Sync + 'static) -> Self {
        Self::start(move |conn| {
            while let Some((head, body)) = conn.request() {
                let answer = respond(&head, &body.bytes);
                conn.send(answer);
            }
        })
    }

    /// An application that answers `200 ok`.
    pub fn ok() -> Self {
        Self::each(|_, _| ok("ok"))
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The requests so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Head> {
        self.state.seen.lock().unwrap().clone()
    }

    /// How many requests came so far.
    pub fn count(&self) -> usize {
        self.state.seen.lock().unwrap().len()
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Head {
        self.seen().pop().expect("a request came")
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then ends and closes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

impl Conn {
    /// The socket, for whoever ends it from outside.
    pub fn socket(&self) -> TcpStream {
        self.reader.stream.try_clone().unwrap()
    }

    /// The next request's head; `None` once the peer has closed. Whoever asks for HTTP/2 is told, as a server of
    /// HTTP/1.1 does, that this is no request, and that is the end.
    pub fn head(&mut self) -> Option<Head> {
        let head = self.any_head()?;
        if head.line.starts_with("PRI * HTTP/2.0") {
            self.send(response("400 Bad Request", &[("Connection", "close")], ""));
            return None;
        }
        self.state.seen.lock().unwrap().push(head.clone());
        Some(head)
    }

    /// The next head as it came, be it HTTP/2's preface; it is not among those that were seen.
    pub fn any_head(&mut self) -> Option<Head> {
        self.reader.head()
    }

    /// The next request, whole.
    pub fn request(&mut self) -> Option<(Head, Body)> {
        let head = self.head()?;
        let body = self.reader.request_body(&head);
        Some((head, body))
    }

    /// Exactly that many bytes, fewer at the end.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.reader.bytes(count)
    }

    /// Whether the next byte comes within `limit`; false at the end, too.
    pub fn more_within(&mut self, limit: Duration) -> bool {
        let socket = &self.reader.stream;
        let _ = socket.set_read_timeout(Some(limit));
        let came = socket.peek(&mut [0]).is_ok_and(|count| count > 0);
        let _ = socket.set_read_timeout(socket_timeout());
        came
    }

    /// The rest of a request's body.
    pub fn body(&mut self, head: &Head) -> Body {
        self.reader.request_body(head)
    }

    /// Takes what is there, or waits for something; empty at the end.
    pub fn some(&mut self) -> Vec<u8> {
        self.reader.some()
    }

    /// A chunk of a chunked request.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        self.reader.chunk()
    }

    /// Writes bytes as they are. A peer that has gone is no error here.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.reader.stream.write_all(bytes.as_ref());
    }

    /// Writes bytes; false when the peer does not take them (in time).
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        let _ = self.reader.stream.set_write_timeout(socket_timeout());
        self.reader.stream.write_all(bytes).is_ok()
    }

    /// Waits until the peer has closed.
    pub fn wait_close(&mut self) {
        while !self.reader.some().is_empty() {}
    }

    /// Ends the connection with RST at the end of the script.
    pub fn reset(&mut self) {
        let _ = socket2::SockRef::from(&self.reader.stream).set_linger(Some(Duration::ZERO));
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.state.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A plain 200 with `body`.
pub fn ok(body: &str) -> String {
    response("200 OK", &[("Content-Type", "text/plain")], body)
}

/// A response with a `Content-Length`.
pub fn response(status: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n" + body
}
