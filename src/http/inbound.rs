//! Bodies as they come in, of either protocol, and how a connection breaks.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::h1_framing::Fault;

/// What went wrong on a connection or a stream of it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A caller's HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// An upstream's HTTP/1.1.
    #[error(transparent)]
    Upstream(#[from] Fault),
    /// HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

/// A message's body as it comes in.
pub enum Inbound {
    /// By HTTP/1.1.
    Http1(Incoming),
    /// By HTTP/2.
    Http2(Received),
    /// Some of it was read before it is sent on.
    Ahead(Box<Ahead>),
    /// There is none.
    None,
}

/// Frames that were read, and what follows them.
pub struct Ahead {
    /// In the order in which they came.
    pub read: VecDeque<Frame<Bytes>>,
    /// What is still to come.
    pub rest: Inbound,
}

impl Inbound {
    /// A body that is there whole.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::None;
        }
        Self::Ahead(Box::new(Ahead { read: VecDeque::from([Frame::data(bytes)]), rest: Self::None }))
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Broken::Http1),
            Self::Http2(received) => received.poll_frame(cx).map_err(Broken::Http2),
            Self::Ahead(ahead) => match ahead.read.pop_front() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(&mut ahead.rest).poll_frame(cx),
            },
            Self::None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(received) => received.is_end_stream(),
            Self::Ahead(ahead) => ahead.read.is_empty() && ahead.rest.is_end_stream(),
            Self::None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(received) if !received.is_end_stream() => SizeHint::default(),
            Self::Ahead(ahead) => {
                let read: usize = ahead.read.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
                let trailers = ahead.read.iter().any(Frame::is_trailers);
                match ahead.rest.size_hint().exact() {
                    Some(rest) if !trailers => SizeHint::with_exact(rest.saturating_add(read as u64)),
                    _ => SizeHint::default(),
                }
            }
            Self::Http2(_) | Self::None => SizeHint::with_exact(0),
        }
    }
}

/// The receiving half of an HTTP/2 stream. `h2` checks that as many bytes come as `Content-Length` says.
pub struct Received {
    stream: h2::RecvStream,
    data_ended: bool,
    /// Nothing follows. Once known it is not asked again: each question locks the stream.
    ended: Cell<bool>,
}

impl Received {
    /// The body that comes by `stream`.
    #[must_use]
    pub fn new(stream: h2::RecvStream) -> Self {
        Self { stream, data_ended: false, ended: Cell::new(false) }
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        if !self.ended.get() {
            self.ended.set(self.stream.is_end_stream());
        }
        self.ended.get()
    }

    /// The next data or the trailers.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever asks for it takes it: the window follows what was sent on.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The sender needs no more of what goes the other way (RFC 9113 section 8.1); what came is whole.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => None,
            Err(error) => Some(Err(error)),
        })
    }
}
