//! The PROXY protocol, versions 1 and 2: which caller a load balancer speaks for.
//!
//! Read from the first bytes of a connection, before TLS (data side). Pure. Source: HAProxy's
//! `doc/proxy-protocol.txt`, sections 2.1 and 2.2.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its line end included.
const V1_MAX: usize = 107;
/// What version 2 begins with.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// The longest header of version 2 that is read: addresses and extensions that a load balancer really sends.
const V2_MAX: usize = V2_FIXED + 2048;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// A header of this many bytes.
    Header {
        /// Its length: what follows belongs to the connection.
        length: usize,
        /// The caller; none when the load balancer speaks for itself (health checks) or of another family.
        caller: Option<SocketAddr>,
    },
    /// No header, or a broken one: the connection has to be closed.
    Malformed,
}

/// Reads the beginning of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let signed = bytes.iter().zip(V2_SIGNATURE).take_while(|(a, b)| a == b).count();
    if signed == V2_SIGNATURE.len() {
        return v2(bytes);
    }
    if signed == bytes.len() || (bytes.len() < 6 && b"PROXY ".starts_with(bytes)) {
        return Parsed::Incomplete;
    }
    if bytes.starts_with(b"PROXY ") { v1(bytes) } else { Parsed::Malformed }
}

fn v1(bytes: &[u8]) -> Parsed {
    let window = bytes.get(..bytes.len().min(V1_MAX)).unwrap_or_default();
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAX { Parsed::Incomplete } else { Parsed::Malformed };
    };
    let length = end + 2;
    let Some(line) = window.get(..end).and_then(|line| std::str::from_utf8(line).ok()) else {
        return Parsed::Malformed;
    };
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Parsed::Header { length, caller: None };
    }
    let (source, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (port, target_port) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let addresses: Option<(IpAddr, IpAddr)> = match family {
        "TCP4" => v1_addresses::<Ipv4Addr>(source, target),
        "TCP6" => v1_addresses::<Ipv6Addr>(source, target),
        _ => None,
    };
    match (addresses, v1_port(port), v1_port(target_port), words.next()) {
        (Some((ip, _)), Some(port), Some(_), None) => {
            Parsed::Header { length, caller: Some(SocketAddr::new(ip, port)) }
        }
        _ => Parsed::Malformed,
    }
}

fn v1_addresses<A: std::str::FromStr + Into<IpAddr>>(source: &str, target: &str) -> Option<(IpAddr, IpAddr)> {
    Some((source.parse::<A>().ok()?.into(), target.parse::<A>().ok()?.into()))
}

/// Decimal, no sign, no leading zero.
fn v1_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn v2(bytes: &[u8]) -> Parsed {
    let Some(&[version_and_command, family, high, low]) = bytes.get(12..V2_FIXED).and_then(|b| b.as_array::<4>())
    else {
        return Parsed::Incomplete;
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || length > V2_MAX {
        return Parsed::Malformed;
    }
    let Some(body) = bytes.get(V2_FIXED..length) else { return Parsed::Incomplete };
    let caller = match (version_and_command & 0xf, family) {
        // LOCAL: the load balancer itself.
        (0, _) => None,
        (1, 0x11) => match body {
            [a, b, c, d, _, _, _, _, p, q, ..] => Some(address(IpAddr::from([*a, *b, *c, *d]), *p, *q)),
            _ => return Parsed::Malformed,
        },
        (1, 0x21) => match (body.get(..16).and_then(|b| b.as_array::<16>()), body.get(32..34)) {
            (Some(ip), Some([p, q])) if body.len() >= 36 => Some(address(IpAddr::from(*ip), *p, *q)),
            _ => return Parsed::Malformed,
        },
        // Other families and transports are to be taken, their addresses left alone.
        (1, _) => None,
        _ => return Parsed::Malformed,
    };
    match (family, caller) {
        (0x11, Some(_)) if body.len() < 12 => Parsed::Malformed,
        _ => Parsed::Header { length, caller },
    }
}

fn address(ip: IpAddr, high: u8, low: u8) -> SocketAddr {
    SocketAddr::new(ip, u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(text: &[u8]) -> (usize, Option<String>) {
        match parse(text) {
            Parsed::Header { length, caller } => (length, caller.map(|c| c.to_string())),
            other => panic!("{other:?}"),
        }
    }

    fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn given_headers_of_version_1_when_parsed_then_the_caller_is_found() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET /";
        assert_eq!(header(line), (45, Some("192.0.2.1:56324".to_owned())));
        assert_eq!(header(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n").1.unwrap(), "[2001:db8::1]:1");
        assert_eq!(header(b"PROXY UNKNOWN ffff::1 what ever\r\n").1, None);
        for cut in 0..45 {
            assert_eq!(parse(&line[..cut]), Parsed::Incomplete, "{cut}");
        }
    }

    #[test]
    fn given_headers_of_version_2_when_parsed_then_the_caller_is_found_and_extensions_are_skipped() {
        let v4 = v2_header(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb, 0x04, 0, 1, 9]);
        assert_eq!(header(&v4), (32, Some("192.0.2.1:56324".to_owned())));
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 80;
        assert_eq!(header(&v2_header(0x21, 0x21, &v6)), (52, Some("[::1]:80".to_owned())));
        assert_eq!(header(&v2_header(0x20, 0, &[])), (16, None));
        assert_eq!(header(&v2_header(0x21, 0x31, &[0; 216])).1, None);
        for cut in 0..v4.len() {
            assert_eq!(parse(&v4[..cut]), Parsed::Incomplete, "{cut}");
        }
    }

    #[test]
    fn given_anything_else_when_parsed_then_it_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 120]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"\x16\x03\x01\x02\x00",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 056324 1\r\n",
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1 1 1\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.2 1 1\r\n",
            &long,
            &v2_header(0x11, 0x11, &[0; 12]),
            &v2_header(0x22, 0x11, &[0; 12]),
            &v2_header(0x21, 0x11, &[0; 8]),
            &v2_header(0x21, 0x11, &[0; 11]),
            &v2_header(0x21, 0x21, &[0; 35]),
            &v2_header(0x21, 0x11, &[0; 3000]),
        ] {
            assert_eq!(parse(bytes), Parsed::Malformed, "{bytes:?}");
        }
    }

    proptest::proptest! {
        /// Whatever comes, nothing panics, and more bytes never turn a header or a refusal into something else.
        #[test]
        fn given_any_bytes_when_parsed_then_the_verdict_on_a_prefix_stands(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
            begin in proptest::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 1.2.3.4 ", V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]),
            cut in 0..80_usize,
        ) {
            let all = [begin, &bytes].concat();
            let part = parse(&all[..cut.min(all.len())]);
            proptest::prop_assert!(part == Parsed::Incomplete || part == parse(&all));
        }
    }
}
