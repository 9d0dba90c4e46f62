//! WebSockets of HTTP/2 callers (RFC 8441): extended CONNECT on their side, an HTTP/1.1 upgrade on the other.
//!
//! Data side; called by [`super::h2_server`]. The request enters the stack as the upgrade that it stands for, so that all
//! roles treat it as one; the 101 becomes a 200, and the stream's two directions become the tunnel's. Each WebSocket is a
//! stream among others: the drain says GOAWAY, and at its end each gets the close frame 1001.
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Response;
use super::headers::{self, Has};
use super::tunnel::{self, Leaves, Ready};
use crate::net::websocket;

/// What a request for a WebSocket leaves behind when it enters the stack.
pub struct Asked {
    from_caller: RecvStream,
    key: String,
}

/// Whether a request asks for a WebSocket.
#[must_use]
pub fn asks(head: &Parts) -> bool {
    head.method == Method::CONNECT
        && head.extensions.get::<h2::ext::Protocol>().is_some_and(|p| p.as_str().eq_ignore_ascii_case("websocket"))
}

/// Makes of it the upgrade of HTTP/1.1 (RFC 8441 section 5); `from_caller` is what the caller will send.
#[must_use]
pub fn translate(head: &mut Parts, from_caller: RecvStream) -> Box<Asked> {
    let key = websocket::key();
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    let set = |headers: &mut HeaderMap, name, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("")));
    };
    set(&mut head.headers, header::CONNECTION, "Upgrade");
    set(&mut head.headers, header::UPGRADE, "websocket");
    set(&mut head.headers, header::SEC_WEBSOCKET_KEY, &key);
    if !head.headers.contains_key(header::SEC_WEBSOCKET_VERSION) {
        set(&mut head.headers, header::SEC_WEBSOCKET_VERSION, "13");
    }
    Box::new(Asked { from_caller, key })
}

impl Asked {
    /// Whether the upstream's answer is one to this request.
    #[must_use]
    pub fn is_answered_by(&self, response: &Response) -> bool {
        let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        response.status() == StatusCode::SWITCHING_PROTOCOLS
            && accept.is_some_and(|accept| accept.as_bytes() == websocket::accept(&self.key).as_bytes())
    }

    /// Tells the caller that its WebSocket is open, and gives what runs it.
    pub fn open(
        self,
        mut response: Response,
        upstream: Ready,
        reply: &mut SendResponse<Bytes>,
        leaving: &Rc<Leaving>,
    ) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        let watches = response.body_mut().take_watches();
        let (mut head, _) = response.into_parts();
        let has = Has::of(&head.headers);
        headers::strip_hop_by_hop(&mut head.headers, has);
        head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        head.status = StatusCode::OK;
        let to_caller = reply.send_response(http::Response::from_parts(head, ()), false).ok()?;
        let down = Duplex { from_caller: self.from_caller, left: Bytes::new(), to_caller };
        Some(Box::pin(tunnel::run(down, Bytes::new(), upstream, true, watches, Place::new(leaving))))
    }
}

/// Tells the tunnels of one connection when it has to end.
#[derive(Default)]
pub struct Leaving {
    now: Cell<bool>,
    tunnels: RefCell<Slab<Waker>>,
}

impl Leaving {
    /// It has to end.
    pub fn begin(&self) {
        self.now.set(true);
        self.tunnels.borrow().iter().for_each(|(_, waker)| waker.wake_by_ref());
    }

    /// Whether it has to, and whether no tunnel is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.now.get() && !self.has_tunnels()
    }

    /// Whether there are tunnels.
    #[must_use]
    pub fn has_tunnels(&self) -> bool {
        !self.tunnels.borrow().is_empty()
    }
}

/// One tunnel's place; given back when it ends.
struct Place {
    of: Rc<Leaving>,
    key: usize,
}

impl Place {
    fn new(of: &Rc<Leaving>) -> Self {
        Self { key: of.tunnels.borrow_mut().insert(Waker::noop().clone()), of: of.clone() }
    }
}

impl Leaves for Place {
    fn must_leave(&self, cx: &mut Context<'_>) -> bool {
        if let Some(waker) = self.of.tunnels.borrow_mut().get_mut(self.key) {
            waker.clone_from(cx.waker());
        }
        self.of.now.get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.tunnels.borrow_mut().try_remove(self.key);
    }
}

/// A stream as bytes.
struct Duplex {
    from_caller: RecvStream,
    left: Bytes,
    to_caller: SendStream<Bytes>,
}

impl AsyncRead for Duplex {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.left.is_empty() {
            match ready!(this.from_caller.poll_data(cx)) {
                Some(Ok(data)) => this.left = data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.left.len().min(buf.remaining());
        buf.put_slice(this.left.get(..count).unwrap_or_default());
        this.left.advance(count);
        // The window follows what was taken.
        let _ = this.from_caller.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.to_caller.reserve_capacity(bytes.len());
        while self.to_caller.capacity() == 0 {
            match ready!(self.to_caller.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = self.to_caller.capacity().min(bytes.len());
        let data = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        self.to_caller.send_data(data, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.to_caller.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
