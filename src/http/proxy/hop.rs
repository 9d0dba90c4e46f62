//! One hop of a request: where it goes in the words of the next protocol, and what of the answer is the caller's.

use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, StatusCode, Version};

use crate::http::Response;
use crate::http::body::Body;
use crate::http::call::Call;
use crate::http::cause::Cause;
use crate::http::headers::{self, Has};
use crate::http::inbound::Received;
use crate::http::upstream::{Lease, Pool, Resend};
use crate::http::wire::Counted;

/// What the next hop's headers are made of.
#[derive(Clone)]
pub(super) struct Hop {
    pub(super) call: Rc<Call>,
    pub(super) authority: Option<Authority>,
    pub(super) path: PathAndQuery,
    pub(super) upgrade: Option<HeaderValue>,
    /// The caller named no host: the upstream's address stands for it.
    pub(super) no_host: bool,
    /// The request has no body.
    pub(super) ended: bool,
    /// It says its length.
    pub(super) length: bool,
    pub(super) replay: bool,
    pub(super) keep: bool,
}

impl Hop {
    pub(super) fn resend(&self) -> Resend {
        Resend { replay: self.replay, keep: self.keep }
    }

    pub(super) fn answer_h2(&self, response: http::Response<Received>, counted: Counted) -> Response {
        let (mut head, received) = response.into_parts();
        let has = Has::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, has);
        if has.any(Has::LENGTH) {
            // A body of a known length has no place for trailers over HTTP/1.1.
            self.call.connection.chunks.set(false);
        }
        Response::from_parts(head, Body::streamed(received, counted))
    }

    pub(super) fn answer_h1(&self, response: http::Response<()>, lease: Lease) -> Result<Response, Cause> {
        let (mut head, ()) = response.into_parts();
        head.version = Version::HTTP_11;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return switch(head, self.upgrade.as_ref());
        }
        let has = Has::of(&head.headers);
        if has.any(Has::HOP)
            && head.headers.contains_key(header::TRANSFER_ENCODING)
            && !headers::is_chunked_alone(&head.headers)
        {
            return Err(Cause::UpstreamMalformed(None));
        }
        headers::strip_hop_by_hop(&mut head.headers, has);
        Ok(Response::from_parts(head, Body::leased(lease)))
    }

    /// Origin form, and `Host`: that of the target when it was absolute, else the caller's, else the upstream's.
    pub(super) fn target_h1(&self, head: &mut http::request::Parts, pool: &Pool) {
        // Whoever names a user here says it to the wrong one (RFC 9110 section 4.2.4).
        let bare = |a: &Authority| HeaderValue::from_str(a.as_str().rsplit('@').next().unwrap_or_default()).ok();
        let absolute = self.authority.as_ref().and_then(bare);
        if let Some(host) = absolute {
            head.headers.insert(header::HOST, host);
        } else if self.no_host {
            head.headers.insert(header::HOST, pool.host().clone());
        }
        if head.version == Version::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        head.uri = Uri::from(self.path.clone());
        head.version = Version::HTTP_11;
        let takes_body = || [Method::POST, Method::PUT, Method::PATCH].contains(&head.method);
        if self.ended && !self.length && takes_body() {
            // A body is expected with these; say that there is none (RFC 9110 section 8.6).
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }

    pub(super) fn target_h2(&mut self, head: &mut http::request::Parts, pool: &Pool) -> Result<(), Cause> {
        let host = head.headers.remove(header::HOST).and_then(|h| Authority::try_from(h.as_bytes()).ok());
        // Kept here, since it may go out once more.
        self.authority = host.or_else(|| self.authority.take());
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if pool.is_tls() { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(self.authority.clone().unwrap_or_else(|| pool.authority().clone()));
        parts.path_and_query = Some(self.path.clone());
        head.uri = Uri::from_parts(parts).map_err(|_| Cause::BadRequest("target"))?;
        head.version = Version::HTTP_2;
        headers::join_cookies(&mut head.headers);
        Ok(())
    }
}

/// A 101 passes when it names the protocol that was asked for.
fn switch(mut head: http::response::Parts, asked: Option<&HeaderValue>) -> Result<Response, Cause> {
    let granted = head.headers.get(header::UPGRADE).cloned();
    match (asked, granted) {
        (Some(asked), Some(granted)) if asked.as_bytes().eq_ignore_ascii_case(granted.as_bytes()) => {
            let has = Has::of(&head.headers);
            headers::strip_hop_by_hop(&mut head.headers, has);
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(header::UPGRADE, granted);
            Ok(Response::from_parts(head, Body::empty()))
        }
        _ => Err(Cause::UpstreamSwitch),
    }
}
