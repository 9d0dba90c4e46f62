//! `Forwarded` (RFC 7239) made of `X-Forwarded-*` when the request has none (`pkg/queue/forwarded_shim.go`).

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::marks::Marks;
use crate::http::cause::Cause;
use crate::http::headers::X_FORWARDED_FOR;
use crate::http::{Request, Response};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The layer.
#[derive(Clone)]
pub struct Forwarded<S> {
    /// What sees the header.
    pub inner: S,
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for Forwarded<S> {
    type Response = Response;
    type Error = Cause;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if Marks::left(&request.call).has(Marks::FORWARDED)
            && let Some(value) = made_of(&request.head.headers)
        {
            request.head.headers.insert(header::FORWARDED, value);
        }
        self.inner.call(request)
    }
}

/// The value of `Forwarded` for a request with these headers; nothing if it has one, or nothing to make it of.
#[must_use]
pub fn made_of(headers: &HeaderMap) -> Option<HeaderValue> {
    if headers.get(header::FORWARDED).is_some_and(|v| !v.is_empty()) {
        return None;
    }
    let first = |name: HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let (nodes, host, proto) = (first(X_FORWARDED_FOR), first(X_FORWARDED_HOST), first(X_FORWARDED_PROTO));
    if nodes.is_empty() && host.is_empty() && proto.is_empty() {
        return None;
    }
    let mut value = Vec::with_capacity(64);
    let mut nodes = nodes.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|n| !n.is_empty());
    let part = |value: &mut Vec<u8>, name: &[u8], text: &[u8]| {
        if !text.is_empty() {
            if !value.is_empty() {
                value.push(b';');
            }
            value.extend_from_slice(name);
            value.extend_from_slice(text);
        }
    };
    if let Some(node) = nodes.next() {
        part(&mut value, b"for=", &quoted(node));
    }
    part(&mut value, b"host=", host);
    part(&mut value, b"proto=", proto);
    for node in nodes {
        value.extend_from_slice(b", for=");
        value.extend_from_slice(&quoted(node));
    }
    // A list of blanks names nobody.
    HeaderValue::from_bytes(&value).ok().filter(|value| !value.is_empty())
}

/// A node with a colon is taken for an IPv6 address, as the original does.
fn quoted(node: &[u8]) -> Vec<u8> {
    if node.contains(&b':') { [b"\"[", node, b"]\""].concat() } else { node.to_vec() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_forwarded_headers_when_shimmed_then_the_contracts_examples_come_out() {
        let cases: [(&[(&str, &str)], Option<&str>); 6] = [
            (&[("x-forwarded-for", "\t, \t")], None),
            (
                &[
                    ("x-forwarded-for", "1.1.1.1, 2001:db8::1 ,3.3.3.3"),
                    ("x-forwarded-host", "a.b"),
                    ("x-forwarded-proto", "https"),
                ],
                Some("for=1.1.1.1;host=a.b;proto=https, for=\"[2001:db8::1]\", for=3.3.3.3"),
            ),
            (&[("x-forwarded-proto", "https")], Some("proto=https")),
            (&[("forwarded", "for=9.9.9.9"), ("x-forwarded-proto", "https")], None),
            (&[("forwarded", ""), ("x-forwarded-host", "h")], Some("host=h")),
            (&[], None),
        ];
        for (lines, expected) in cases {
            let headers =
                lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
            assert_eq!(made_of(&headers).as_ref().map(|v| v.to_str().unwrap()), expected);
        }
    }
}
