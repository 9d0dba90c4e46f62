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

    /// Byte by byte.
    fn plainly(name: &str) -> Vec<u8> {
        let begins = |at: usize| at == 0 || name.as_bytes()[at - 1] == b'-';
        name.bytes().enumerate().map(|(at, b)| if begins(at) { b.to_ascii_uppercase() } else { b }).collect()
    }

    #[test]
    fn given_a_name_when_written_then_each_word_begins_with_a_capital() {
        for (name, written) in [
            ("x-request-id", "X-Request-Id"),
            ("te", "Te"),
            ("abcdefg-hijklmno-p", "Abcdefg-Hijklmno-P"),
            ("-a--b-", "-A--B-"),
            ("1a-_b-`c-{d-~e", "1a-_b-`c-{d-~e"),
        ] {
            let mut out = b"before: ".to_vec();
            write_title_case(&mut out, name);
            assert_eq!(out, format!("before: {written}").as_bytes());
        }
    }

    proptest::proptest! {
        #[test]
        fn given_any_name_when_written_then_it_is_as_byte_by_byte(name in "[-!#$%&'*+.^_`|~0-9a-z]{1,40}") {
            let mut out = Vec::new();
            write_title_case(&mut out, &name);
            proptest::prop_assert_eq!(out, plainly(&name));
        }
    }
}
