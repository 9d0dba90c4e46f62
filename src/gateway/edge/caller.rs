//! What the gateway says of the caller, in headers of the request on its way upstream.
//!
//! Three modes. Kourier's: what the caller says of itself passes. With `use-remote-address`, or the PROXY protocol: the
//! connection's address is added, and what the caller says counts as far as `trusted-hops-count` proxies before this one
//! go. With `trusted-proxies`, which is ours: what is said by these addresses passes, what others say is removed.
//!
//! Source: Envoy, "HTTP header manipulation" and `ConnectionManagerUtility::mutateRequestHeaders`.
use std::net::IpAddr;

use http::HeaderName;
use http::header::{self, HeaderMap, HeaderValue};

use crate::gateway::kourier::Kourier;
use crate::http::call::Connection;
use crate::http::headers::X_FORWARDED_FOR;
use crate::http::proxy::ForwardedFor;
use crate::net::cidr::Cidr;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
/// What a caller must not say in the strict mode, beside the above.
const CLAIMS: [HeaderName; 5] = [
    X_FORWARDED_FOR,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];

/// Sets the headers that tell of the caller; what remains is said of `X-Forwarded-For`.
pub fn describe(
    headers: &mut HeaderMap,
    connection: &Connection,
    settings: &Kourier,
    random: impl FnMut() -> u32,
) -> ForwardedFor {
    strip_controls(headers);
    let peer = &connection.peer_ip;
    let (external, believes, forwarded_for) = if let Some(proxies) = &settings.trusted_proxies {
        if contains(proxies, connection.peer.ip()) {
            (before(headers, proxies).unwrap_or_else(|| peer.clone()), true, ForwardedFor::Append)
        } else {
            CLAIMS.iter().for_each(|name| drop(headers.remove(name)));
            (peer.clone(), false, ForwardedFor::Append)
        }
    } else if settings.use_remote_address || settings.proxy_protocol {
        let hops = usize::try_from(settings.trusted_hops).unwrap_or(usize::MAX);
        let told = hops.checked_sub(1).and_then(|skip| entries(headers).nth(skip)).and_then(value);
        (told.unwrap_or_else(|| peer.clone()), false, ForwardedFor::Append)
    } else {
        missing(headers, connection, random);
        return ForwardedFor::Leave;
    };
    headers.insert(X_EXTERNAL_ADDRESS, external);
    if believes {
        missing(headers, connection, random);
    } else {
        if settings.trusted_proxies.is_some() || settings.trusted_hops == 0 || !headers.contains_key(X_FORWARDED_PROTO)
        {
            headers.insert(X_FORWARDED_PROTO, scheme(connection));
        }
        headers.insert(X_REQUEST_ID, request_id(random));
    }
    forwarded_for
}

/// Adds what the caller did not say.
fn missing(headers: &mut HeaderMap, connection: &Connection, random: impl FnMut() -> u32) {
    headers.entry(X_FORWARDED_PROTO).or_insert_with(|| scheme(connection));
    headers.entry(X_REQUEST_ID).or_insert_with(|| request_id(random));
}

fn scheme(connection: &Connection) -> HeaderValue {
    HeaderValue::from_static(if connection.tls { "https" } else { "http" })
}

fn contains(proxies: &[Cidr], ip: IpAddr) -> bool {
    proxies.iter().any(|proxy| proxy.contains(ip))
}

/// The entries of `X-Forwarded-For`, the last one first, as far as they are addresses.
fn entries(headers: &HeaderMap) -> impl Iterator<Item = IpAddr> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.rsplit(',')).map_while(|entry| entry.trim().parse().ok())
}

/// Who stands before the trusted proxies: the last entry that is none of them.
fn before(headers: &HeaderMap, proxies: &[Cidr]) -> Option<HeaderValue> {
    entries(headers).find(|ip| !contains(proxies, *ip)).and_then(value)
}

fn value(ip: IpAddr) -> Option<HeaderValue> {
    HeaderValue::try_from(ip.to_string()).ok()
}

/// Removes headers by which a caller would steer an Envoy (retries, timeouts): not a caller's to set.
fn strip_controls(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with("x-envoy-")) {
        let all: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().starts_with("x-envoy-")).cloned().collect();
        for name in all {
            headers.remove(name);
        }
    }
}

/// A random identifier (RFC 9562 section 5.4). Written by hand: the formatter took a fifteenth of a request's time.
fn request_id(random: impl FnMut() -> u32) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    /// Where the two digits of each byte are: hyphens stand between groups.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    let bits = std::iter::repeat_with(random).take(4).fold(0, |bits, word| bits << 32 | u128::from(word));
    let bits = bits & !VERSION & !VARIANT | 4 << 76 | 0b10 << 62;
    let mut text = [b'-'; 36];
    for (byte, place) in bits.to_be_bytes().into_iter().zip(PLACES) {
        text[place] = DIGITS[usize::from(byte >> 4)];
        text[place + 1] = DIGITS[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_random_numbers_when_an_identifier_is_made_then_version_and_variant_are_right() {
        let id = request_id(|| u32::MAX);
        assert_eq!(id.to_str().unwrap(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(request_id(|| 0).to_str().unwrap(), "00000000-0000-4000-8000-000000000000");
    }

    /// What becomes of a request from 10.0.0.1 over TLS: whether its address is added, and the headers, in order of name.
    fn told(settings: &Kourier, lines: &[(&'static str, &'static str)]) -> (ForwardedFor, Vec<(String, String)>) {
        let connection = Connection::new("10.0.0.1:1".parse().unwrap(), true, 0);
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let forwarded_for = describe(&mut headers, &connection, settings, || 0);
        headers.remove(X_REQUEST_ID);
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        all.sort();
        (forwarded_for, all)
    }

    fn lines(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const SAID: &[(&str, &str)] = &[
        ("forwarded", "for=192.0.2.9"),
        ("x-envoy-max-retries", "3"),
        ("x-forwarded-for", "192.0.2.1, 198.51.100.2,10.0.0.7"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "192.0.2.9"),
    ];

    #[test]
    fn given_kouriers_default_when_told_of_a_caller_then_what_it_says_passes() {
        let (forwarded_for, headers) = told(&Kourier::default(), SAID);

        assert_eq!(forwarded_for, ForwardedFor::Leave);
        assert_eq!(headers.len(), 4, "{headers:?}");
        let silent = told(&Kourier::default(), &[]).1;
        assert_eq!(silent, lines(&[("x-forwarded-proto", "https")]));
    }

    #[test]
    fn given_remote_addresses_when_told_of_a_caller_then_as_many_proxies_as_are_trusted_are_believed() {
        for (hops, external, proto) in
            [(0, "10.0.0.1", "https"), (1, "10.0.0.7", "http"), (3, "192.0.2.1", "http"), (4, "10.0.0.1", "http")]
        {
            let settings = Kourier { use_remote_address: true, trusted_hops: hops, ..Kourier::default() };
            let (forwarded_for, headers) = told(&settings, SAID);

            assert_eq!(forwarded_for, ForwardedFor::Append);
            assert!(headers.contains(&("x-envoy-external-address".into(), external.into())), "{hops}: {headers:?}");
            assert!(headers.contains(&("x-forwarded-proto".into(), proto.into())), "{hops}: {headers:?}");
        }
    }

    #[test]
    fn given_trusted_proxies_when_told_of_a_caller_then_others_say_nothing_of_themselves() {
        let strict =
            |block: &str| Kourier { trusted_proxies: Some(vec![block.parse().unwrap()]), ..Kourier::default() };

        let (forwarded_for, headers) = told(&strict("192.0.2.0/24"), SAID);
        assert_eq!(forwarded_for, ForwardedFor::Append);
        assert_eq!(headers, lines(&[("x-envoy-external-address", "10.0.0.1"), ("x-forwarded-proto", "https")]));

        let (_, headers) = told(&strict("10.0.0.0/8"), SAID);
        assert!(headers.contains(&("x-envoy-external-address".into(), "198.51.100.2".into())), "{headers:?}");
        assert!(headers.contains(&("x-forwarded-proto".into(), "http".into())));
        assert_eq!(told(&Kourier { trusted_proxies: Some(Vec::new()), ..Kourier::default() }, SAID).1.len(), 2);
    }
}
