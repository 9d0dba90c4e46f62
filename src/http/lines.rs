//! Heads of more lines than hyper takes without clearing room for them first.
//!
//! hyper's parser of HTTP/1.1 has room for 100 header lines. When told of another number it clears as much room for each
//! message: for 256 lines that was a fifth of all instructions of a plaintext request. So hyper is told of no number.
//! When a head has more than [`KEEP`] lines, those beyond are taken out of the bytes before hyper sees them, and put back
//! into its headers by whoever gets them from hyper. What decides about the message's framing stays in the bytes.
//!
//! Called by the two streams below hyper ([`super::stream`], [`super::replay`]). Data side. A head that cannot be split
//! safely goes to hyper as it is, which refuses it.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, ready};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::io::ReadBuf;

/// Lines that hyper gets in any case, the first one included.
const KEEP: usize = 90;
/// Lines that hyper takes.
pub const HYPER: usize = 100;

/// Lines of which a `HeaderMap` can hold all, whatever is set.
pub const MOST: usize = 20_000;

/// What the side that reads bytes and the one that gets heads from hyper know of each other.
#[derive(Default)]
pub struct Head {
    /// A head is awaited or coming in.
    awaited: Cell<bool>,
    /// Something of it has come.
    came: Cell<bool>,
    /// Which one.
    number: Cell<u32>,
    any: Cell<bool>,
    aside: RefCell<Vec<(HeaderName, HeaderValue)>>,
}

impl Head {
    /// From here on the bytes are a head's.
    pub fn begin(&self) {
        self.awaited.set(true);
        self.came.set(false);
        self.number.set(self.number.get().wrapping_add(1));
    }

    /// Bytes have come.
    pub fn comes(&self) {
        self.came.set(true);
    }

    /// Whether bytes have come since the last head, or the body behind it, had ended.
    pub fn has_begun(&self) -> bool {
        self.came.get()
    }

    /// hyper has made a head of the bytes: `headers`, to which the lines are added that it did not see.
    pub fn end(&self, headers: &mut HeaderMap) {
        self.awaited.set(false);
        if self.any.take() {
            for (name, value) in std::mem::take(&mut *self.aside.borrow_mut()) {
                headers.append(name, value);
            }
        }
    }
}

/// How many lines end in `bytes`. In pieces of which a byte can hold the count, so that many bytes are compared at once.
fn newlines(bytes: &[u8]) -> usize {
    bytes.chunks(255).map(|piece| usize::from(piece.iter().map(|b| u8::from(*b == b'\n')).sum::<u8>())).sum()
}

/// Where in a line the last byte was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Middle,
    Start,
    /// A carriage return at a line's start.
    Return,
}

impl At {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (_, b'\n') => Self::Start,
            (Self::Start, b'\r') => Self::Return,
            _ => Self::Middle,
        }
    }

    /// As [`At::after`] for many bytes, of which the last two decide.
    fn after_all(self, bytes: &[u8]) -> Self {
        let last = bytes.get(bytes.len().saturating_sub(2)..).unwrap_or_default();
        last.iter().fold(if bytes.len() < 2 { self } else { Self::Middle }, |at, byte| at.after(*byte))
    }
}

/// The reading side: bytes on their way to hyper.
pub struct Lines {
    /// Lines that a head may have; at most [`HYPER`] leaves counting to hyper.
    limit: usize,
    /// Bytes that a head may have.
    bytes: usize,
    number: u32,
    count: usize,
    at: At,
    /// What hyper shall not see yet.
    held: Vec<u8>,
    /// What it gets next.
    ready: Vec<u8>,
    given: usize,
}

impl Lines {
    /// Bytes of a connection whose heads have at most `limit` lines and `bytes` bytes.
    #[must_use]
    pub fn new(limit: usize, bytes: usize) -> Self {
        let (held, ready) = (Vec::new(), Vec::new());
        Self { limit, bytes, number: 0, count: 0, at: At::Middle, held, ready, given: 0 }
    }

    /// Gives `prefix` before what is read.
    #[must_use]
    pub fn after(mut self, prefix: Vec<u8>) -> Self {
        self.ready = prefix;
        self
    }

    /// Gives `bytes`, which were read but not used, once more.
    pub fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ready.splice(..self.given, bytes.iter().copied());
            self.given = 0;
        }
    }

    /// Whether there is something to give before something is read.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.given < self.ready.len()
    }

    /// As `read`, less the lines that are set aside.
    pub fn poll_read(
        &mut self,
        head: &Head,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if self.ready.is_empty() && (!head.awaited.get() || self.limit <= HYPER) {
            return read(cx, buf);
        }
        loop {
            let before = buf.filled().len();
            if self.given < self.ready.len() {
                let rest = self.ready.get(self.given..).unwrap_or_default();
                let n = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..n]);
                self.given += n;
                if self.given == self.ready.len() {
                    self.ready = Vec::new();
                    self.given = 0;
                }
            } else {
                ready!(read(cx, buf))?;
            }
            let got = buf.filled().get(before..).unwrap_or_default();
            if got.is_empty() || !head.awaited.get() || self.limit <= HYPER {
                return Poll::Ready(Ok(()));
            }
            let pass = self.look(head, got);
            buf.set_filled(before + pass);
            if pass > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// How many of `got` hyper may see; the others are held.
    fn look(&mut self, head: &Head, got: &[u8]) -> usize {
        if self.number != head.number.get() {
            (self.number, self.count, self.at) = (head.number.get(), 0, At::Middle);
        }
        if self.held.is_empty() {
            let lines = newlines(got);
            if self.count + lines < KEEP {
                self.count += lines;
                self.at = self.at.after_all(got);
                return got.len();
            }
            let Some(border) = self.border(got) else {
                // It ends before there are too many: what follows is no head.
                head.awaited.set(false);
                return got.len();
            };
            self.held.extend_from_slice(got.get(border..).unwrap_or_default());
            self.settle(head);
            return border;
        }
        self.held.extend_from_slice(got);
        self.settle(head);
        0
    }

    /// Where the first line begins that hyper shall not see; none if the head ends before.
    fn border(&mut self, got: &[u8]) -> Option<usize> {
        if self.count >= KEEP {
            return Some(0);
        }
        for (i, byte) in got.iter().enumerate() {
            if *byte == b'\n' {
                if self.at != At::Middle {
                    return None;
                }
                self.count += 1;
                if self.count == KEEP {
                    self.at = At::Start;
                    return Some(i + 1);
                }
            }
            self.at = self.at.after(*byte);
        }
        None
    }

    /// Lets go of what is held once the head is whole, or cannot be split.
    fn settle(&mut self, head: &Head) {
        let mut at = At::Start;
        let end = self.held.iter().position(|byte| {
            let ends = *byte == b'\n' && at != At::Middle;
            at = at.after(*byte);
            ends
        });
        let whole = match end {
            Some(end) => split(&self.held, end + 1, self.limit + 1 - KEEP),
            None if self.held.len() > self.bytes => None,
            None => return,
        };
        head.awaited.set(false);
        let held = std::mem::take(&mut self.held);
        // `ready` may have a rest when the first bytes of the connection came by it.
        let rest = self.ready.split_off(self.given.min(self.ready.len()));
        self.given = 0;
        self.ready = match whole {
            Some((bytes, aside)) => {
                head.any.set(true);
                *head.aside.borrow_mut() = aside;
                bytes
            }
            None => held,
        };
        self.ready.extend_from_slice(&rest);
    }
}

type Aside = Vec<(HeaderName, HeaderValue)>;

/// The lines before `end` without those that have nothing to do with framing, and those. None if they are too many, or
/// if one is no header line.
fn split(held: &[u8], end: usize, most: usize) -> Option<(Vec<u8>, Aside)> {
    let (lines, rest) = held.split_at_checked(end)?;
    let (mut bytes, mut aside) = (Vec::with_capacity(256 + rest.len()), Vec::new());
    for (i, line) in lines.split_inclusive(|b| *b == b'\n').enumerate() {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            bytes.extend_from_slice(line);
            continue;
        }
        if i >= most {
            return None;
        }
        let colon = text.iter().position(|b| *b == b':')?;
        let (name, value) = text.split_at_checked(colon)?;
        let name = HeaderName::from_bytes(name).ok()?;
        // Blanks and tabs only: other white space makes a value that hyper refuses (RFC 9110 section 5.5).
        let value = value.get(1..).unwrap_or_default();
        let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
        let before = value.iter().take_while(blank).count();
        let after = value.iter().rev().take_while(blank).count().min(value.len() - before);
        let value = value.get(before..value.len() - after).unwrap_or_default();
        match name {
            header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::CONNECTION
            | header::EXPECT
            | header::HOST
            | header::TE
            | header::TRAILER
            | header::UPGRADE => bytes.extend_from_slice(line),
            name => aside.push((name, HeaderValue::from_bytes(value).ok()?)),
        }
    }
    bytes.extend_from_slice(rest);
    Some((bytes, aside))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::task::Waker;

    /// What hyper sees of `input`, read in pieces of `piece` bytes, and the lines put back.
    fn seen(input: &[u8], piece: usize, limit: usize) -> (Vec<u8>, HeaderMap) {
        let (head, mut lines) = (Head::default(), Lines::new(limit, 1 << 20));
        head.begin();
        let mut pieces = input.chunks(piece);
        let mut seen = Vec::new();
        loop {
            let mut room = [0; 4096];
            let mut buf = ReadBuf::new(&mut room[..piece.min(4096)]);
            let read = lines.poll_read(&head, &mut Context::from_waker(Waker::noop()), &mut buf, |_, buf| {
                buf.put_slice(pieces.next().unwrap_or_default());
                Poll::Ready(Ok(()))
            });
            assert!(matches!(read, Poll::Ready(Ok(()))));
            if buf.filled().is_empty() {
                break;
            }
            seen.extend_from_slice(buf.filled());
        }
        let mut headers = HeaderMap::new();
        head.end(&mut headers);
        (seen, headers)
    }

    fn request(lines: usize, last: &str, body: &str) -> Vec<u8> {
        let many: String = (0..lines).map(|i| format!("X-{i}: {i}\r\n")).collect();
        format!("POST / HTTP/1.1\r\n{many}{last}\r\n{body}").into_bytes()
    }

    #[test]
    fn given_many_lines_when_read_then_hyper_sees_few_and_the_rest_is_put_back_in_order() {
        let body = "\n".repeat(300);
        for piece in [1, 7, 100, 4096] {
            let input = request(200, "Set-Cookie: a\r\nContent-Length: 300\r\nset-cookie: b\r\n", &body);

            let (bytes, headers) = seen(&input, piece, 256);

            let expected = request(89, "Content-Length: 300\r\n", &body);
            assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&expected), "pieces of {piece}");
            assert_eq!(headers.len(), 200 - 89 + 2);
            assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
        }
    }

    #[test]
    fn given_few_lines_and_a_body_of_many_when_read_then_the_bytes_are_as_they_came() {
        for piece in [1, 2, 3, 64, 4096] {
            for lines in [0, 1, 50, 88, 89] {
                let input = request(lines, "", &"\r\n".repeat(400));
                assert_eq!(seen(&input, piece, 256), (input, HeaderMap::new()), "{lines} lines, pieces of {piece}");
            }
        }
    }

    #[test]
    fn given_too_many_or_malformed_lines_when_read_then_hyper_gets_them_all() {
        for (lines, last) in
            [(257, ""), (120, " folded\r\n"), (120, "no colon\r\n"), (120, "b@d: 1\r\n"), (120, "x: \x0c\r\n")]
        {
            let input = request(lines, last, "");
            assert_eq!(seen(&input, 4096, 256), (input, HeaderMap::new()), "{lines} lines, {last}");
        }
        assert_eq!(seen(&request(256, "", ""), 4096, 256).1.len(), 256 + 1 - KEEP);
    }
}
