//! An HTTP/2 connection to an upstream as bytes, and what these tell when it ends: whether a request can have reached
//! the upstream at all.
//!
//! Data side. [`super::upstream`] puts a [`Wired`] below `h2`, which reports a broken connection alike for a request whose
//! head was never written and for one that was being worked on. Three things are known here that it does not tell:
//!
//! - whether a byte was written since a request began;
//! - whether a byte came since then (what serves a connection says something: an update of a window, an answer);
//! - whether the peer's kernel refused bytes: it resets a connection that is closed with unread bytes, or that gets bytes
//!   after it was closed (RFC 9293 section 3.6.1). A process that has read all it got ends its connection without a reset,
//!   unless it asks for one (`SO_LINGER` of zero).
//!
//! A failing write is not reported, since what the peer said before (a GOAWAY that names the last stream it took up) may
//! still be there to be read: the reading side tells of the end.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::dial::Socket;

/// How long, and how often, a peer's reset is awaited after the end of what it sends, when it owes an answer.
const RESET_WAIT: Duration = Duration::from_millis(1);
const RESET_LOOKS: u8 = 8;

/// What is known of one connection, by its streams, its pool and its bytes.
#[derive(Default)]
pub struct Wire {
    /// Takes no more streams.
    pub closed: Cell<bool>,
    /// Streams at once that the upstream allows.
    pub most: Cell<usize>,
    streams: Cell<usize>,
    /// A response came by it.
    served: Cell<bool>,
    read: Cell<u64>,
    written: Cell<u64>,
    /// Both as they were when the first stream after an idle time began.
    woken: Cell<(u64, u64)>,
    /// No other has begun since.
    alone: Cell<bool>,
    refused: Cell<bool>,
}

impl Wire {
    /// A connection that may have so many streams until it says otherwise.
    #[must_use]
    pub fn new(most: usize) -> Rc<Self> {
        let wire = Self::default();
        wire.most.set(most);
        Rc::new(wire)
    }

    /// Streams under way.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.get()
    }

    /// A stream begins, of those that count already. What is returned is for [`Self::is_unwritten`].
    pub fn begin(&self) -> u64 {
        let written = self.written.get();
        let first = self.streams.get() <= 1;
        self.alone.set(first);
        if first {
            self.woken.set((self.read.get(), written));
        }
        written
    }

    /// A response has begun.
    pub fn serves(&self) {
        self.served.set(true);
    }

    /// Whether it has served a request.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.served.get()
    }

    /// Whether it may have been closed while it was idle: it had served, a stream has begun since, and nothing has come.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.served.get() && self.streams.get() > 0 && self.woken.get().0 == self.read.get()
    }

    /// Whether nothing was written since the stream began for which [`Self::begin`] returned this.
    #[must_use]
    pub fn is_unwritten(&self, begun: u64) -> bool {
        self.written.get() == begun
    }

    /// Whether the connection had served, was idle, and was found closed by the one request that was written then: not a
    /// byte has come since, and the peer refused bytes, so it has not read all of that request.
    #[must_use]
    pub fn was_closed_while_idle(&self) -> bool {
        self.served.get() && self.refused.get() && self.alone.get() && self.woken.get().0 == self.read.get()
    }

    /// Whether the peer owes a word: something was written after an idle time, and nothing has come since.
    fn owes(&self) -> bool {
        let (read, written) = self.woken.get();
        self.read.get() == read && self.written.get() > written
    }
}

/// Counts a stream until it is dropped.
pub struct Counted(pub Rc<Wire>);

impl Counted {
    /// One more.
    #[must_use]
    pub fn new(wire: &Rc<Wire>) -> Self {
        wire.streams.set(wire.streams.get() + 1);
        Self(wire.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// The connection as `h2` sees it.
pub struct Wired {
    socket: Socket,
    wire: Rc<Wire>,
    /// A write failed.
    broken: bool,
    wait: Option<(Pin<Box<Sleep>>, u8)>,
}

impl Wired {
    /// The bytes of `socket`, of which `wire` shall know.
    #[must_use]
    pub fn new(socket: Socket, wire: Rc<Wire>) -> Self {
        Self { socket, wire, broken: false, wait: None }
    }

    fn wrote(&mut self, all: usize, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Ok(n) => {
                self.wire.written.set(self.wire.written.get() + n as u64);
                Ok(n)
            }
            Err(error) if is_reset(&error) => {
                self.wire.refused.set(true);
                self.broken = true;
                Ok(all)
            }
            Err(error) => Err(error),
        }
    }

    /// The peer's part has ended. Its reset, if there is one, may be a moment behind.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.wire.refused.get() && self.wire.owes() {
            if self.socket.was_reset() {
                self.wire.refused.set(true);
                break;
            }
            let (sleep, looks) = self.wait.get_or_insert_with(|| (Box::pin(tokio::time::sleep(RESET_WAIT)), 0));
            if *looks >= RESET_LOOKS {
                break;
            }
            ready!(sleep.as_mut().poll(cx));
            *looks += 1;
            sleep.as_mut().reset(tokio::time::Instant::now() + RESET_WAIT);
        }
        Poll::Ready(())
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl AsyncRead for Wired {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.socket).poll_read(cx, buf));
        let got = buf.filled().len() - before;
        if got > 0 {
            this.wire.read.set(this.wire.read.get() + got as u64);
        } else {
            match &read {
                Ok(()) => ready!(this.poll_end(cx)),
                Err(error) if is_reset(error) => this.wire.refused.set(true),
                Err(_) => {}
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Wired {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes));
        Poll::Ready(self.wrote(bytes.len(), written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || slices.iter().map(|slice| slice.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(all()));
        }
        match ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, slices)) {
            Ok(n) => Poll::Ready(self.wrote(n, Ok(n))),
            failed => Poll::Ready(self.wrote(all(), failed)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx)).map(|()| 0);
        Poll::Ready(self.wrote(0, flushed).map(drop))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read as _, Write as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A connection that served, and the other end of it.
    fn pair() -> (Wired, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let (far, _) = listener.accept().unwrap();
        let wire = Wire::new(100);
        wire.serves();
        (Wired::new(Socket::Plain(tokio::net::TcpStream::from_std(near).unwrap()), wire), far)
    }

    fn on_a_worker(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    async fn end(wired: &mut Wired) {
        let _ = wired.read_to_end(&mut Vec::new()).await;
    }

    #[test]
    fn given_an_idle_connection_that_the_peer_closed_when_written_to_then_it_is_known_that_nobody_read_it() {
        on_a_worker(async {
            let (mut wired, far) = pair();
            let _stream = Counted::new(&wired.wire);
            let begun = wired.wire.begin();
            drop(far);
            wired.write_all(b"request").await.unwrap();
            assert!(!wired.wire.is_unwritten(begun));
            end(&mut wired).await;
            assert!(wired.wire.was_closed_while_idle());
            // Another one is not written at all.
            let begun = wired.wire.begin();
            wired.write_all(b"request").await.unwrap();
            assert!(wired.wire.is_unwritten(begun));
        });
    }

    #[test]
    fn given_a_peer_that_closes_with_the_request_unread_when_it_ends_then_that_is_known() {
        on_a_worker(async {
            let (mut wired, far) = pair();
            let _stream = Counted::new(&wired.wire);
            wired.wire.begin();
            wired.write_all(b"request").await.unwrap();
            drop(far);
            end(&mut wired).await;
            assert!(wired.wire.was_closed_while_idle());
        });
    }

    #[test]
    fn given_a_peer_that_read_the_request_when_it_closes_then_it_may_have_done_it() {
        on_a_worker(async {
            let (mut wired, mut far) = pair();
            let _stream = Counted::new(&wired.wire);
            wired.wire.begin();
            wired.write_all(b"request").await.unwrap();
            far.read_exact(&mut [0; 7]).unwrap();
            drop(far);
            end(&mut wired).await;
            assert!(!wired.wire.was_closed_while_idle());
        });
    }

    #[test]
    fn given_a_peer_that_said_something_when_it_resets_then_it_may_have_done_it() {
        on_a_worker(async {
            let (mut wired, mut far) = pair();
            let _stream = Counted::new(&wired.wire);
            wired.wire.begin();
            wired.write_all(b"request").await.unwrap();
            far.write_all(b"a window").unwrap();
            assert_eq!(wired.read(&mut [0; 100]).await.unwrap(), 8);
            drop(far);
            end(&mut wired).await;
            assert!(wired.wire.refused.get() && !wired.wire.was_closed_while_idle());
        });
    }

    #[test]
    fn given_a_goaway_before_a_reset_when_a_write_fails_then_it_is_read_all_the_same() {
        on_a_worker(async {
            let (mut wired, mut far) = pair();
            wired.write_all(b"unread").await.unwrap();
            far.write_all(b"goaway").unwrap();
            drop(far);
            let written = wired.wire.written.get();
            while wired.wire.written.get() != written || !wired.broken {
                wired.write_all(b"more").await.unwrap();
                assert!(wired.wire.written.get() < 10_000, "the reset came");
            }
            let mut got = Vec::new();
            let _ = wired.read_to_end(&mut got).await;
            assert_eq!(got, b"goaway");
        });
    }
}
