//! A body on its way into an HTTP/2 stream, in either direction.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// Bytes that may wait for the receiver's window in the stream itself when they are the last: no more than would wait
/// here, and the window needs not be asked for.
const AT_ONCE: usize = 8 * 1024;

/// Moves frames from `B` into a stream, as fast as the receiver's window and the body allow.
pub struct Pump<B> {
    to: SendStream<Bytes>,
    body: B,
    /// What waits for room in the window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

/// Why a body did not get through.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The receiver wants no more of it.
    Refused,
    /// The body itself failed; the stream was reset.
    Body(E),
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    /// Moves `body` into `to`.
    #[must_use]
    pub fn new(to: SendStream<Bytes>, body: B) -> Self {
        Self { to, body, waiting: None }
    }

    /// The body, with what is left of it.
    #[must_use]
    pub fn into_body(self) -> B {
        self.body
    }

    /// The body.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Goes on; ready when the body has ended, one way or another.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        let moved = self.poll_moving(cx);
        // Only who waits has to learn of a reset.
        if moved.is_pending() && self.to.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Stopped::Refused));
        }
        moved
    }

    fn poll_moving(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        loop {
            if let Some((data, last)) = self.waiting.take() {
                if self.to.capacity() == 0 {
                    match self.to.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(0))) => {
                            self.waiting = Some((data, last));
                            continue;
                        }
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Stopped::Refused)),
                        Poll::Pending => {
                            self.waiting = Some((data, last));
                            return Poll::Pending;
                        }
                    }
                }
                if self.to.send_data(data, last).is_err() {
                    return Poll::Ready(Err(Stopped::Refused));
                }
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return self.done(|to| to.send_data(Bytes::new(), true)),
                Some(Err(error)) => {
                    self.to.send_reset(reason(&error));
                    return Poll::Ready(Err(Stopped::Body(error)));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let last = self.body.is_end_stream();
                        if last && data.len() <= AT_ONCE {
                            return self.done(|to| to.send_data(data, true));
                        }
                        if !data.is_empty() {
                            // One byte is asked for: `send_data` asks for the rest. A body in hand may hold room, one
                            // that may never come must not.
                            self.to.reserve_capacity(1);
                            self.waiting = Some((data, last));
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.to.reserve_capacity(0);
                            return self.done(|to| to.send_trailers(trailers));
                        }
                    }
                },
            }
        }
    }

    fn done(
        &mut self,
        last: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>,
    ) -> Poll<Result<(), Stopped<B::Error>>> {
        Poll::Ready(last(&mut self.to).map_err(|_| Stopped::Refused))
    }
}

/// The reason of a reset that is passed on: that of the reset somewhere in the chain of causes, if there is one.
pub fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        next = error.source();
    }
    Reason::INTERNAL_ERROR
}
