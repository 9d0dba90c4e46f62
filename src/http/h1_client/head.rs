//! The head of a response: parsed, and what it says of the body behind it and of the connection.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, Version};

use super::Http1;
use crate::http::h1_framing::{Chunk, Fault, Framing, keep_time, last_token, same_length};

/// Room for header lines on the stack; cleared by nobody.
const LINES: usize = 512;

impl Http1 {
    /// Makes a response of a whole head, and keeps what follows it, or all of it if it is not whole.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<Option<http::Response<()>>, Fault> {
        let mut lines = [const { MaybeUninit::uninit() }; LINES];
        let mut parsed = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config.allow_obsolete_multiline_headers_in_responses(true);
        let room = lines.get_mut(..self.header_lines.min(LINES)).unwrap_or_default();
        let mut read = config.parse_response_with_uninit_headers(&mut parsed, bytes, room);
        let mut many = Vec::new();
        if read == Err(httparse::Error::TooManyHeaders) && self.header_lines > LINES {
            many.resize_with(self.header_lines, MaybeUninit::uninit);
            parsed = httparse::Response::new(&mut []);
            read = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut many);
        }
        let length = match read {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() <= self.header_bytes => {
                self.input.extend_from_slice(bytes);
                return Ok(None);
            }
            Ok(httparse::Status::Partial) => return Err(Fault::HeadTooLarge("bytes")),
            Err(httparse::Error::TooManyHeaders) => return Err(Fault::HeadTooLarge("lines")),
            Err(_) => return Err(Fault::Malformed("not an HTTP response")),
        };
        let block = Bytes::copy_from_slice(bytes);
        let mut response = http::Response::new(());
        *response.status_mut() =
            parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Fault::Malformed("bad status"))?;
        let http_11 = parsed.version == Some(1);
        *response.version_mut() = if http_11 { Version::HTTP_11 } else { Version::HTTP_10 };
        let headers = response.headers_mut();
        // hyper's server reads the next request into this map: with some room it need not grow when headers are added.
        // The request's own map could serve here, but what is freed and taken again at once stays in the processor's cache.
        headers.reserve(parsed.headers.len().max(self.header_room));
        for line in parsed.headers.iter() {
            let start = (line.value.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
            // An empty value points nowhere in particular.
            let end = if line.value.is_empty() { start } else { start + line.value.len() };
            let value = match block.get(start..end) {
                None => Bytes::new(),
                // Folded lines become one (RFC 9112 section 5.2).
                Some(text) if text.contains(&b'\n') => unfolded(text),
                Some(_) => block.slice(start..end),
            };
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Fault::Malformed("bad header name"))?;
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Fault::Malformed("bad header value"))?;
            headers.append(name, value);
        }
        self.frame(&mut response, http_11)?;
        self.early = if length < bytes.len() { block.slice(length..) } else { Bytes::new() };
        Ok(Some(response))
    }

    /// How the body ends, and whether another exchange may follow it (RFC 9112 sections 6.3 and 9.3).
    fn frame(&mut self, response: &mut http::Response<()>, http_11: bool) -> Result<(), Fault> {
        let status = response.status();
        let headers = response.headers_mut();
        let (mut lengths, mut encoded, mut chunked, mut close, mut alive) = (Ok(None), false, false, false, false);
        self.keep_time = None;
        for (name, value) in headers.iter() {
            match *name {
                header::CONTENT_LENGTH => lengths = lengths.and_then(|before| same_length(before, value)),
                header::TRANSFER_ENCODING => {
                    encoded = true;
                    chunked = last_token(value).eq_ignore_ascii_case(b"chunked");
                }
                header::CONNECTION => {
                    for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                        close |= token.eq_ignore_ascii_case(b"close");
                        alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ if name.as_str() == "keep-alive" => self.keep_time = keep_time(value),
                _ => {}
            }
        }
        self.keep = !close && (http_11 || alive);
        let bodiless = self.head_only
            || status.is_informational()
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        self.incoming = Some(match lengths {
            _ if bodiless => Framing::Length(0),
            _ if encoded && !http_11 => return Err(Fault::Malformed("transfer coding in an HTTP/1.0 response")),
            _ if chunked => Framing::Chunked(Chunk::Size),
            _ if encoded => Framing::Close,
            Err(fault) => return Err(fault),
            Ok(Some(length)) => Framing::Length(length),
            Ok(None) => Framing::Close,
        });
        if encoded {
            headers.remove(header::CONTENT_LENGTH);
        }
        if self.incoming == Some(Framing::Close) {
            self.keep = false;
        }
        Ok(())
    }
}

fn unfolded(text: &[u8]) -> Bytes {
    text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }).collect()
}
