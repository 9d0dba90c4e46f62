//! HTTP/1.1 towards an upstream: one exchange at a time on one connection.
//!
//! Data side; driven by the request that uses it, and by the body of its response, in the caller's own task
//! ([`super::upstream`]). It stands on [`super::replay`], which takes interim responses out of the bytes and survives a
//! pooled connection that turns out to be closed. Between exchanges it holds no buffer at all.
//!
//! Why not hyper's: its client hands each request through two channels to a state machine that could run elsewhere, and
//! keeps two buffers a connection: 9,000 of 38,000 instructions of a plaintext request went there.
//!
//! Framing is RFC 9112 section 6: a response with both `Transfer-Encoding` and `Content-Length` loses the latter, one with
//! lengths that differ is refused, and after one whose end only the connection's end tells there is no other.

mod head;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Method;
use http::header::{self, HeaderMap};
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::body::Outbound;
use super::h1_framing::{Chunk, Fault, Framing, decode};
use super::inbound::Broken;
use super::lines;
use super::replay::Upstream;
use super::spare;
use super::trailers::{self, write_title_case};
use super::upstream::Limits;

/// Bytes that one read takes.
const READ: usize = 32 * 1024;
/// Bytes of a request that wait to be written before more of its body is asked for.
const AHEAD: usize = 64 * 1024;

/// Why no response came.
pub enum Failure {
    /// The connection, or what came by it.
    Upstream(Fault),
    /// The request's body could not be read.
    RequestBody(Broken),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Upstream(fault)
    }
}

/// A connection, with at most one exchange under way.
pub struct Http1 {
    io: Upstream,
    header_lines: usize,
    header_bytes: usize,
    header_room: usize,
    /// The request's bytes that are not written yet, from `written` on.
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    body: Option<Outbound>,
    outgoing: Framing,
    /// Writing failed: the response may have come all the same.
    unwritable: Option<io::Error>,
    head_only: bool,
    /// What came with the head.
    early: Bytes,
    /// What came after it and was not used yet, or the beginning of a head.
    input: BytesMut,
    /// None when no response is under way.
    incoming: Option<Framing>,
    keep: bool,
    keep_time: Option<Duration>,
    /// The request goes out when its task is polled again.
    waits: bool,
}

thread_local! {
    /// What heads are read into: they are looked at and copied out before anything else is read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 16 * 1024].into());
}

impl Http1 {
    /// A fresh connection, whose responses keep to `limits`.
    #[must_use]
    pub fn new(io: Upstream, limits: &Limits) -> Self {
        Self {
            io,
            header_lines: limits.header_lines.min(lines::MOST),
            header_bytes: limits.header_bytes,
            header_room: limits.header_room,
            out: Vec::new(),
            written: 0,
            flushed: true,
            body: None,
            outgoing: Framing::Length(0),
            unwritable: None,
            head_only: false,
            early: Bytes::new(),
            input: BytesMut::new(),
            incoming: None,
            keep: true,
            keep_time: None,
            waits: false,
        }
    }

    /// Begins an exchange. The connection must be usable: fresh, or [`Self::is_usable`]. One that `waits` goes out behind
    /// whatever else is ready on this worker.
    pub fn begin(&mut self, head: &http::request::Parts, body: Outbound, waits: bool) {
        self.head_only = head.method == Method::HEAD;
        let ended = body.is_end_stream();
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        self.outgoing = match length.or(body.size_hint().exact()) {
            _ if ended => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::Chunked(Chunk::Size),
        };
        if self.out.capacity() == 0 {
            self.out = spare::take();
        }
        let out = &mut self.out;
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &head.headers {
            write_title_case(out, name.as_str());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if !ended && length.is_none() {
            match self.outgoing {
                Framing::Length(length) => out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
                _ => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            }
        }
        out.extend_from_slice(b"\r\n");
        self.flushed = false;
        self.waits = waits;
        self.body = if ended { None } else { Some(body) };
    }

    /// Whether what was begun is, or may become, larger than `most` bytes.
    #[must_use]
    pub fn outgrows(&self, most: usize) -> bool {
        let body = match self.outgoing {
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Framing::Chunked(_) | Framing::Close => usize::MAX,
        };
        self.out.len().saturating_add(body) > most
    }

    /// Takes a fresh connection for what was begun, of which nothing is written yet.
    pub fn renew(&mut self) {
        self.io.renew();
    }

    /// The response's head, once it has come.
    ///
    /// # Errors
    /// There is none.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<()>, Failure>> {
        if std::mem::take(&mut self.waits) {
            // Requests that came together go out together: an upstream that is woken for the first is still awake for the
            // others; else each wakes it anew, and that costs the sender a microsecond, a twentieth of all that a plaintext
            // request costs.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_send(cx)?;
        loop {
            let read = self.poll_head(cx);
            if read.is_pending() && self.body.is_some() {
                // An interim response may have told that the body may go.
                self.poll_send(cx)?;
            }
            return match ready!(read) {
                Ok(Some(response)) => Poll::Ready(Ok(response)),
                Ok(None) => continue,
                Err(Fault::Eof) => match self.unwritable.take() {
                    Some(error) => Poll::Ready(Err(Fault::Io(error).into())),
                    None => Poll::Ready(Err(Fault::Eof.into())),
                },
                Err(fault) => Poll::Ready(Err(fault.into())),
            };
        }
    }

    /// Reads once; none: the head is not whole yet.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<http::Response<()>>, Fault>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            let got = buf.filled();
            if got.is_empty() {
                return Poll::Ready(Err(Fault::Eof));
            }
            if self.input.is_empty() {
                return Poll::Ready(self.parse(got));
            }
            let mut all = std::mem::take(&mut self.input);
            all.extend_from_slice(got);
            Poll::Ready(self.parse(&all))
        })
    }

    /// How long the upstream keeps the connection after this response, if it said so.
    #[must_use]
    pub fn keep_time(&self) -> Option<Duration> {
        self.keep_time
    }

    /// Whether the response has ended.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self.incoming, None | Some(Framing::Length(0)))
    }

    /// How much of the response's body is to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self.incoming {
            None => SizeHint::with_exact(0),
            Some(Framing::Length(length)) => SizeHint::with_exact(length),
            Some(_) => SizeHint::default(),
        }
    }

    /// The response's next data, or its trailers. Sends what is left of the request, too.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if !self.flushed || self.body.is_some() {
            match self.poll_send(cx) {
                Err(Failure::Upstream(fault)) => return Poll::Ready(Some(Err(fault))),
                // The caller's part: its connection ends by itself. The response is whole all the same.
                Err(Failure::RequestBody(_)) => (self.body, self.keep) = (None, false),
                Ok(()) => {}
            }
        }
        loop {
            match self.decode() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_end() => {
                    self.incoming = None;
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            let n = match ready!(self.poll_input(cx)) {
                Ok(n) => n,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            };
            if n == 0 {
                if self.incoming == Some(Framing::Close) {
                    self.incoming = None;
                    return Poll::Ready(None);
                }
                return Poll::Ready(Some(Err(Fault::Eof)));
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Frame<Bytes>>, Fault> {
        if !self.early.is_empty() {
            match &mut self.incoming {
                Some(Framing::Length(left)) if *left > 0 => {
                    let n = self.early.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    return Ok(Some(Frame::data(self.early.split_to(n))));
                }
                Some(Framing::Close) => return Ok(Some(Frame::data(std::mem::take(&mut self.early)))),
                Some(Framing::Chunked(_)) => self.input.extend_from_slice(&std::mem::take(&mut self.early)),
                _ => {}
            }
        }
        decode(&mut self.input, &mut self.incoming)
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Never beyond this response: what a connection sends unasked shows when it is looked at before its next use.
        let most = match self.incoming {
            Some(Framing::Length(length)) => usize::try_from(length).unwrap_or(READ).min(READ),
            _ => READ,
        };
        self.input.reserve(most.min(READ));
        let mut room = (&mut self.input).limit(most);
        let read = std::pin::pin!(self.io.read_buf(&mut room));
        read.poll(cx)
    }

    /// Writes what can be written of the request.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        loop {
            while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
                match Pin::new(&mut self.io).poll_write(cx, rest) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(n)) if n > 0 => self.written += n,
                    Poll::Ready(failed) => {
                        let error = failed.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                        self.stop_sending(error);
                        return Ok(());
                    }
                }
            }
            if self.written > 0 {
                self.written = 0;
                if self.body.is_none() || self.out.capacity() > AHEAD {
                    spare::give(std::mem::take(&mut self.out));
                } else {
                    self.out.clear();
                }
            }
            if !self.flushed {
                match Pin::new(&mut self.io).poll_flush(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => self.flushed = true,
                    Poll::Ready(Err(error)) => {
                        self.stop_sending(error);
                        return Ok(());
                    }
                }
            }
            let Some(body) = &mut self.body else { return Ok(()) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Err(error))) => return Err(Failure::RequestBody(error)),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.encode(&data),
                    Err(frame) => self.encode_trailers(&frame.into_trailers().unwrap_or_default()),
                },
                Poll::Ready(None) => {
                    self.body = None;
                    match self.outgoing {
                        Framing::Chunked(_) => self.out.extend_from_slice(b"0\r\n\r\n"),
                        Framing::Length(0) | Framing::Close => {}
                        Framing::Length(_) => {
                            self.keep = false;
                            return Err(Fault::ShortBody.into());
                        }
                    }
                }
            }
            self.flushed = false;
        }
    }

    fn stop_sending(&mut self, error: io::Error) {
        self.unwritable = Some(error);
        (self.body, self.keep, self.flushed, self.written) = (None, false, true, 0);
        self.out = Vec::new();
    }

    fn encode(&mut self, data: &[u8]) {
        match &mut self.outgoing {
            _ if data.is_empty() => {}
            Framing::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= n as u64;
                self.out.extend_from_slice(data.get(..n).unwrap_or_default());
            }
            _ => {
                self.out.extend_from_slice(format!("{:X}\r\n", data.len()).as_bytes());
                self.out.extend_from_slice(data);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Trailers end a body in chunks, and no other.
    fn encode_trailers(&mut self, trailers: &HeaderMap) {
        if !matches!(self.outgoing, Framing::Chunked(_)) {
            return;
        }
        self.out.extend_from_slice(b"0\r\n");
        trailers::encode(&mut self.out, trailers);
        self.out.extend_from_slice(b"\r\n");
        self.body = None;
    }

    /// Whether another exchange may follow: the last one is over, both ways, and nothing came beyond it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let over = self.is_end() && self.body.is_none() && self.flushed && self.out.len() == self.written;
        self.keep && over && self.early.is_empty() && self.input.is_empty()
    }

    /// Whether another exchange may begin: [`Self::is_over`], and the connection is open and silent.
    pub fn is_usable(&mut self) -> bool {
        if !self.is_over() {
            return false;
        }
        let mut one = [0];
        let mut quiet = Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut quiet, &mut ReadBuf::new(&mut one)).is_pending()
    }

    /// Gives buffers back; for a connection that is put aside.
    pub fn shrink(&mut self) {
        self.input = BytesMut::new();
        self.out = Vec::new();
    }

    /// The connection after a switch of protocols, and what was read beyond the head.
    #[must_use]
    pub fn into_parts(self) -> (Upstream, Bytes) {
        (self.io, self.early)
    }
}
