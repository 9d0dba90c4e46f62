//! Header rules of a reverse proxy (RFC 9110 section 7.6; `httputil.ReverseProxy` for what Knative's callers see).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// `Forwarded`'s older sibling: the addresses that a request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The protocol that `Connection: upgrade` asks for (or grants), if any.
#[must_use]
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers.get_all(header::CONNECTION).iter().any(|v| has_token(v, "upgrade"));
    if asked { headers.get(header::UPGRADE).cloned() } else { None }
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the caller can take trailers.
#[must_use]
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|v| has_token(v, "trailers"))
}

/// Removes what concerns one connection only: `Connection`, every header that any of its lines names, and the fixed list.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Some(first) = headers.get(header::CONNECTION) {
        // Almost always one line with one well-known word.
        let plain = first.as_bytes().eq_ignore_ascii_case(b"keep-alive") || first.as_bytes() == b"close";
        if !plain || headers.get_all(header::CONNECTION).iter().nth(1).is_some() {
            let named: Vec<HeaderName> = headers
                .get_all(header::CONNECTION)
                .iter()
                .flat_map(|v| v.as_bytes().split(|b| *b == b','))
                .filter_map(|t| HeaderName::from_bytes(t.trim_ascii()).ok())
                .collect();
            for name in named {
                headers.remove(name);
            }
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Appends the caller's address: several lines become one, joined with `, `.
pub fn append_forwarded_for(headers: &mut HeaderMap, peer_ip: &HeaderValue) {
    if !headers.contains_key(X_FORWARDED_FOR) {
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

        strip_hop_by_hop(&mut headers);

        assert_eq!(headers, map(&[("x-c", "3")]));
    }

    #[test]
    fn given_several_forwarded_for_lines_when_appended_then_they_are_one_line() {
        let mut headers = map(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")]);

        append_forwarded_for(&mut headers, &HeaderValue::from_static("127.0.0.1"));

        assert_eq!(headers, map(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1")]));
    }

    #[test]
    fn given_upgrade_without_the_connection_token_when_asked_then_there_is_no_upgrade() {
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None);
        assert!(upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).is_some());
    }
}
