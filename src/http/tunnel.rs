//! Upgraded connections: bytes both ways until both ends have closed, a timer cuts, or the process leaves.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Cutting, End, Watches};
use super::guide::Guide;
use super::replay::Upstream;

/// Bytes that one direction holds at most.
const BUFFER: usize = 8 * 1024;

/// The upstream half of an upgrade: the socket, and what was read beyond the 101.
pub struct Ready {
    upstream: Upstream,
    read_ahead: Bytes,
}

impl Ready {
    /// The half that the application switched.
    #[must_use]
    pub fn new(upstream: Upstream, read_ahead: Bytes) -> Self {
        Self { upstream, read_ahead }
    }
}

/// One direction: what was read and is not written yet.
struct Half {
    buffer: Vec<u8>,
    filled: usize,
    written: usize,
    ended: bool,
    closed: bool,
    frames: Option<Frames>,
}

impl Half {
    fn new(ahead: &[u8], websocket: bool) -> Self {
        let mut buffer = ahead.to_vec();
        let filled = buffer.len();
        buffer.resize(filled.max(BUFFER), 0);
        let mut frames = websocket.then(Frames::default);
        if let Some(frames) = &mut frames {
            frames.pass(ahead);
        }
        Self { buffer, filled, written: 0, ended: false, closed: false, frames }
    }

    /// Moves bytes from `from` to `to`; ready when this direction is closed.
    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &mut usize,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut wrote = false;
            while self.written < self.filled {
                let rest = self.buffer.get(self.written..self.filled).unwrap_or_default();
                let n = std::task::ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += n;
                *moved += n;
                wrote = true;
            }
            if wrote {
                std::task::ready!(Pin::new(&mut *to).poll_flush(cx))?;
            }
            if self.ended {
                if !self.closed {
                    std::task::ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut self.buffer);
            std::task::ready!(Pin::new(&mut *from).poll_read(cx, &mut buf))?;
            let n = buf.filled().len();
            self.written = 0;
            self.filled = n;
            self.ended = n == 0;
            if let Some(frames) = &mut self.frames {
                frames.pass(self.buffer.get(..n).unwrap_or_default());
            }
        }
    }

    fn at_frame_border(&self) -> bool {
        self.written == self.filled && self.frames.as_ref().is_some_and(Frames::at_border)
    }
}

/// Who says when a tunnel has to end.
pub trait Leaves {
    /// Whether it has to; if not, whoever asks is woken when that changes.
    fn must_leave(&self, cx: &mut Context<'_>) -> bool;
}

impl Leaves for Rc<Guide> {
    fn must_leave(&self, cx: &mut Context<'_>) -> bool {
        self.register(cx);
        Guide::must_leave(self)
    }
}

/// Runs a tunnel to its end. `watches` are what was tied to the 101 response; `guide` says when to leave.
pub async fn run<D: AsyncRead + AsyncWrite + Unpin>(
    mut down: D,
    ahead: Bytes,
    up: Ready,
    websocket: bool,
    mut watches: Watches,
    guide: impl Leaves,
) {
    let Ready { mut upstream, read_ahead } = up;
    let mut to_app = Half::new(&ahead, websocket);
    let mut to_caller = Half::new(&read_ahead, websocket);
    let end = std::future::poll_fn(|cx| {
        if guide.must_leave(cx) {
            return Poll::Ready(End::Broken("drain"));
        }
        if let Poll::Ready(Cutting { token, .. }) = watches.poll_cut(cx) {
            return Poll::Ready(End::Broken(token));
        }
        let (mut up, mut back_down) = (0, 0);
        let there = to_app.poll(cx, &mut down, &mut upstream, &mut up);
        let back = to_caller.poll(cx, &mut upstream, &mut down, &mut back_down);
        if back_down > 0 {
            watches.spoke();
        }
        if up + back_down > 0 {
            watches.sent(up + back_down, cx);
        }
        match (there, back) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(End::CallerLeft),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Whole),
            // The application has closed: nothing that the caller sends has an effect any more.
            (_, Poll::Ready(Ok(()))) => Poll::Ready(End::Whole),
            _ => Poll::Pending,
        }
    })
    .await;
    if let End::Broken(_) = end {
        say_goodbye(&mut down, &to_caller, &mut upstream, &to_app).await;
    }
    watches.end(end);
}

/// Close frames (RFC 6455 section 7.4.1: 1001, going away) where no frame is under way.
async fn say_goodbye<D: AsyncWrite + Unpin>(down: &mut D, to_caller: &Half, up: &mut Upstream, to_app: &Half) {
    use tokio::io::AsyncWriteExt as _;
    let goodbye = async {
        if to_caller.at_frame_border() {
            let _ = down.write_all(&[0x88, 2, 0x03, 0xe9]).await;
            let _ = down.shutdown().await;
        }
        if to_app.at_frame_border() {
            // A client's frames are masked; a mask of zeros leaves the code as it is.
            let _ = up.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).await;
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_millis(200), goodbye).await;
}

/// Follows the frames of a WebSocket just far enough to know where one ends.
#[derive(Default)]
pub(crate) struct Frames {
    /// Bytes of the current frame's header so far.
    header: Vec<u8>,
    /// Payload bytes of the current frame that are still to come.
    left: u64,
}

impl Frames {
    /// Whether no frame is under way.
    pub(crate) fn at_border(&self) -> bool {
        self.header.is_empty() && self.left == 0
    }

    /// Follows some more bytes.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= n as u64;
                bytes = bytes.get(n..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else { return };
            self.header.push(*first);
            bytes = rest;
            if let Some(length) = self.payload_length() {
                self.left = length;
                self.header.clear();
            }
        }
    }

    /// The payload's length once the header is whole (RFC 6455 section 5.2).
    fn payload_length(&self) -> Option<u64> {
        let second = *self.header.get(1)?;
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let (extended, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            n => (0, u64::from(n)),
        };
        if self.header.len() < 2 + extended + mask {
            return None;
        }
        let long = self.header.get(2..2 + extended)?.iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
        Some(if extended == 0 { short } else { long })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_frames_in_pieces_when_passed_then_the_border_is_known() {
        let mut stream = vec![0x81, 3, 1, 2, 3, 0x82, 0x84, 9, 9, 9, 9, 1, 2, 3, 4, 0x82, 126, 0, 200];
        stream.extend_from_slice(&[7; 200]);
        let borders = [5, 15, stream.len()];
        let mut frames = Frames::default();
        for (i, byte) in stream.iter().enumerate() {
            frames.pass(&[*byte]);
            assert_eq!(frames.at_border(), borders.contains(&(i + 1)), "after {} bytes", i + 1);
        }
    }
}
