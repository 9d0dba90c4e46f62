//! The one body type of responses, and the request's body on its way to the application.
//!
//! What must end with a response (a slot of the breaker, a count, a deadline) travels in its [`Body`] as a [`Watch`]
//! and is told how the body ended: whole, broken, or left by the caller.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Body as _;
use smallvec::SmallVec;

use super::call::Call;
use super::entrance::UnderWay;
use super::inbound::{Ahead, Broken, Inbound, Received};
use super::limits;
use super::upstream::Lease;
use super::wire::Counted;
use crate::worker::clock;

/// How a response's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was handed to the connection.
    Whole,
    /// The application ended it early, or a timer cut it; the token of the cause.
    Broken(&'static str),
    /// The caller went away first.
    CallerLeft,
}

/// How a response that has begun is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutting {
    /// The cause's token.
    pub token: &'static str,
    /// With a text the body ends with it, as if whole; without one it is reset.
    pub text: Option<&'static str>,
}

/// Something that lives as long as a response's body.
pub trait Watch {
    /// Whether the body has to be cut now, and how. Called before each frame, with the task's waker.
    fn poll_cut(&mut self, _cx: &mut Context<'_>) -> Poll<Cutting> {
        Poll::Pending
    }
    /// Bytes of the body that were handed to the connection.
    fn sent(&mut self, _bytes: usize, _cx: &mut Context<'_>) {}
    /// On an upgraded connection: the application's bytes have begun to reach the caller.
    fn spoke(&mut self) {}
    /// Called once, before the drop.
    fn end(&mut self, _end: End) {}
}

/// Why a response that had begun was reset.
#[derive(Debug, thiserror::Error)]
pub enum Aborted {
    /// The application's part failed.
    #[error("the application broke off")]
    Upstream(#[source] Broken),
    /// lockkeeper cut it.
    #[error("cut: {token}")]
    Cut {
        /// The cause's token.
        token: &'static str,
        /// What an HTTP/2 caller sees; hyper looks for it in the chain of sources.
        #[source]
        reset: h2::Error,
    },
}

enum Source {
    Empty,
    Full(Option<Bytes>),
    /// The body of an HTTP/1.1 response, with the connection that it comes by.
    Leased(Option<Lease>),
    Streamed(Received, #[expect(dead_code, reason = "counts until it is dropped")] Counted),
}

/// The body of a response.
///
/// In a box: a response moves through every layer, and this way no move of one is more than a few words.
pub struct Body(Box<Flow>);

/// A source, and what has to be told of it.
struct Flow {
    source: Source,
    watches: SmallVec<[Box<dyn Watch>; 4]>,
    under_way: Option<UnderWay>,
}

impl Body {
    /// No body at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::from(Source::Empty)
    }

    /// A body that is there whole.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self::from(Source::Full(Some(bytes)))
    }

    /// A body that comes by an HTTP/1.1 connection which this body drives, and gives back when it ends.
    #[must_use]
    pub fn leased(lease: Lease) -> Self {
        Self::from(Source::Leased(Some(lease)))
    }

    /// A body that comes by a connection which something else drives.
    #[must_use]
    pub fn streamed(received: Received, counted: Counted) -> Self {
        Self::from(Source::Streamed(received, counted))
    }

    fn from(source: Source) -> Self {
        Self(Box::new(Flow { source, watches: SmallVec::new(), under_way: None }))
    }

    /// Ties `watch` to this body.
    pub fn watch(&mut self, watch: Box<dyn Watch>) {
        self.0.watches.push(watch);
    }

    /// The request is under way as long as this body.
    pub fn under_way(&mut self, under_way: Option<UnderWay>) {
        self.0.under_way = under_way;
    }

    /// Moves what is tied to this body out of it; an upgraded connection takes it over.
    #[must_use]
    pub fn take_watches(&mut self) -> Watches {
        Watches(std::mem::take(&mut self.0.watches), self.0.under_way.take())
    }
}

impl Flow {
    fn end(&mut self, end: End) {
        for mut watch in self.watches.drain(..) {
            watch.end(end);
        }
        self.under_way = None;
    }
}

impl Source {
    fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Leased(lease) => lease.as_ref().is_none_or(Lease::is_end),
            Self::Streamed(received, _) => received.is_end_stream(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Streamed(received, _) => received.poll_frame(cx).map_err(Broken::Http2),
            Self::Leased(held) => {
                let Some(lease) = held else { return Poll::Ready(None) };
                let frame = lease.poll_frame(cx);
                if lease.is_end()
                    && !matches!(&frame, Poll::Ready(Some(Err(_))))
                    && let Some(lease) = held.take()
                {
                    lease.give_back();
                }
                frame.map_err(Broken::Upstream)
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = &mut *self.0;
        // The end of a body is told to many that ask for the time.
        let _moment = clock::hold();
        for watch in &mut this.watches {
            if let Poll::Ready(Cutting { token, text }) = watch.poll_cut(cx) {
                this.source = Source::Empty;
                this.end(End::Broken(token));
                if let Some(text) = text {
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))));
                }
                let reset = h2::Error::from(h2::Reason::CANCEL);
                return Poll::Ready(Some(Err(Aborted::Cut { token, reset })));
            }
        }
        match std::task::ready!(this.source.poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    for watch in &mut this.watches {
                        watch.sent(data.len(), cx);
                    }
                }
                if let Some(trailers) = frame.trailers_ref()
                    && let Some(under_way) = this.under_way.as_ref().filter(|under_way| under_way.is_http1())
                {
                    under_way.trail(trailers);
                    this.end(End::Whole);
                    return Poll::Ready(None);
                }
                if frame.is_trailers() || this.source.is_end() {
                    this.end(End::Whole);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.source = Source::Empty;
                this.end(End::Broken("upstream_reset"));
                Poll::Ready(Some(Err(Aborted::Upstream(error))))
            }
            None => {
                this.end(End::Whole);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Leased(lease) => lease.as_ref().map_or_else(|| SizeHint::with_exact(0), Lease::size_hint),
            Source::Streamed(received, _) if !received.is_end_stream() => SizeHint::default(),
            Source::Streamed(..) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let whole = self.source.is_end();
        if let Source::Leased(lease) = &mut self.source
            && whole
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        if !self.watches.is_empty() {
            self.end(if whole { End::Whole } else { End::CallerLeft });
        }
    }
}

/// What was tied to the body of a response and now belongs to the connection that it was upgraded to.
pub struct Watches(
    SmallVec<[Box<dyn Watch>; 4]>,
    #[expect(dead_code, reason = "counts until it is dropped")] Option<UnderWay>,
);

impl Watches {
    /// As [`Watch::poll_cut`], for all of them.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cutting> {
        for watch in &mut self.0 {
            if let Poll::Ready(cutting) = watch.poll_cut(cx) {
                return Poll::Ready(cutting);
            }
        }
        Poll::Pending
    }

    /// As [`Watch::spoke`], for all of them.
    pub fn spoke(&mut self) {
        for watch in &mut self.0 {
            watch.spoke();
        }
    }

    /// As [`Watch::sent`], for all of them.
    pub fn sent(&mut self, bytes: usize, cx: &mut Context<'_>) {
        for watch in &mut self.0 {
            watch.sent(bytes, cx);
        }
    }

    /// As [`Watch::end`], for all of them.
    pub fn end(mut self, end: End) {
        for mut watch in self.0.drain(..) {
            watch.end(end);
        }
    }
}

/// The request's body on its way to the application: counts, and holds back what `Expect` asks to hold back.
pub struct Outbound {
    incoming: Inbound,
    call: Rc<Call>,
    wait: Option<Pin<Box<tokio::time::Sleep>>>,
    /// What was read is kept.
    keeps: bool,
    kept: Vec<Bytes>,
    kept_bytes: usize,
}

impl Outbound {
    /// The body of `call`. With `expects`, it is read once the application said `100 Continue`, or kept silent for
    /// [`limits::CONTINUE_WAIT`]; reading it is what makes hyper tell the caller to go on.
    #[must_use]
    pub fn new(incoming: Inbound, call: Rc<Call>, expects: bool) -> Self {
        call.go_ahead.set(!expects);
        call.request_ended.set(incoming.is_end_stream());
        let wait = expects.then(|| Box::pin(tokio::time::sleep(limits::CONTINUE_WAIT)));
        Self { incoming, call, wait, keeps: false, kept: Vec::new(), kept_bytes: 0 }
    }
}

impl Outbound {
    /// No body, for a request whose body has ended already.
    #[must_use]
    pub fn none(call: Rc<Call>) -> Self {
        Self { incoming: Inbound::None, call, wait: None, keeps: false, kept: Vec::new(), kept_bytes: 0 }
    }

    /// From now on what is read is kept for [`Self::rewound`], until something follows the first
    /// [`limits::REPLAY_BYTES`].
    pub fn keep(&mut self) {
        self.keeps = true;
    }

    /// The body from its beginning on; none if not all of that was kept.
    #[must_use]
    pub fn rewound(mut self) -> Option<Self> {
        if !self.keeps && !self.is_nothing() {
            return None;
        }
        if !self.kept.is_empty() {
            let read = self.kept.drain(..).map(Frame::data).collect();
            let rest = std::mem::replace(&mut self.incoming, Inbound::None);
            self.incoming = Inbound::Ahead(Box::new(Ahead { read, rest }));
            self.call.request_bytes.set(self.call.request_bytes.get().saturating_sub(self.kept_bytes as u64));
            self.kept_bytes = 0;
        }
        Some(self)
    }

    fn is_nothing(&self) -> bool {
        matches!(self.incoming, Inbound::None)
    }

    fn kept(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if self.kept_bytes <= limits::REPLAY_BYTES => {
                self.kept_bytes += data.len();
                self.kept.push(data.clone());
            }
            // Too much, or trailers, which are rare in requests.
            _ => self.forget(),
        }
    }

    /// Keeps nothing any more.
    pub fn forget(&mut self) {
        (self.keeps, self.kept) = (false, Vec::new());
    }
}

impl http_body::Body for Outbound {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if !this.call.go_ahead.get() {
            if let Some(wait) = &mut this.wait {
                std::task::ready!(wait.as_mut().poll(cx));
            }
            this.call.go_ahead.set(true);
            this.wait = None;
        }
        let frame = std::task::ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if this.keeps {
                    this.kept(frame);
                }
                if let Some(data) = frame.data_ref() {
                    this.call.request_bytes.set(this.call.request_bytes.get() + data.len() as u64);
                }
                if this.incoming.is_end_stream() {
                    this.call.request_ended.set(true);
                }
            }
            Some(Err(_)) => {}
            None => this.call.request_ended.set(true),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
