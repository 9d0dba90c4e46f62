//! The upstream side of an HTTP/1.1 connection as bytes, which survives an application that closes idle connections.
//!
//! A pooled connection may have been closed by the application in the moment in which a request is written to it; no
//! check before can exclude that. So the bytes of a request on a *reused* connection are kept (up to
//! [`limits::REPLAY_BYTES`]) until the first byte of its response. When the connection ends before that byte, they go
//! out once more on a fresh one, whatever the method: no handler that answers can have seen them. Whoever reads above
//! notices nothing of it. A request that is or may become larger than that does not take the risk: its reused connection is
//! exchanged for a fresh one before a byte of it is written ([`Upstream::renew`]).
//!
//! Interim (1xx) responses are taken out here as well and handed to the downstream side ([`super::interim`], RFC 9110
//! section 15.2 demands it of a proxy).

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::call::Call;
use super::dial::{Socket, Target, Unreached};
use super::interim::{self, Interim};
use super::{limits, spare};

/// What the pool tells the connection about the exchange that runs on it.
#[derive(Default)]
pub struct Exchange {
    /// The connection served a request before: what is written is kept until the response begins.
    pub replayable: Cell<bool>,
    /// No byte of the response has come.
    pub awaiting: Cell<bool>,
    /// A byte came since the request began, be it of an interim response.
    pub heard: Cell<bool>,
    /// The request under way.
    pub call: RefCell<Option<Rc<Call>>>,
    /// The trust generation that verified the peer; 0 in plaintext.
    pub generation: Cell<u64>,
}

enum Mode {
    Live,
    Connecting(Pin<Box<dyn Future<Output = Result<(Socket, u64), Unreached>>>>),
    Resending(usize),
    /// There is no fresh connection; whoever reads is told why.
    Failed(Option<io::Error>),
}

/// A connection to the application as [`super::h1_client`] sees it.
pub struct Upstream {
    socket: Socket,
    target: Rc<Target>,
    exchange: Rc<Exchange>,
    kept: Vec<u8>,
    mode: Mode,
    /// What was read of a response's head while it may be an interim one, or read beyond one.
    held: Vec<u8>,
}

impl Upstream {
    /// A fresh connection.
    #[must_use]
    pub fn new(socket: Socket, target: Rc<Target>, exchange: Rc<Exchange>) -> Self {
        Self { socket, target, exchange, kept: Vec::new(), mode: Mode::Live, held: Vec::new() }
    }

    fn may_replay(&self) -> bool {
        self.exchange.replayable.get() && self.exchange.awaiting.get()
    }

    fn reconnect(&mut self) {
        if let Some(local) = &self.target.local {
            local.told().sent_again();
        }
        self.renew();
    }

    /// Goes on with a fresh connection in the place of this one, and with what was written of the request under way.
    pub fn renew(&mut self) {
        self.exchange.replayable.set(false);
        let target = self.target.clone();
        self.mode = Mode::Connecting(Box::pin(async move { target.dial().await }));
    }

    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.mode {
                Mode::Live => return Poll::Ready(Ok(())),
                Mode::Connecting(connect) => match ready!(connect.as_mut().poll(cx)) {
                    Ok((socket, generation)) => {
                        self.socket = socket;
                        self.exchange.generation.set(generation);
                        self.mode = Mode::Resending(0);
                    }
                    Err(error) => self.mode = Mode::Failed(Some(io::Error::other(error))),
                },
                Mode::Failed(_) => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                Mode::Resending(sent) => {
                    while let Some(rest) = self.kept.get(*sent..).filter(|r| !r.is_empty()) {
                        *sent += ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
                    }
                    ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
                    self.mode = Mode::Live;
                    self.kept = Vec::new();
                }
            }
        }
    }

    fn keep(&mut self, written: &[u8]) {
        if self.kept.len() + written.len() > limits::REPLAY_BYTES {
            self.exchange.replayable.set(false);
            self.kept = Vec::new();
        } else {
            if self.kept.capacity() == 0 {
                self.kept = spare::take();
            }
            self.kept.extend_from_slice(written);
        }
    }

    fn response_began(&mut self) {
        self.exchange.replayable.set(false);
        self.exchange.awaiting.set(false);
        spare::give(std::mem::take(&mut self.kept));
    }

    /// Takes complete interim heads off the front of `held`; true when what follows is (the beginning of) a final one.
    fn take_interim(&mut self) -> io::Result<bool> {
        let Self { held, exchange, .. } = self;
        interim::take(held, |head| {
            if let Some(call) = &*exchange.call.borrow() {
                call.interim_h1(head);
            }
        })
    }
}

impl AsyncRead for Upstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Err(error) = ready!(this.poll_live(cx)) {
                let why = if let Mode::Failed(why) = &mut this.mode { why.take() } else { None };
                return Poll::Ready(Err(why.unwrap_or(error)));
            }
            if !this.held.is_empty() && !this.exchange.awaiting.get() {
                let n = this.held.len().min(buf.remaining());
                buf.put_slice(&this.held[..n]);
                this.held.drain(..n);
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            let read = ready!(Pin::new(&mut this.socket).poll_read(cx, buf));
            if !this.exchange.awaiting.get() {
                return Poll::Ready(read);
            }
            let got = buf.filled().get(before..).unwrap_or_default();
            if read.is_err() || got.is_empty() {
                if this.may_replay() && this.held.is_empty() {
                    this.reconnect();
                    continue;
                }
                return Poll::Ready(read);
            }
            this.exchange.heard.set(true);
            if this.held.is_empty() && Interim::look(got) == Interim::No {
                this.response_began();
                return Poll::Ready(Ok(()));
            }
            // Rare: an interim response, or too few bytes to tell.
            this.exchange.replayable.set(false);
            this.held.extend_from_slice(got);
            buf.set_filled(before);
            if this.take_interim()? && !this.held.is_empty() {
                this.response_began();
            }
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            ready!(this.poll_live(cx))?;
            match ready!(Pin::new(&mut this.socket).poll_write(cx, bytes)) {
                Ok(n) => {
                    if this.may_replay() {
                        this.keep(bytes.get(..n).unwrap_or_default());
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(_) if this.may_replay() => this.reconnect(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !matches!(this.mode, Mode::Live) {
            // The read side drives a reconnection, and flushes what is sent again.
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut this.socket).poll_flush(cx)) {
            Err(_) if this.may_replay() => {
                this.reconnect();
                Poll::Ready(Ok(()))
            }
            result => Poll::Ready(result),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
