//! The revision's three timers, counted from here: waiting for a slot counts (`pkg/http/handler/timeout.go`).
//!
//! Before the response's header a timer makes a 504; after it, the response is reset, so that no caller takes half a
//! body for a whole one. A 101 counts as the first byte, and on an upgraded connection any byte, either way, counts
//! as activity. [`Style::Original`] is for callers that count on what the original does in the first two of these.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::config::value::Invalid;
use crate::http::body::{Cutting, Watch};
use crate::http::call::Call;
use crate::http::cause::{Cause, Timer};
use crate::http::{Request, Response};
use crate::worker::deadline::{Deadline, Deadlines};

/// What the timers do to a response that has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// It is reset; a 101 ends the wait for the first byte.
    #[default]
    Strict,
    /// As the original: it ends with the timers' text as if whole, or, with a `Content-Length`, short of it. The
    /// start timer of an upgrade waits for the application's first byte after the 101; the original's runs on even
    /// then, but a talking connection is never cut here.
    Original,
}

impl Style {
    /// `strict` or `original`, the values of `LOCKKEEPER_TIMEOUT_STYLE`.
    ///
    /// # Errors
    /// Any other word.
    pub fn parse(value: &str) -> Result<Self, Invalid> {
        match value {
            "strict" => Ok(Self::Strict),
            "original" => Ok(Self::Original),
            _ => Err(Invalid::new("strict or original")),
        }
    }
}

/// The timers of a revision on one worker; none = off.
pub struct Timers {
    total: Option<Deadlines>,
    start: Option<Deadlines>,
    idle: Option<Deadlines>,
    text: &'static str,
    style: Style,
}

impl Timers {
    /// Timers of these lengths; zero is off. `text` is what callers read when one has run out.
    #[must_use]
    pub fn new(total: Duration, start: Duration, idle: Duration, text: &'static str, style: Style) -> Rc<Self> {
        let list = |delay: Duration| (!delay.is_zero()).then(|| Deadlines::new(delay));
        Rc::new(Self { total: list(total), start: list(start), idle: list(idle), text, style })
    }

    fn any(&self) -> bool {
        self.total.is_some() || self.start.is_some() || self.idle.is_some()
    }
}

/// The layer.
#[derive(Clone)]
pub struct Timeouts<S> {
    /// What is limited in time.
    pub inner: S,
    /// By how much.
    pub timers: Rc<Timers>,
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for Timeouts<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Timed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let call = request.call.clone();
        Timed::new(self.inner.call(request), &call, self.timers.clone())
    }
}

impl<F> Timed<F> {
    /// Puts `inner`, which serves `call`, under the timers, which count from its arrival.
    pub fn new(inner: F, call: &Rc<Call>, timers: Rc<Timers>) -> Self {
        let (started, call) = (call.started, timers.start.is_some().then(|| call.clone()));
        Self { inner, set: None, started, timers, call }
    }
}

pin_project_lite::pin_project! {
    /// A response under the timers.
    pub struct Timed<F> {
        #[pin]
        inner: F,
        set: Option<Set>,
        started: Instant,
        timers: Rc<Timers>,
        // Says whether an interim response was sent, which ends the wait for the response's start.
        call: Option<Rc<Call>>,
    }
}

/// The deadlines of one request, set when it first has to wait.
struct Set {
    total: Option<Deadline>,
    start: Option<Deadline>,
    idle: Option<Deadline>,
}

impl Set {
    fn new(timers: &Timers, started: Instant, cx: &Context<'_>) -> Self {
        let set = |list: &Option<Deadlines>| {
            list.as_ref().map(|list| list.set(started, Rc::new(Cell::new(false)), cx.waker()))
        };
        Self { total: set(&timers.total), start: set(&timers.start), idle: set(&timers.idle) }
    }

    fn passed(&self, timers: &Timers) -> Option<Cause> {
        let all = [
            (Timer::Total, &self.total, &timers.total),
            (Timer::Start, &self.start, &timers.start),
            (Timer::Idle, &self.idle, &timers.idle),
        ];
        let passed = |deadline: &Option<Deadline>| deadline.as_ref().is_some_and(Deadline::has_passed);
        let (timer, _, list) = all.into_iter().find(|(_, deadline, _)| passed(deadline))?;
        let after = list.as_ref().map_or(Duration::ZERO, Deadlines::delay);
        Some(Cause::Timeout { timer, after, text: timers.text })
    }
}

fn log(cause: &Cause) {
    let Cause::Timeout { timer, after, .. } = cause else { return };
    match timer {
        Timer::Total => tracing::warn!(cause = cause.token(), "Request timeout: {after:?}"),
        Timer::Start => tracing::warn!(cause = cause.token(), "Response start timeout: {after:?}"),
        Timer::Idle => tracing::warn!(cause = cause.token(), "Idle timeout: {after:?}"),
        Timer::Waiting => {}
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Timed<F> {
    type Output = Result<Response, Cause>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let (Some(set), Some(call)) = (this.set.as_mut(), &this.call)
            && call.begun.get()
        {
            set.start = None;
        }
        if let Some(cause) = this.set.as_ref().and_then(|set| set.passed(this.timers)) {
            log(&cause);
            return Poll::Ready(Err(cause));
        }
        match this.inner.poll(cx) {
            Poll::Pending => {
                if this.set.is_none() && this.timers.any() {
                    *this.set = Some(Set::new(this.timers, *this.started, cx));
                }
                Poll::Pending
            }
            Poll::Ready(Ok(mut response)) => {
                let upgraded = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
                if this.timers.any() && (upgraded || !hyper::body::Body::is_end_stream(response.body())) {
                    let mut set = this.set.take().unwrap_or_else(|| Set::new(this.timers, *this.started, cx));
                    let original = this.timers.style == Style::Original;
                    if !(original && upgraded) {
                        set.start = None;
                    }
                    if let Some(idle) = &mut set.idle {
                        idle.restart(Instant::now(), cx.waker());
                    }
                    // Below a Content-Length the end is short whatever is appended.
                    let ends = original && !response.headers().contains_key(http::header::CONTENT_LENGTH);
                    let text = ends.then_some(this.timers.text);
                    response.body_mut().watch(Box::new(Cut { set, timers: this.timers.clone(), text }));
                }
                Poll::Ready(Ok(response))
            }
            Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
        }
    }
}

/// Cuts a response that has begun.
struct Cut {
    set: Set,
    timers: Rc<Timers>,
    text: Option<&'static str>,
}

impl Watch for Cut {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cutting> {
        if let Some(cause) = self.set.passed(&self.timers) {
            log(&cause);
            return Poll::Ready(Cutting { token: cause.token(), text: self.text });
        }
        for deadline in [&self.set.total, &self.set.start, &self.set.idle].into_iter().flatten() {
            deadline.wake(cx.waker());
        }
        Poll::Pending
    }

    fn sent(&mut self, _bytes: usize, cx: &mut Context<'_>) {
        if let Some(idle) = &mut self.set.idle {
            idle.restart(Instant::now(), cx.waker());
        }
    }

    fn spoke(&mut self) {
        self.set.start = None;
    }
}
