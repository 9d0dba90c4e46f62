//! Trailers as HTTP/1.1 writes them, behind the last chunk of a body.
//!
//! Data side, pure; called for requests by [`super::h1_client`] and for responses by [`super::stream`].
//!
//! Source: RFC 9110 section 6.5, RFC 9112 section 7.1.2.

use http::HeaderMap;

/// Fields that no trailer may be, since who reads them would take the message for another one; what Go's
/// `httpguts.ValidTrailerHeader` refuses.
const FORBIDDEN: [&str; 22] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "realm",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Appends the lines of `trailers`, without the empty line behind them.
pub fn encode(out: &mut Vec<u8>, trailers: &HeaderMap) {
    for (name, value) in trailers.iter().filter(|(name, _)| may_trail(name.as_str())) {
        write_title_case(out, name.as_str());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn may_trail(name: &str) -> bool {
    !name.starts_with("if-") && !FORBIDDEN.contains(&name)
}

/// Appends `name` as Go and most others write it: `X-Request-Id`.
pub fn write_title_case(out: &mut Vec<u8>, name: &str) {
    let from = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut words = out.get_mut(from..).unwrap_or_default();
    while let Some(first) = words.first_mut() {
        first.make_ascii_uppercase();
        let Some(dash) = words.iter().position(|byte| *byte == b'-') else { return };
        words = words.get_mut(dash + 1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_name_when_written_then_each_word_begins_with_a_capital() {
        let mut out = Vec::new();
        write_title_case(&mut out, "x-request-id");
        assert_eq!(out, b"X-Request-Id");
    }
}
