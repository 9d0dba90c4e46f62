//! What is known of one request beside the message: its connection, its clock, what went through.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderName, HeaderValue, StatusCode};

use super::body::Watches;
use super::departure::Departure;
use super::headers::{self, Has};
use super::lines::Head;
use super::stream::Interim;
use super::tunnel::Ready;
use crate::telemetry::request_log::TlsFacts;
use crate::telemetry::trace::RequestTrace;
use crate::worker::PortId;

/// The upstream half of an upgrade, and once its answer is on its way what was tied to that and whether it is a WebSocket.
pub type Upgrade = (Ready, Option<(Watches, bool)>);

/// Whose turn it is on an HTTP/1.1 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The caller's: there is nothing to answer. What hyper writes now is its own answer to what it could not read.
    Caller,
    /// A request is being answered.
    Answer,
    /// The answer is complete, but maybe not written yet.
    Rest,
    /// Nobody's: it is not HTTP any more.
    Tunnel,
}

/// One downstream connection, shared by its requests.
pub struct Connection {
    /// The caller's address.
    pub peer: SocketAddr,
    /// The caller's IP as the value of `X-Forwarded-For`.
    pub peer_ip: HeaderValue,
    /// Whether the connection came in over TLS.
    pub tls: bool,
    /// The listener it came in by.
    pub port: PortId,
    /// What the handshake came to; nothing before its end and over plaintext.
    pub negotiated: OnceCell<TlsFacts>,
    /// Whether the caller has shown a certificate that was verified.
    pub certified: Cell<bool>,
    /// Whether the connection speaks HTTP/2.
    pub h2: Cell<bool>,
    /// Requests' heads as they come in (HTTP/1.1 only).
    pub head: Head,
    /// The server name of the caller's TLS hello, in lower case.
    pub server_name: OnceCell<Box<str>>,
    /// Whose turn it is to speak (HTTP/1.1 only).
    pub turn: Cell<Turn>,
    /// The status of an answer that hyper made by itself and that was held back: to what it could not read (HTTP/1.1 only).
    pub unread: Cell<Option<StatusCode>>,
    /// The last look found nothing to read, and nothing waits to be written.
    pub quiet: Cell<bool>,
    /// Interim responses and trailers on their way to the caller (HTTP/1.1 only).
    pub interim: Rc<Interim>,
    /// A response of unknown length goes to the caller in chunks (HTTP/1.1 only).
    pub chunks: Cell<bool>,
    /// Whether the caller leaves while nobody reads (HTTP/1.1 only).
    pub departure: Departure,
    /// The upstream half of an upgrade that was answered with 101 (HTTP/1.1 only); once the answer is on its way also what
    /// was tied to its body, and whether the protocol is WebSocket.
    pub tunnel: RefCell<Option<Box<Upgrade>>>,
}

impl Connection {
    /// A connection from `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr, tls: bool, port: PortId) -> Self {
        // A dual-stack listener gives IPv4 callers as ::ffff:a.b.c.d.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let ip = peer.ip().to_string();
        Self {
            peer,
            peer_ip: HeaderValue::try_from(ip).unwrap_or(HeaderValue::from_static("unknown")),
            tls,
            port,
            negotiated: OnceCell::new(),
            certified: Cell::new(false),
            h2: Cell::new(false),
            head: Head::default(),
            server_name: OnceCell::new(),
            turn: Cell::new(Turn::Caller),
            unread: Cell::new(None),
            quiet: Cell::new(false),
            interim: Rc::default(),
            chunks: Cell::new(false),
            departure: Departure::default(),
            tunnel: RefCell::default(),
        }
    }
}

/// An upstream that a request was offered to.
#[derive(Clone, Copy, Debug)]
pub struct Offered {
    /// Where.
    pub address: SocketAddr,
    /// Whether over TLS.
    pub tls: bool,
    /// When.
    pub since: Instant,
}

/// One request.
pub struct Call {
    /// The connection it came by.
    pub connection: Rc<Connection>,
    /// When its header had come in.
    pub started: Instant,
    /// Bytes of the request's body that were read.
    pub request_bytes: Cell<u64>,
    /// Whether the request's body has been read to its end.
    pub request_ended: Cell<bool>,
    /// Whether the caller may be told to send its body (`Expect: 100-continue`).
    pub go_ahead: Cell<bool>,
    /// Why lockkeeper answered, or cut the response, in place of the application: the cause's token.
    pub cause: Cell<Option<&'static str>>,
    /// The request's spans, while tracing is on.
    pub trace: RefCell<Option<Box<RequestTrace>>>,
    /// Interim responses on their way to the caller (HTTP/2 only).
    pub informational: RefCell<Vec<http::Response<()>>>,
    /// The upstream half of an upgrade that was answered with 101 (HTTP/2 only).
    pub tunnel: RefCell<Option<Box<Ready>>>,
    /// What the role's layers found out about the request's headers, in bits of their own.
    pub marks: Cell<u32>,
    /// The upstream that the request was last offered to, where the role chooses among several.
    pub upstream: Cell<Option<Offered>>,
    /// An interim response went to the caller: for the timers, its answer has begun.
    pub begun: Cell<bool>,
    /// Called gRPC: errors that we make carry `grpc-status`.
    pub grpc: Cell<bool>,
}

impl Call {
    /// A call that begins `now`.
    #[must_use]
    pub fn new(connection: Rc<Connection>, now: Instant) -> Self {
        Self {
            connection,
            started: now,
            request_bytes: Cell::new(0),
            request_ended: Cell::new(false),
            go_ahead: Cell::new(true),
            cause: Cell::new(None),
            trace: RefCell::new(None),
            informational: RefCell::default(),
            tunnel: RefCell::default(),
            marks: Cell::new(0),
            upstream: Cell::new(None),
            begun: Cell::new(false),
            grpc: Cell::new(false),
        }
    }

    /// The upstream sent an interim (1xx) response by HTTP/1.1: its head, the empty line included.
    pub fn interim_h1(&self, head: &[u8]) {
        if head.get(9..12) == Some(b"100") {
            self.go_ahead.set(true);
        }
        if self.connection.h2.get() {
            self.informational.borrow_mut().extend(parse_interim(head));
            self.begun.set(self.begun.get() || head.get(9..12) != Some(b"100"));
        } else if head.get(9..12) != Some(b"100") {
            // hyper's server says `100 Continue` by itself when the body is read.
            self.connection.interim.push(head);
            self.begun.set(true);
        }
    }

    /// The upstream sent an interim (1xx) response by HTTP/2.
    pub fn interim_h2(&self, response: http::Response<()>) {
        if response.status() == StatusCode::CONTINUE {
            self.go_ahead.set(true);
        }
        if self.connection.h2.get() {
            self.begun.set(self.begun.get() || response.status() != StatusCode::CONTINUE);
            self.informational.borrow_mut().push(response);
        } else if response.status() != StatusCode::CONTINUE {
            let reason = response.status().canonical_reason().unwrap_or_default();
            let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status().as_str()).into_bytes();
            for (name, value) in response.headers() {
                head.extend_from_slice(name.as_str().as_bytes());
                head.extend_from_slice(b": ");
                head.extend_from_slice(value.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"\r\n");
            self.connection.interim.push(&head);
            self.begun.set(true);
        }
    }
}

/// An interim response's head, without what concerns one connection only.
fn parse_interim(head: &[u8]) -> Option<http::Response<()>> {
    let mut lines = head.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_bytes(lines.next()?.get(9..12)?).ok()?;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_at_checked(line.iter().position(|b| *b == b':')?)?;
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
        response.headers_mut().append(name, value);
    }
    let has = Has::of(response.headers());
    headers::strip_hop_by_hop(response.headers_mut(), has);
    Some(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_an_interim_head_when_parsed_then_it_has_its_status_and_what_may_pass() {
        let head = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-b\r\nX-B: 1\r\n\r\n";

        let response = parse_interim(head).unwrap();

        assert_eq!(response.status(), 103);
        assert_eq!(
            response.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect::<Vec<_>>(),
            [("link", "</a>; rel=preload")]
        );
        assert!(parse_interim(b"HTTP/1.1 x").is_none());
    }
}
