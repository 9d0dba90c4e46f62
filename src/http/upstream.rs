//! Connections to the application: a pool of HTTP/1.1 connections a worker, and one shared HTTP/2 connection.
//!
//! An HTTP/1.1 connection is driven by the request that uses it, in the caller's own task, not by a task of its own:
//! that saves a few wake-ups a request. Between requests nothing drives it, so it is looked at before it is used
//! again, and once a second by [`Pool::sweep`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::body::Outbound;
use super::call::Call;
use super::limits;
use super::replay::{Exchange, Upstream};
use super::tunnel::Ready;

type H1Connection = http1::Connection<TokioIo<Upstream>, Outbound>;

/// The executor for what hyper spawns: the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What a pool may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Idle HTTP/1.1 connections a worker.
    pub idle: usize,
    /// How long one may be idle.
    pub idle_time: Duration,
    /// Lines of a response's header block.
    pub header_lines: usize,
}

/// The connections of one worker to one application.
pub struct Pool {
    address: SocketAddr,
    limits: Limits,
    idle: RefCell<VecDeque<(Instant, Box<H1>)>>,
    h2: RefCell<Option<http2::SendRequest<Outbound>>>,
    h2_connecting: tokio::sync::Semaphore,
    speaks: Cell<Speaks>,
}

/// What is known of the application's protocols, for callers that come by HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Nothing yet.
    Unknown,
    /// It answered over HTTP/2.
    Http2,
    /// It answered the preface of HTTP/2 with HTTP/1.
    Http1Only,
}

struct H1 {
    connection: H1Connection,
    send: http1::SendRequest<Outbound>,
    exchange: Rc<Exchange>,
}

/// A connection in use; dropping it closes the connection.
pub struct Lease {
    h1: Option<Box<H1>>,
    pool: Weak<Pool>,
}

/// Why no response came.
pub enum Failed {
    /// The application did not take a connection.
    Connect(io::Error),
    /// The exchange failed; the request was or may have been sent.
    Exchange(hyper::Error),
}

impl Pool {
    /// An empty pool for `address`.
    #[must_use]
    pub fn new(address: SocketAddr, limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            address,
            limits,
            idle: RefCell::default(),
            h2: RefCell::default(),
            h2_connecting: tokio::sync::Semaphore::new(1),
            speaks: Cell::new(Speaks::Unknown),
        })
    }

    /// Closes what was idle for too long, and what the application closed.
    pub fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|(since, h1)| now.saturating_duration_since(*since) < self.limits.idle_time && h1.is_open());
        if idle.is_empty() {
            idle.shrink_to_fit();
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect(self.address).await.inspect_err(|_| {
            // Another application may come up in its place.
            self.speaks.set(Speaks::Unknown);
        })?;
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }

    async fn lease(self: &Rc<Self>) -> io::Result<Lease> {
        let reused = loop {
            let Some((_, mut h1)) = self.idle.borrow_mut().pop_back() else { break None };
            if h1.is_open() {
                h1.exchange.replayable.set(true);
                break Some(h1);
            }
        };
        let h1 = match reused {
            Some(h1) => h1,
            None => {
                let exchange = Rc::new(Exchange::default());
                let io = Upstream::new(self.connect().await?, self.address, exchange.clone());
                let (send, connection) = http1::Builder::new()
                    .title_case_headers(true)
                    .max_headers(self.limits.header_lines)
                    .handshake(TokioIo::new(io))
                    .await
                    .map_err(io::Error::other)?;
                let mut h1 = Box::new(H1 { connection, send, exchange });
                h1.is_open();
                h1
            }
        };
        Ok(Lease { h1: Some(h1), pool: Rc::downgrade(self) })
    }

    /// Sends a request over HTTP/1.1. A 101 answer leaves its connection in `call.connection.tunnel`.
    ///
    /// # Errors
    /// No connection, or no response on it.
    pub async fn send_h1(
        self: &Rc<Self>,
        request: http::Request<Outbound>,
        call: &Rc<Call>,
    ) -> Result<(http::Response<Incoming>, Lease), Failed> {
        let mut lease = self.lease().await.map_err(Failed::Connect)?;
        let Some(h1) = lease.h1.as_mut() else { return Err(Failed::Connect(io::ErrorKind::NotConnected.into())) };
        h1.exchange.awaiting.set(true);
        *h1.exchange.call.borrow_mut() = Some(call.clone());
        let response = {
            let H1 { connection, send, .. } = &mut **h1;
            let mut response = std::pin::pin!(send.try_send_request(request));
            let mut quiet = Context::from_waker(Waker::noop());
            std::future::poll_fn(|cx| {
                // The connection is what makes progress: the response is looked at right after, so it need not wake us.
                let closed = Pin::new(&mut *connection).poll(cx).is_ready();
                match response.as_mut().poll(&mut quiet) {
                    Poll::Pending if closed => {
                        // The channel resolves when the connection is gone.
                        response.as_mut().poll(cx)
                    }
                    other => other,
                }
            })
            .await
        };
        match response {
            Ok(response) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                if let Some(h1) = lease.h1.take() {
                    let parts = h1.connection.into_parts();
                    let ready = Ready::new(parts.io.into_inner(), parts.read_buf);
                    *call.connection.tunnel.borrow_mut() = Some((ready, None));
                }
                Ok((response, lease))
            }
            Ok(response) => Ok((response, lease)),
            Err(error) => Err(Failed::Exchange(error.into_error())),
        }
    }

    /// Sends a request over the shared HTTP/2 connection (prior knowledge).
    ///
    /// # Errors
    /// No connection, or no response on it.
    pub async fn send_h2(&self, mut request: http::Request<Outbound>) -> Result<http::Response<Incoming>, Failed> {
        for _ in 0..2 {
            let mut send = self.h2().await?;
            match send.try_send_request(request).await {
                Ok(response) => {
                    self.speaks.set(Speaks::Http2);
                    return Ok(response);
                }
                Err(mut error) => match take_unsent(&mut error) {
                    Some(unsent) => {
                        *self.h2.borrow_mut() = None;
                        request = unsent;
                    }
                    None => return Err(Failed::Exchange(error.into_error())),
                },
            }
        }
        Err(Failed::Connect(io::ErrorKind::ConnectionReset.into()))
    }

    /// What is known of the application's protocols.
    #[must_use]
    pub fn speaks(&self) -> Speaks {
        self.speaks.get()
    }

    /// Whether the application answers the preface of HTTP/2 with HTTP/1. Asked on a connection of its own, at most
    /// until the application has answered over HTTP/2 once.
    pub async fn refuses_h2(&self) -> bool {
        // The preface and an empty SETTINGS frame (RFC 9113 section 3.4).
        const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let ask = async {
            let mut socket = self.connect().await.ok()?;
            socket.write_all(HELLO).await.ok()?;
            let mut first = [0; 5];
            socket.read_exact(&mut first).await.ok()?;
            Some(&first == b"HTTP/")
        };
        let refuses = tokio::time::timeout(limits::CONTINUE_WAIT, ask).await.ok().flatten().unwrap_or(false);
        if refuses {
            self.speaks.set(Speaks::Http1Only);
        }
        refuses
    }

    async fn h2(&self) -> Result<http2::SendRequest<Outbound>, Failed> {
        let usable = || self.h2.borrow().as_ref().filter(|s| !s.is_closed()).cloned();
        if let Some(send) = usable() {
            return Ok(send);
        }
        let _one = self.h2_connecting.acquire().await;
        if let Some(send) = usable() {
            return Ok(send);
        }
        let socket = self.connect().await.map_err(Failed::Connect)?;
        let (send, connection) = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_header_list_size(limits::H2_HEADER_LIST)
            .max_send_buf_size(limits::SEND_BUFFER)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(Failed::Exchange)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the application ended");
            }
        });
        *self.h2.borrow_mut() = Some(send.clone());
        Ok(send)
    }
}

fn take_unsent<T>(error: &mut TrySendError<T>) -> Option<T> {
    error.take_message()
}

impl H1 {
    /// Lets hyper notice what happened to an idle connection. The waker does nothing: no task waits for it, and the
    /// one that used it last must not be kept alive by it.
    fn is_open(&mut self) -> bool {
        let mut quiet = Context::from_waker(Waker::noop());
        Pin::new(&mut self.connection).poll(&mut quiet).is_pending() && self.send.is_ready()
    }
}

impl Lease {
    /// Lets the connection make progress.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(h1) = &mut self.h1
            && Pin::new(&mut h1.connection).poll(cx).is_ready()
        {
            self.h1 = None;
        }
    }

    /// Puts the connection back into its pool, if it can serve another request.
    pub fn give_back(mut self) {
        let (Some(mut h1), Some(pool)) = (self.h1.take(), self.pool.upgrade()) else { return };
        *h1.exchange.call.borrow_mut() = None;
        let mut idle = pool.idle.borrow_mut();
        if idle.len() < pool.limits.idle && h1.is_open() {
            idle.push_back((Instant::now(), h1));
        }
    }
}
