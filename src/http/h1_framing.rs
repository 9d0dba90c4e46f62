//! Framing of HTTP/1.1 messages towards an upstream (RFC 9112 sections 6 and 7): where a body ends, what a chunk is;
//! and what headers say of the connection.
//!
//! Data side; [`super::h1_client`] calls it with the bytes that it reads. Nothing here reads or writes by itself.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

/// Bytes of the line that begins a chunk, and of all trailers.
const CHUNK_LINE: usize = 16 * 1024;

/// Why there is no response, or no end of it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The upstream closed the connection.
    #[error("connection closed before message completed")]
    Eof,
    /// What it sent is not HTTP, or not allowed.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its head has more lines or bytes than are taken; which of them.
    #[error("the response's head has too many {0}")]
    HeadTooLarge(&'static str),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The request's body ended before the length that was announced.
    #[error("the request's body is shorter than its length")]
    ShortBody,
}

/// How much of a body is to come, or to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks, and where in one.
    Chunked(Chunk),
    /// Until the connection ends.
    Close,
}

/// What comes next of a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The line with a chunk's size.
    Size,
    /// So many bytes of it.
    Data(u64),
    /// The line's end behind them.
    AfterData,
    /// Trailers, or the empty line that stands for them.
    Trailers,
}

/// A frame of what has come; none: more has to come, or the end has.
///
/// # Errors
/// What came is not framed as it says.
pub fn decode(input: &mut BytesMut, incoming: &mut Option<Framing>) -> Result<Option<Frame<Bytes>>, Fault> {
    loop {
        match *incoming {
            None | Some(Framing::Length(0)) => return Ok(None),
            Some(Framing::Length(left)) => {
                let data = take(input, left);
                *incoming = Some(Framing::Length(left - data.len() as u64));
                return Ok((!data.is_empty()).then(|| Frame::data(data)));
            }
            Some(Framing::Close) => {
                let data = input.split().freeze();
                return Ok((!data.is_empty()).then(|| Frame::data(data)));
            }
            Some(Framing::Chunked(Chunk::Data(left))) => {
                let data = take(input, left);
                let left = left - data.len() as u64;
                *incoming = Some(Framing::Chunked(if left == 0 { Chunk::AfterData } else { Chunk::Data(left) }));
                return Ok((!data.is_empty()).then(|| Frame::data(data)));
            }
            Some(Framing::Chunked(Chunk::Trailers)) => {
                let Some(end) = trailers_end(input)? else { return Ok(None) };
                let block = input.split_to(end).freeze();
                *incoming = None;
                return Ok(Some(read_trailers(&block)?).filter(|t| !t.is_empty()).map(Frame::trailers));
            }
            Some(Framing::Chunked(at)) => {
                let Some(end) = input.iter().position(|b| *b == b'\n') else {
                    if input.len() > CHUNK_LINE {
                        return Err(Fault::Malformed("chunk line too long"));
                    }
                    return Ok(None);
                };
                if end > CHUNK_LINE {
                    // However it was cut into pieces on its way.
                    return Err(Fault::Malformed("chunk line too long"));
                }
                let line = input.split_to(end + 1);
                let line = line.strip_suffix(b"\r\n").ok_or(Fault::Malformed("chunk line without CR"))?;
                *incoming = Some(Framing::Chunked(match at {
                    Chunk::AfterData if line.is_empty() => Chunk::Size,
                    Chunk::AfterData => return Err(Fault::Malformed("chunk longer than its size")),
                    _ => match chunk_size(line)? {
                        0 => Chunk::Trailers,
                        size => Chunk::Data(size),
                    },
                }));
            }
        }
    }
}

fn take(input: &mut BytesMut, most: u64) -> Bytes {
    let n = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    input.split_to(n).freeze()
}

/// The length that one more `Content-Length` line leaves.
///
/// # Errors
/// It is none, or another than before.
pub fn same_length(before: Option<u64>, value: &HeaderValue) -> Result<Option<u64>, Fault> {
    let bad = Fault::Malformed("bad Content-Length");
    let mut length = before;
    for text in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return Err(bad);
        }
        let Some(n) = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) else { return Err(bad) };
        if length.is_some_and(|length| length != n) {
            return Err(bad);
        }
        length = Some(n);
    }
    Ok(length)
}

/// What stands last in a list.
#[must_use]
pub fn last_token(value: &HeaderValue) -> &[u8] {
    value.as_bytes().rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii()
}

/// The parameter `timeout` of `Keep-Alive` (RFC 2068 section 19.7.1.1), which Apache, Node and others send: seconds.
#[must_use]
pub fn keep_time(value: &HeaderValue) -> Option<Duration> {
    let parameters = value.to_str().ok()?.split(',').filter_map(|parameter| parameter.trim().split_once('='));
    let mut timeouts = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    timeouts.next()?.1.trim().parse().ok().map(Duration::from_secs)
}

fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 {
        return Err(Fault::Malformed("bad chunk size"));
    }
    digits.iter().try_fold(0u64, |size, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(Fault::Malformed("bad chunk size"))?;
        Ok((size << 4) | u64::from(digit))
    })
}

/// Where the trailers and their empty line end.
fn trailers_end(input: &[u8]) -> Result<Option<usize>, Fault> {
    if input.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    match input.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) if end <= CHUNK_LINE => Ok(Some(end + 4)),
        None if input.len() <= CHUNK_LINE + 3 => Ok(None),
        _ => Err(Fault::Malformed("trailers too large")),
    }
}

fn read_trailers(block: &[u8]) -> Result<HeaderMap, Fault> {
    let bad = || Fault::Malformed("bad trailers");
    let mut trailers = HeaderMap::new();
    for line in block.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|b| *b == b':').ok_or_else(bad)?;
        let (name, mut value) = line.split_at_checked(colon).ok_or_else(bad)?;
        value.advance(1);
        let name = HeaderName::from_bytes(name).map_err(|_| bad())?;
        trailers.append(name, HeaderValue::from_bytes(value.trim_ascii()).map_err(|_| bad())?);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests;
