//! The revision's three timers, counted from here: waiting for a slot counts (`pkg/http/handler/timeout.go`).
//!
//! Before the response's header a timer makes a 504; after it, the response is reset, so that no caller takes half a
//! body for a whole one. A 101 counts as the first byte, and on an upgraded connection any byte, either way, counts
//! as activity.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::http::body::Watch;
use crate::http::call::Call;
use crate::http::cause::{Cause, Timer};
use crate::http::{Request, Response};
use crate::worker::deadline::{Deadline, Deadlines};

/// The timers of a revision on one worker; none = off.
pub struct Timers {
    total: Option<Deadlines>,
    start: Option<Deadlines>,
    idle: Option<Deadlines>,
    text: &'static str,
}

impl Timers {
    /// Timers of these lengths; zero is off. `text` is what callers read when one has run out.
    #[must_use]
    pub fn new(total: Duration, start: Duration, idle: Duration, text: &'static str) -> Rc<Self> {
        let list = |delay: Duration| (!delay.is_zero()).then(|| Deadlines::new(delay));
        Rc::new(Self { total: list(total), start: list(start), idle: list(idle), text })
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
        let started = request.call.started;
        let call = self.timers.start.is_some().then(|| request.call.clone());
        Timed { call, ..Timed::new(self.inner.call(request), started, self.timers.clone()) }
    }
}

impl<F> Timed<F> {
    /// Puts `inner` under the timers, which count from `started`.
    pub fn new(inner: F, started: Instant, timers: Rc<Timers>) -> Self {
        Self { inner, set: None, started, timers, call: None }
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
                let ended = hyper::body::Body::is_end_stream(response.body())
                    && response.status() != http::StatusCode::SWITCHING_PROTOCOLS;
                if !ended && this.timers.any() {
                    let mut set = this.set.take().unwrap_or_else(|| Set::new(this.timers, *this.started, cx));
                    set.start = None;
                    if let Some(idle) = &mut set.idle {
                        idle.restart(Instant::now(), cx.waker());
                    }
                    response.body_mut().watch(Box::new(Cut { set, timers: this.timers.clone() }));
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
}

impl Watch for Cut {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        if let Some(cause) = self.set.passed(&self.timers) {
            log(&cause);
            return Poll::Ready(cause.token());
        }
        for deadline in [&self.set.total, &self.set.idle].into_iter().flatten() {
            deadline.wake(cx.waker());
        }
        Poll::Pending
    }

    fn sent(&mut self, _bytes: usize, cx: &mut Context<'_>) {
        if let Some(idle) = &mut self.set.idle {
            idle.restart(Instant::now(), cx.waker());
        }
    }
}
