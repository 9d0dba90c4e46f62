//! Whether an HTTP/1.1 caller has left while nobody reads its connection.
//!
//! hyper reads on while a request has come in whole, and so learns of the end. While a body waits to be read it does not
//! read, and the end stays behind the body. The kernel tells all the same that the caller has closed or reset the
//! connection, but tokio tells it of a socket only together with "there is something to read". So a second handle on the
//! socket is made, on which nothing but the end is waited for.
//!
//! Data side; asked by whoever lets a request wait, answered by [`super::stream`] below hyper. It costs a descriptor while
//! it is asked. What cannot be seen is the end of a caller that closed in order and still has more of its body to send than
//! the kernel's buffers hold: its end is not sent before that.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd as _;
use std::task::{Poll, Waker};

use tokio::io::Interest;
use tokio::net::TcpStream;

/// One connection's place for the question and the second handle.
#[derive(Default)]
pub struct Departure {
    wanted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    socket: RefCell<Option<TcpStream>>,
}

impl Departure {
    /// Whether somebody asks.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// Makes the second handle on `socket`. Without a descriptor to be had, the caller is taken to stay.
    pub(super) fn look_at(&self, socket: &TcpStream) {
        self.wanted.set(false);
        let second = socket.as_fd().try_clone_to_owned().and_then(|fd| TcpStream::from_std(fd.into()));
        *self.socket.borrow_mut() = second.ok();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready once the caller has closed its side or reset the connection. To be polled in the connection's own task.
    pub async fn happened(&self) {
        struct Asked<'a>(&'a Departure);
        impl Drop for Asked<'_> {
            fn drop(&mut self) {
                self.0.wanted.set(false);
                self.0.waker.take();
            }
        }
        let asked = Asked(self);
        self.wanted.set(true);
        let socket = std::future::poll_fn(|cx| match self.socket.take() {
            Some(socket) => Poll::Ready(socket),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await;
        drop(asked);
        loop {
            // The end counts as part of every interest in what comes; urgent data, the other part of this one, nobody sends.
            match socket.ready(Interest::PRIORITY).await {
                Ok(ready) if !ready.is_read_closed() => tokio::task::yield_now().await,
                _ => return,
            }
        }
    }
}
