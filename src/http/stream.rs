//! The downstream side of a connection as bytes: plain or TLS, with the bytes that were read to find out which
//! protocol it speaks, and with the interim responses and the trailers that hyper has no way to send. What hyper answers by
//! itself is held back here: our own answer, which names its cause, takes its place ([`super::server`]).

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::call::Turn;
use super::limits;
use super::lines::Lines;
use super::trailers;

/// A plain or an encrypted socket.
pub enum Socket {
    /// As it came.
    Plain(TcpStream),
    /// After the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Interim (1xx) responses of the request that is being answered, as they came from the application. hyper's server
/// has no way to send one, so they are written between its own writes: HTTP/1.1 is serial, and while the application
/// has sent interim responses only, hyper has nothing of this request's answer to write.
///
/// Trailers go the same way, since hyper's server writes only those that the head announced: from the end of the body to
/// hyper's next flush all that it writes is the tail of this one response, so that the last chunk is its last five bytes.
#[derive(Default)]
pub struct Interim {
    waiting: RefCell<Vec<u8>>,
    trailers: RefCell<Vec<u8>>,
    /// There is something of either.
    any: Cell<bool>,
}

/// How hyper ends a body in chunks: a last chunk, and no trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Interim {
    /// Queues the head of an interim response, its empty line included.
    pub fn push(&self, head: &[u8]) {
        self.waiting.borrow_mut().extend_from_slice(head);
        self.any.set(true);
    }

    /// Puts `trailers` behind the body in chunks that ends now. To be called before hyper learns of its end.
    pub fn trail(&self, trailers: &HeaderMap) {
        trailers::encode(&mut self.trailers.borrow_mut(), trailers);
        self.any.set(true);
    }

    /// Whether what is written has to wait for the flush that brings the last chunk.
    fn trails(&self) -> bool {
        !self.trailers.borrow().is_empty()
    }

    /// hyper has written all of the response: its trailers go between the last chunk and the empty line.
    fn complete(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let trailers = std::mem::take(&mut *self.trailers.borrow_mut());
        if waiting.ends_with(LAST_CHUNK) {
            let end = waiting.len() - 2;
            waiting.splice(end..end, trailers);
        }
    }
}

/// A connection as hyper's server sees it.
pub struct Stream {
    socket: Socket,
    lines: Lines,
    connection: std::rc::Rc<super::call::Connection>,
    written: usize,
    /// The last write found no room.
    blocked: bool,
}

impl Stream {
    /// A stream that gives what `lines` has of it already before what the socket gives.
    #[must_use]
    pub fn new(socket: Socket, lines: Lines, connection: std::rc::Rc<super::call::Connection>) -> Self {
        Self { socket, lines, connection, written: 0, blocked: false }
    }

    /// Gives `bytes`, which were read but not used, once more.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.lines.unread(bytes);
    }

    /// An answer that hyper makes by itself, to what it can't read: of that the status counts, and ours is written.
    fn hold_back(&self, bytes: &[u8]) {
        let status = bytes.strip_prefix(b"HTTP/1.").and_then(|rest| StatusCode::from_bytes(rest.get(2..5)?).ok());
        if status.is_some() {
            self.connection.unread.set(status);
        }
    }

    /// Whether there is something to read, without reading it.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.lines.has_ready() {
            return Poll::Ready(());
        }
        self.tcp().poll_read_ready(cx).map(drop)
    }

    fn tcp(&self) -> &TcpStream {
        match &self.socket {
            Socket::Plain(socket) => socket,
            Socket::Tls(stream) => stream.get_ref().0,
        }
    }

    fn wrote<T>(&mut self, written: Poll<T>) -> Poll<T> {
        self.blocked = written.is_pending();
        if self.blocked {
            self.connection.quiet.set(false);
        }
        written
    }

    /// Takes `buf` where it has to wait for the trailers behind it; else makes way for it.
    fn poll_held(&mut self, cx: &mut Context<'_>, buf: &[&[u8]]) -> Poll<io::Result<Option<usize>>> {
        if !self.connection.interim.trails() {
            let written = self.poll_interim(cx);
            return self.wrote(written).map_ok(|()| None);
        }
        // The tail of one response is no more than hyper holds of it anyway.
        let mut waiting = self.connection.interim.waiting.borrow_mut();
        buf.iter().for_each(|piece| waiting.extend_from_slice(piece));
        Poll::Ready(Ok(Some(buf.iter().map(|piece| piece.len()).sum())))
    }

    /// Writes the interim responses that wait; ready when none does.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.connection.clone();
        while connection.interim.any.get() {
            let waiting = connection.interim.waiting.borrow();
            let rest = waiting.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                drop(waiting);
                connection.interim.waiting.borrow_mut().clear();
                connection.interim.any.set(false);
                self.written = 0;
                return self.socket.poll_flush(cx);
            }
            self.written += ready!(self.socket.poll_write(cx, rest))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    /// Reads some bytes. Not as many as there is room for: hyper asks for twice as much whenever it got all, up to the
    /// longest head, and each piece of a body would become as large.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(&mut s.take(limits::READ)).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(&mut s.take(limits::READ)).poll_read(cx, buf),
        }
    }
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
}

/// Bytes up to which several pieces are copied into one.
const FLAT: usize = 1024;

/// Small pieces as one: `writev` costs the kernel more than the copy and a plain `send`.
fn flat<'a>(pieces: &'a [io::IoSlice<'_>], room: &'a mut [u8; FLAT]) -> Option<&'a [u8]> {
    if let [one] = pieces {
        return Some(one);
    }
    let mut used = 0;
    for piece in pieces {
        room.get_mut(used..used + piece.len())?.copy_from_slice(piece);
        used += piece.len();
    }
    room.get(..used)
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let socket = &mut this.socket;
        let before = buf.filled().len();
        let read = this.lines.poll_read(&this.connection.head, cx, buf, |cx, buf| socket.poll_read(cx, buf));
        if buf.filled().len() > before {
            this.connection.head.comes();
        }
        this.connection.quiet.set(read.is_pending() && !this.blocked);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.connection.turn.get() == Turn::Caller && !self.connection.h2.get() {
            self.hold_back(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        if self.connection.interim.any.get()
            && let Some(held) = ready!(self.poll_held(cx, &[buf]))?
        {
            return Poll::Ready(Ok(held));
        }
        let written = self.socket.poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.turn.get() == Turn::Caller && !self.connection.h2.get() {
            bufs.iter().for_each(|buf| self.hold_back(buf));
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        if self.connection.interim.any.get() {
            let pieces: SmallVec<[&[u8]; 8]> = bufs.iter().map(|buf| &**buf).collect();
            if let Some(held) = ready!(self.poll_held(cx, &pieces))? {
                return Poll::Ready(Ok(held));
            }
        }
        let written = match &mut self.socket {
            Socket::Plain(s) => match flat(bufs, &mut [0; FLAT]) {
                Some(bytes) => Pin::new(s).poll_write(cx, bytes),
                None => Pin::new(s).poll_write_vectored(cx, bufs),
            },
            Socket::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        };
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes after it has asked the service, whatever there is to write.
        if self.connection.departure.is_wanted() {
            self.connection.departure.look_at(self.tcp());
        }
        if self.connection.interim.any.get() {
            self.connection.interim.complete();
            let written = self.poll_interim(cx);
            ready!(self.wrote(written))?;
        }
        let flushed = self.socket.poll_flush(cx);
        if flushed.is_ready() && self.connection.turn.get() == Turn::Rest {
            // hyper flushes when it has written all that it holds.
            self.connection.turn.set(Turn::Caller);
        }
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.unread.get().is_some() {
            // There is an answer yet to come.
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
