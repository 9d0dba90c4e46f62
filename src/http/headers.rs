//! Header rules of a reverse proxy (RFC 9110 section 7.6; `httputil.ReverseProxy` for what Knative's callers see).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// `Forwarded`'s older sibling: the addresses that a request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Which of the headers that concern a proxy a message has.
///
/// Found in one pass over its lines: most messages have few of them, and a look into the map for each one that could be
/// there cost a tenth of a plaintext request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has(u16);

impl Has {
    /// `Connection`.
    pub const CONNECTION: Self = Self(1);
    /// Another header that concerns one connection only.
    pub const HOP: Self = Self(1 << 1);
    /// `TE`.
    pub const TE: Self = Self(1 << 2);
    /// `Trailer`.
    pub const TRAILER: Self = Self(1 << 3);
    /// `Expect`.
    pub const EXPECT: Self = Self(1 << 4);
    /// `X-Forwarded-For`.
    pub const FORWARDED_FOR: Self = Self(1 << 5);
    /// `Host`, with a value.
    pub const HOST: Self = Self(1 << 6);
    /// `Content-Length`.
    pub const LENGTH: Self = Self(1 << 7);
    /// `Date`.
    pub const DATE: Self = Self(1 << 8);

    /// Looks at all lines of a message.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        headers.iter().fold(Self::default(), |has, (name, value)| {
            has | match *name {
                header::CONNECTION => Self::CONNECTION,
                header::TE => Self::TE,
                header::TRAILER => Self::TRAILER,
                header::TRANSFER_ENCODING
                | header::UPGRADE
                | header::PROXY_AUTHENTICATE
                | header::PROXY_AUTHORIZATION => Self::HOP,
                header::EXPECT => Self::EXPECT,
                header::CONTENT_LENGTH => Self::LENGTH,
                header::DATE => Self::DATE,
                header::HOST if !value.is_empty() => Self::HOST,
                _ => match name.as_str() {
                    "keep-alive" | "proxy-connection" => Self::HOP,
                    "x-forwarded-for" => Self::FORWARDED_FOR,
                    _ => Self::default(),
                },
            }
        })
    }

    /// Whether one of `these` is there.
    #[must_use]
    pub fn any(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }
}

impl std::ops::BitOr for Has {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The protocol that `Connection: upgrade` asks for (or grants), if any.
///
/// Never `h2c`, which is obsolete (RFC 9113 section 3.1): an upstream that switched to it would take requests past every
/// proxy before it, in a tunnel. The request passes as one that asks for nothing.
#[must_use]
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(header::CONNECTION).iter().any(|v| has_token(v, "upgrade"));
    let h2c = || headers.get_all(header::UPGRADE).iter().any(|v| has_token(v, "h2c"));
    if asked && !h2c() { headers.get(header::UPGRADE).cloned() } else { None }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the caller can take trailers.
#[must_use]
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|v| has_token(v, "trailers"))
}

/// Whether `chunked` is the one transfer coding: what a proxy can undo and do again.
#[must_use]
pub fn is_chunked_alone(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next().is_some_and(|c| c.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    first && codings.next().is_none()
}

/// Removes what concerns one connection only: `Connection`, every header that any of its lines names, and the fixed list.
/// `Trailer` stays: it announces what comes behind the body, which passes as well.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, has: Has) {
    if has.any(Has::CONNECTION)
        && let Some(first) = headers.get(header::CONNECTION)
    {
        // Almost always one line with one well-known word.
        let plain = first.as_bytes().eq_ignore_ascii_case(b"keep-alive") || first.as_bytes() == b"close";
        if !plain || headers.get_all(header::CONNECTION).iter().nth(1).is_some() {
            let named: Vec<HeaderName> = headers
                .get_all(header::CONNECTION)
                .iter()
                .flat_map(|v| v.as_bytes().split(|b| *b == b','))
                .filter_map(|t| HeaderName::from_bytes(t.trim_ascii()).ok())
                // No caller may take away whom the request is for.
                .filter(|name| name != header::HOST)
                .collect();
            for name in named {
                headers.remove(name);
            }
        }
        headers.remove(header::CONNECTION);
    }
    if !has.any(Has::HOP | Has::TE) {
        return;
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Appends the caller's address: several lines become one, joined with `, `.
pub fn append_forwarded_for(headers: &mut HeaderMap, has: Has, peer_ip: &HeaderValue) {
    if !has.any(Has::FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR, peer_ip.clone());
        return;
    }
    let mut all = Vec::with_capacity(64);
    for line in headers.get_all(X_FORWARDED_FOR) {
        all.extend_from_slice(line.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(peer_ip.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// Joins the crumbs of `Cookie` that HTTP/2 may split (RFC 9113 section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut all = Vec::new();
    for crumb in headers.get_all(header::COOKIE) {
        if !all.is_empty() {
            all.extend_from_slice(b"; ");
        }
        all.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    #[test]
    fn given_two_connection_lines_when_stripped_then_headers_named_by_either_are_gone() {
        let mut headers =
            map(&[("connection", "x-a"), ("connection", "close, X-B"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")]);

        let has = Has::of(&headers);
        strip_hop_by_hop(&mut headers, has);

        assert_eq!(headers, map(&[("x-c", "3")]));
    }

    #[test]
    fn given_several_forwarded_for_lines_when_appended_then_they_are_one_line() {
        let mut headers = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")]);

        append_forwarded_for(&mut headers, Has::FORWARDED_FOR, &HeaderValue::from_static("127.0.0.1"));

        assert_eq!(headers, map(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1")]));
    }

    #[test]
    fn given_upgrade_without_the_connection_token_when_asked_then_there_is_no_upgrade() {
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None);
        assert!(upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).is_some());
    }

    #[test]
    fn given_an_upgrade_to_h2c_when_asked_then_there_is_no_upgrade() {
        for token in ["h2c", "H2C", "h2c, websocket", "websocket,h2c"] {
            assert_eq!(
                upgrade(&map(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", token)])),
                None,
                "{token}"
            );
        }
    }
}
