//! What is known of one request beside the message: its connection, its clock, what went through.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use http::HeaderValue;

use super::body::Watches;
use super::lines::Head;
use super::stream::Interim;
use super::tunnel::Ready;
use crate::telemetry::request_log::TlsFacts;
use crate::telemetry::trace::RequestTrace;
use crate::worker::PortId;

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
    /// Whether the connection speaks HTTP/2.
    pub h2: Cell<bool>,
    /// Requests' heads as they come in (HTTP/1.1 only).
    pub head: Head,
    /// The server name of the caller's TLS hello, in lower case.
    pub server_name: OnceCell<Box<str>>,
    /// Interim responses on their way to the caller (HTTP/1.1 only).
    pub interim: Rc<Interim>,
    /// The upstream half of an upgrade that was answered with 101; once the answer is on its way also what was tied
    /// to its body, and whether the protocol is WebSocket.
    pub tunnel: RefCell<Option<(Ready, Option<(Watches, bool)>)>>,
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
            h2: Cell::new(false),
            head: Head::default(),
            server_name: OnceCell::new(),
            interim: Rc::default(),
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
            marks: Cell::new(0),
            upstream: Cell::new(None),
            begun: Cell::new(false),
            grpc: Cell::new(false),
        }
    }
}
