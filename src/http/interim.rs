//! Interim (1xx) responses in an application's bytes: where they end, and what of them goes on to a caller.
//!
//! Called by [`super::replay`], which sees the bytes before hyper does. Data side, pure. The application's bytes are
//! written to a caller here without a parser of HTTP between, so nothing passes that is not one whole head in itself:
//! what a lenient reader could take for a second response would be one.
//!
//! Source: RFC 9110 sections 7.6.1 and 15.2, RFC 9112 sections 2.2 and 4. A line may end with a bare LF, as hyper has
//! it; what goes on ends with CR LF.

use std::io;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::headers::{self, Has};
use super::limits;

/// What the first bytes of a response are.
#[derive(Debug, PartialEq, Eq)]
pub enum Interim {
    /// Not an interim response, or nothing that is HTTP: hyper's to judge.
    No,
    /// More bytes are needed.
    Incomplete,
    /// An interim response of this many bytes.
    Head(usize),
}

impl Interim {
    /// Looks at the first bytes of a response.
    #[must_use]
    pub fn look(bytes: &[u8]) -> Self {
        const START: &[u8] = b"HTTP/1.1 1";
        let common = bytes.iter().zip(START).take_while(|(a, b)| a == b).count();
        if common < START.len() {
            return if common == bytes.len() { Self::Incomplete } else { Self::No };
        }
        match bytes.get(START.len()..).unwrap_or_default() {
            // A switch of protocols is final for hyper.
            [b'0', b'1', ..] => Self::No,
            [a, b, b' ' | b'\r' | b'\n', ..] if a.is_ascii_digit() && b.is_ascii_digit() => match end(bytes) {
                Some(end) => Self::Head(end),
                None => Self::Incomplete,
            },
            [_, _, _, ..] => Self::No,
            [a, ..] if !a.is_ascii_digit() => Self::No,
            [_, b, ..] if !b.is_ascii_digit() => Self::No,
            _ => Self::Incomplete,
        }
    }
}

/// Behind the first empty line.
fn end(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if matches!(bytes.get(start..at), Some(b"" | b"\r")) {
            return Some(at + 1);
        }
        start = at + 1;
    }
    None
}

/// Takes the whole interim heads off the front of `held` and gives each to `taken`, as it may go on to a caller. True
/// when what follows is (the beginning of) a final head.
///
/// # Errors
/// A head is malformed or too large.
pub fn take(held: &mut Vec<u8>, mut taken: impl FnMut(&[u8])) -> io::Result<bool> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    loop {
        match Interim::look(held) {
            Interim::No => return Ok(true),
            Interim::Incomplete if held.len() > limits::INTERIM_BYTES => {
                return Err(invalid("interim response too large"));
            }
            Interim::Incomplete => return Ok(false),
            Interim::Head(length) => {
                let rest = held.split_off(length);
                let head = std::mem::replace(held, rest);
                taken(&clean(&head).ok_or(invalid("interim response malformed"))?);
            }
        }
    }
}

/// `head` with the lines that concern more than one connection, each as it came but for its end. None if it is malformed.
fn clean(head: &[u8]) -> Option<Vec<u8>> {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.take_while(|line| !line.is_empty());
    // The same bytes may stand in a reason phrase as in a value.
    let status = lines.next().filter(|line| HeaderValue::from_bytes(line).is_ok())?;
    let mut headers = HeaderMap::new();
    let mut named = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        let name = HeaderName::from_bytes(name).ok()?;
        headers.append(name.clone(), HeaderValue::from_bytes(value.get(1..)?).ok()?);
        named.push((name, line));
    }
    let has = Has::of(&headers);
    headers::strip_hop_by_hop(&mut headers, has);
    // There is no body that these could be about (RFC 9110 section 8.6).
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRAILER);
    let mut out = Vec::with_capacity(head.len());
    for line in std::iter::once(status).chain(named.iter().filter(|(n, _)| headers.contains_key(n)).map(|(_, l)| *l)) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_the_first_bytes_of_a_response_when_looked_at_then_only_whole_interim_heads_are_taken() {
        let cases: [(&[u8], Interim); 15] = [
            (b"", Interim::Incomplete),
            (b"HTTP/1.1", Interim::Incomplete),
            (b"HTTP/1.1 10", Interim::Incomplete),
            (b"HTTP/1.1 103", Interim::Incomplete),
            (b"HTTP/1.1 200 OK", Interim::No),
            (b"HTTP/1.0 200 OK", Interim::No),
            (b"junk", Interim::No),
            (b"HTTP/1.1 101 Switching", Interim::No),
            (b"HTTP/1.1 1x", Interim::No),
            (b"HTTP/1.1 1000 What\r\n\r\n", Interim::No),
            (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n", Interim::Incomplete),
            (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200", Interim::Head(28)),
            (b"HTTP/1.1 103\r\n\r\n", Interim::Head(16)),
            (b"HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 200 OK\r\n\r\n", Interim::Head(34)),
            (b"HTTP/1.1 103 Early Hints\r\nLink: x\n\r\nHTTP/1.1", Interim::Head(36)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Interim::look(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    fn taken(bytes: &[u8]) -> io::Result<(String, String)> {
        let (mut held, mut heads) = (bytes.to_vec(), Vec::new());
        take(&mut held, |head| heads.extend_from_slice(head))?;
        Ok((String::from_utf8(heads).unwrap(), String::from_utf8(held).unwrap()))
    }

    /// A caller would have taken the final head for one of ours.
    #[test]
    fn given_a_head_that_ends_with_bare_line_feeds_when_taken_then_the_final_head_stays() {
        let (heads, held) = taken(b"HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(heads, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        assert_eq!(held, "HTTP/1.1 200 OK\r\n\r\n");
    }

    #[test]
    fn given_lines_of_one_connection_when_taken_then_they_stay_behind() {
        let (heads, _) = taken(
            b"HTTP/1.1 103 Early Hints\r\nConnection: close, x-a\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\nlink: </a>\r\n\
              Content-Length: 5\r\nLink:  </b>\r\n\r\n",
        )
        .unwrap();
        assert_eq!(heads, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nLink:  </b>\r\n\r\n");
    }

    #[test]
    fn given_a_malformed_or_endless_head_when_taken_then_it_is_refused() {
        for head in [
            "HTTP/1.1 103 a\rb\r\n\r\n",
            "HTTP/1.1 103 a\r\nno colon\r\n\r\n",
            "HTTP/1.1 103 a\r\nx: 1\r\n folded\r\n\r\n",
        ] {
            assert!(taken(head.as_bytes()).is_err(), "{head:?}");
        }
        assert!(taken(&[b"HTTP/1.1 103 ".as_slice(), &vec![b'a'; limits::INTERIM_BYTES]].concat()).is_err());
    }
}
