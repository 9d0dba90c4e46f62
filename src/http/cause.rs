//! Why lockkeeper answered instead of the application, and the only writer of such answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::Response;
use super::body::Body;
use super::call::Call;
use super::dial::Unreached;
use super::h1_framing::Fault;
use super::inbound::Broken;
use crate::tls;

/// Names the cause in a response that lockkeeper made itself.
pub const CAUSE_HEADER: HeaderName = HeaderName::from_static("x-lockkeeper-cause");

/// Names the cause in an error of the control side's servers, unless it has one.
pub fn name<B>(response: &mut http::Response<B>) {
    let token = match response.status() {
        StatusCode::BAD_REQUEST => "bad_request",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::SERVICE_UNAVAILABLE => "not_ready",
        _ => return,
    };
    response.headers_mut().entry(CAUSE_HEADER).or_insert(HeaderValue::from_static(token));
}

/// One variant, one token, one status.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The caller left before the response was complete.
    #[error("the caller left")]
    CallerLeft,
    /// The request is not one that a proxy can send on.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// What came is not HTTP/1.1, or too large.
    #[error("{0}")]
    Unreadable(StatusCode),
    /// The request's body could not be read.
    #[error("the request's body could not be read")]
    RequestBody(#[source] Broken),
    /// An expectation other than `100-continue`.
    #[error("unknown expectation")]
    Expectation,
    /// A transfer coding other than `chunked`.
    #[error("Unsupported transfer encoding")]
    Coding,
    /// `CONNECT` towards an application.
    #[error("CONNECT is not supported")]
    Connect,
    /// As many requests wait as may.
    #[error("pending request queue full")]
    QueueFull,
    /// A probe while draining.
    #[error("shutting down")]
    Draining,
    /// Plaintext from elsewhere than loopback, in strict mode.
    #[error("TLS is required")]
    PlaintextRefused,
    /// A probe for somebody else, or one that lacks what its kind needs.
    #[error("probe refused")]
    Probe(StatusCode, String),
    /// A readiness probe while the application is not ready.
    #[error("the application is not ready")]
    NotReady,
    /// The application did not take the connection.
    #[error("the application refuses connections")]
    UpstreamRefused(#[source] std::io::Error),
    /// The upstream did not take the connection in time.
    #[error("the upstream does not answer")]
    UpstreamTimeout(#[source] Unreached),
    /// The upstream is not who it should be, or speaks no TLS.
    #[error("the upstream could not be verified")]
    UpstreamTls(#[source] tls::error::Error),
    /// The application ended the connection before its response began.
    #[error("the application closed the connection without a response")]
    UpstreamEof,
    /// The connection to the application broke.
    #[error("the connection to the application broke")]
    UpstreamReset(#[source] Broken),
    /// The application answered with something that is not HTTP, or not allowed.
    #[error("the application's response is malformed")]
    UpstreamMalformed(#[source] Option<Fault>),
    /// The application's response has a head with more lines or bytes than are taken; which of them, and whose limit it is.
    #[error("the head of the application's response has too many {0}")]
    UpstreamHead(&'static str),
    /// The application switched to a protocol that was not asked for.
    #[error("the application switched to a protocol that was not asked for")]
    UpstreamSwitch,
    /// A timer ran out.
    #[error("{text}")]
    Timeout {
        /// Which one.
        timer: Timer,
        /// Its length.
        after: Duration,
        /// What the caller reads.
        text: &'static str,
    },
    /// There is nothing by the name that the request gives.
    #[error("{0}")]
    NotFound(String),
    /// No route leads anywhere.
    #[error("no route")]
    NoRoute(&'static str),
    /// The connection's certificate is not one for this host (RFC 9110 section 15.5.20).
    #[error("this connection is not for this host")]
    Misdirected,
    /// The service that decides about requests gave no decision.
    #[error("no decision about this request")]
    Undecided(&'static str),
    /// A protocol that is not passed on.
    #[error("this upgrade is not allowed")]
    UpgradeRefused,
    /// Where the route leads there is nobody; the token says why.
    #[error("no upstream: {0}")]
    NoUpstream(&'static str),
    /// An edge says 503 where a sidecar says 502.
    #[error("upstream connect error or disconnect/reset before headers: {0}")]
    Unavailable(#[source] Box<Cause>),
    /// Too much waits already: the caller may try again in a second.
    #[error("{text}")]
    Overload {
        /// The cause's token.
        token: &'static str,
        /// What the caller reads.
        text: &'static str,
    },
}

/// The timers of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// From its arrival to the end of its response.
    Total,
    /// From its arrival to the first byte of its response.
    Start,
    /// Between bytes to the caller.
    Idle,
    /// From its arrival until an upstream could take it.
    Waiting,
}

impl Cause {
    /// What the caller sees, where a response can still be made.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            // nginx's number; never sent, only logged and counted.
            Self::CallerLeft => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unreadable(status) => *status,
            Self::PlaintextRefused => StatusCode::FORBIDDEN,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Connect
            | Self::RequestBody(_)
            | Self::UpstreamRefused(_)
            | Self::UpstreamTimeout(_)
            | Self::UpstreamTls(_)
            | Self::UpstreamEof
            | Self::UpstreamReset(_)
            | Self::UpstreamMalformed(_)
            | Self::UpstreamHead(_)
            | Self::UpstreamSwitch => StatusCode::BAD_GATEWAY,
            Self::QueueFull | Self::Draining | Self::NotReady | Self::Overload { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Probe(status, _) => *status,
            Self::NotFound(_) | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::UpgradeRefused | Self::Undecided(_) => StatusCode::FORBIDDEN,
            Self::NoUpstream(_) | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The word for it in the response header, the log and the metrics.
    #[must_use]
    pub fn token(&self) -> &'static str {
        match self {
            Self::CallerLeft => "caller_left",
            Self::BadRequest(_) | Self::Unreadable(_) => "bad_request",
            Self::RequestBody(_) => "request_body",
            Self::Expectation => "expectation",
            Self::Coding => "transfer_coding",
            Self::Connect => "connect_unsupported",
            Self::QueueFull => "queue_full",
            Self::Draining => "draining",
            Self::PlaintextRefused => "plaintext_refused",
            Self::Probe(..) => "probe",
            Self::NotReady => "not_ready",
            Self::UpstreamRefused(_) => "upstream_refused",
            Self::UpstreamTimeout(_) => "upstream_timeout",
            Self::UpstreamTls(error) => error.token(),
            Self::UpstreamEof => "upstream_eof",
            Self::UpstreamReset(_) => "upstream_reset",
            Self::UpstreamMalformed(_) => "upstream_malformed",
            Self::UpstreamHead(_) => "upstream_head_too_large",
            Self::UpstreamSwitch => "upstream_switch",
            Self::Timeout { timer: Timer::Total, .. } => "timeout_total",
            Self::Timeout { timer: Timer::Start, .. } => "timeout_start",
            Self::Timeout { timer: Timer::Idle, .. } => "timeout_idle",
            Self::Timeout { timer: Timer::Waiting, .. } => "timeout_waiting",
            Self::NotFound(_) => "not_found",
            Self::NoRoute(token) | Self::NoUpstream(token) | Self::Undecided(token) => token,
            Self::Misdirected => "misdirected",
            Self::UpgradeRefused => "upgrade_refused",
            Self::Unavailable(inner) => inner.token(),
            Self::Overload { token, .. } => token,
        }
    }

    /// The status of a gRPC call that ends so (https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
    fn grpc_status(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "4",
            Self::NotFound(_) | Self::NoRoute(_) => "12",
            Self::QueueFull | Self::Overload { .. } => "8",
            Self::Undecided(_) => "7",
            Self::BadRequest(_) | Self::Expectation | Self::Coding | Self::Connect => "3",
            _ => "14",
        }
    }

    /// What the answer says.
    fn text(&self) -> String {
        match self {
            Self::Probe(_, text) => text.clone(),
            Self::Timeout { .. } => self.to_string(),
            // Empty as Envoy's 404, and as the Go queue's: whoever asks looks at the status alone.
            Self::NoRoute(_) | Self::NotReady | Self::Undecided(_) => String::new(),
            _ => format!("{self}\n"),
        }
    }

    /// Whether a gRPC caller is told in gRPC's way.
    fn is_for_grpc(&self, call: &Call) -> bool {
        call.grpc.get() && !matches!(self, Self::Probe(..) | Self::NotReady | Self::Draining)
    }

    /// Bytes of the body of [`Cause::respond`]'s answer.
    #[must_use]
    pub fn length(&self, call: &Call) -> u64 {
        if self.is_for_grpc(call) || matches!(self, Self::CallerLeft) { 0 } else { self.text().len() as u64 }
    }

    /// The answer to what was no request at all, as bytes; the connection ends with it (HTTP/1.1 only).
    #[must_use]
    pub fn respond_unread(&self) -> Vec<u8> {
        let (status, token, text) = (self.status(), self.token(), self.text());
        let (name, date) = (CAUSE_HEADER, super::date::now());
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
             {name}: {token}\r\nConnection: close\r\nContent-Length: {}\r\nDate: {}\r\n\r\n{text}",
            text.len(),
            date.to_str().unwrap_or_default(),
        )
        .into_bytes()
    }

    /// The answer to the caller. Text and type are Go's where callers see them.
    #[must_use]
    pub fn respond(&self, call: &Call) -> Response {
        call.cause.set(Some(self.token()));
        let text = self.text();
        if let Self::NotReady = self {
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = self.status();
            response.headers_mut().insert(CAUSE_HEADER, HeaderValue::from_static(self.token()));
            return response;
        }
        let mut response = http::Response::new(Body::full(Bytes::from(text)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CAUSE_HEADER, HeaderValue::from_static(self.token()));
        if let Self::Overload { .. } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.is_for_grpc(call) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.grpc_status()));
            if let Ok(message) = HeaderValue::try_from(self.to_string()) {
                headers.insert("grpc-message", message);
            }
            *response.body_mut() = Body::empty();
            *response.status_mut() = StatusCode::OK;
        }
        let broken = matches!(
            self,
            Self::BadRequest(_) | Self::Expectation | Self::Coding | Self::Connect | Self::RequestBody(_)
        );
        if (broken || !call.request_ended.get()) && !call.connection.h2.get() {
            // The rest of the request's body will not be read: the connection cannot be used again.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
