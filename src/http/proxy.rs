//! The core: one request in, one request to the application, its response back.

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, StatusCode, Version};

use super::body::{Body, Outbound};
use super::call::Call;
use super::cause::Cause;
use super::upstream::{Failed, Pool, Speaks};
use super::{Request, Response, headers};

/// The parent of the application's spans (W3C Trace Context).
const TRACEPARENT: header::HeaderName = header::HeaderName::from_static("traceparent");

/// Sends requests to one application.
#[derive(Clone)]
pub struct Proxy {
    pool: Rc<Pool>,
    authority: Authority,
    host: HeaderValue,
}

impl Proxy {
    /// A proxy to the application behind `pool`, which listens on `address`.
    #[must_use]
    pub fn new(pool: Rc<Pool>, address: SocketAddr) -> Self {
        let text = address.to_string();
        let authority = text.parse().unwrap_or(Authority::from_static("127.0.0.1"));
        let host = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("127.0.0.1"));
        Self { pool, authority, host }
    }

    /// Sends `request` on, in the protocol that it came by.
    ///
    /// # Errors
    /// Why there is no response of the application.
    pub async fn forward(self, request: Request) -> Result<Response, Cause> {
        let Request { mut head, body, call } = request;
        if head.method == Method::CONNECT {
            return Err(Cause::Connect);
        }
        let h2 = head.version == Version::HTTP_2;
        let expects = match head.headers.get(header::EXPECT) {
            None => false,
            Some(v) if v.as_bytes().eq_ignore_ascii_case(b"100-continue") => !body_is_empty(&body),
            Some(_) => return Err(Cause::Expectation),
        };
        let upgrade = if h2 { None } else { headers::upgrade(&head.headers) };
        let trailers = headers::accepts_trailers(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers);
        if trailers {
            head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        headers::append_forwarded_for(&mut head.headers, &call.connection.peer_ip);
        if let Some(trace) = call.trace.borrow_mut().as_mut() {
            trace.client_started(std::time::Instant::now());
            head.headers.insert(TRACEPARENT, trace.traceparent());
        }
        if let Some(protocol) = &upgrade {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(header::UPGRADE, protocol.clone());
        }
        if !escapes_are_whole(head.uri.path()) {
            return Err(Cause::BadRequest("malformed escape in the path"));
        }
        let path = head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let authority = head.uri.authority().cloned();
        head.extensions = http::Extensions::new();
        if h2 && self.pool.speaks() == Speaks::Unknown && !body_is_empty(&body) {
            // A body can be sent once only, so this is found out before.
            self.pool.refuses_h2().await;
        }
        if h2 && self.pool.speaks() != Speaks::Http1Only {
            // Until the application has answered over HTTP/2 once, it may turn out to speak HTTP/1 only. A request
            // without a body can then be sent again.
            let spare = (self.pool.speaks() == Speaks::Unknown && body_is_empty(&body))
                .then(|| (head.clone(), authority.clone(), path.clone()));
            self.target_h2(&mut head, authority, path)?;
            let request = http::Request::from_parts(head, Outbound::new(body, call.clone(), expects));
            let failed = match self.pool.send_h2(request).await {
                Ok(response) => {
                    let (mut head, incoming) = response.into_parts();
                    headers::strip_hop_by_hop(&mut head.headers);
                    return Ok(Response::from_parts(head, Body::streamed(incoming)));
                }
                Err(failed) => failed,
            };
            let may_be_h1 = matches!(failed, Failed::Exchange(_)) && self.pool.speaks() == Speaks::Unknown;
            if may_be_h1
                && self.pool.refuses_h2().await
                && let Some((mut head, authority, path)) = spare
            {
                self.target_h1(&mut head, authority, path, true);
                return self.exchange_h1(head, Outbound::none(call.clone()), None, &call).await;
            }
            return Err(cause(failed, &call));
        }
        self.target_h1(&mut head, authority, path, body_is_empty(&body));
        let body = Outbound::new(body, call.clone(), expects);
        self.exchange_h1(head, body, upgrade, &call).await
    }

    async fn exchange_h1(
        &self,
        head: http::request::Parts,
        body: Outbound,
        upgrade: Option<HeaderValue>,
        call: &Rc<Call>,
    ) -> Result<Response, Cause> {
        let request = http::Request::from_parts(head, body);
        let (response, lease) = self.pool.send_h1(request, call).await.map_err(|f| cause(f, call))?;
        let (mut head, incoming) = response.into_parts();
        head.version = Version::HTTP_11;
        head.extensions = http::Extensions::new();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return switch(head, upgrade.as_ref());
        }
        // hyper sends the trailers that `Trailer` announces; the header describes this hop's framing, and ours is alike.
        let announced = head.headers.remove(header::TRAILER);
        headers::strip_hop_by_hop(&mut head.headers);
        if let Some(announced) = announced {
            head.headers.insert(header::TRAILER, announced);
        }
        Ok(Response::from_parts(head, Body::leased(incoming, lease)))
    }

    /// Origin form, and `Host`: that of the target when it was absolute, else the caller's, else the application's.
    fn target_h1(
        &self,
        head: &mut http::request::Parts,
        authority: Option<Authority>,
        path: PathAndQuery,
        ended: bool,
    ) {
        let absolute = authority.and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        if let Some(host) = absolute {
            head.headers.insert(header::HOST, host);
        } else if head.headers.get(header::HOST).is_none_or(HeaderValue::is_empty) {
            head.headers.insert(header::HOST, self.host.clone());
        }
        if head.version == Version::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        head.uri = Uri::from(path);
        head.version = Version::HTTP_11;
        let has_framing =
            head.headers.contains_key(header::CONTENT_LENGTH) || head.headers.contains_key(header::TRANSFER_ENCODING);
        if ended && !has_framing && [Method::POST, Method::PUT, Method::PATCH].contains(&head.method) {
            // A body is expected with these; say that there is none (RFC 9110 section 8.6).
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }

    fn target_h2(
        &self,
        head: &mut http::request::Parts,
        authority: Option<Authority>,
        path: PathAndQuery,
    ) -> Result<(), Cause> {
        let host = head.headers.remove(header::HOST).and_then(|h| Authority::try_from(h.as_bytes()).ok());
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(host.or(authority).unwrap_or_else(|| self.authority.clone()));
        parts.path_and_query = Some(path);
        head.uri = Uri::from_parts(parts).map_err(|_| Cause::BadRequest("target"))?;
        headers::join_cookies(&mut head.headers);
        Ok(())
    }
}

/// Whether each `%` begins two hexadecimal digits; Go's server refuses a path with others.
fn escapes_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

fn body_is_empty(body: &hyper::body::Incoming) -> bool {
    hyper::body::Body::is_end_stream(body)
}

/// A 101 passes when it names the protocol that was asked for.
fn switch(mut head: http::response::Parts, asked: Option<&HeaderValue>) -> Result<Response, Cause> {
    let granted = head.headers.get(header::UPGRADE).cloned();
    match (asked, granted) {
        (Some(asked), Some(granted)) if asked.as_bytes().eq_ignore_ascii_case(granted.as_bytes()) => {
            headers::strip_hop_by_hop(&mut head.headers);
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(header::UPGRADE, granted);
            Ok(Response::from_parts(head, Body::empty()))
        }
        _ => Err(Cause::UpstreamSwitch),
    }
}

fn cause(failed: Failed, call: &super::call::Call) -> Cause {
    match failed {
        Failed::Connect(error) => Cause::UpstreamRefused(error),
        Failed::Exchange(error) if error.is_user() && !call.request_ended.get() => Cause::RequestBody(error),
        Failed::Exchange(error) if error.is_incomplete_message() || error.is_canceled() => Cause::UpstreamEof,
        Failed::Exchange(error) if error.is_parse() => Cause::UpstreamMalformed(Some(error)),
        Failed::Exchange(error) => Cause::UpstreamReset(error),
    }
}
