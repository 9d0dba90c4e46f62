//! Pods in this process, each on a loopback address of its own: they answer probes as a queue does and everything else
//! with 200, and take down what they are asked when.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Ports of a queue.
pub(crate) const PLAIN: u16 = 8012;
pub(crate) const TLS: u16 = 8112;

/// One pod; its listeners and connections end with it.
pub(crate) struct Pod {
    seen: Rc<Seen>,
    _tasks: JoinSet<()>,
}

/// What a pod saw.
#[derive(Default)]
struct Seen {
    handshakes: Cell<usize>,
    /// When the first byte of the first request came, and how many handshakes there had been.
    first: Cell<Option<(Instant, usize)>>,
    came: Notify,
    /// Where requests wait for those of other pods before any is answered.
    together: Option<Rc<Barrier>>,
}

impl Pod {
    /// Listens from now on: for probes in plaintext, for requests there or, if so, over TLS.
    pub(crate) fn open(address: Ipv4Addr, tls: Option<&TlsAcceptor>) -> io::Result<Self> {
        Self::listening(address, tls, Seen::default())
    }

    /// One that answers a request when as many as the barrier says have come, to all of its pods: so that a fast pod
    /// takes none that could have been another's first.
    pub(crate) fn together(address: Ipv4Addr, tls: &TlsAcceptor, barrier: &Rc<Barrier>) -> io::Result<Self> {
        Self::listening(address, Some(tls), Seen { together: Some(barrier.clone()), ..Seen::default() })
    }

    fn listening(address: Ipv4Addr, tls: Option<&TlsAcceptor>, seen: Seen) -> io::Result<Self> {
        let seen = Rc::new(seen);
        let mut tasks = JoinSet::new();
        // The port of probes last: from then on it can answer.
        if let Some(tls) = tls {
            tasks.spawn_local(listen(listener((address, TLS).into(), 128)?, Some(tls.clone()), seen.clone()));
        }
        tasks.spawn_local(listen(listener((address, PLAIN).into(), 128)?, None, seen.clone()));
        Ok(Self { seen, _tasks: tasks })
    }

    /// Waits for the first byte of the first request: when it came, and after how many handshakes.
    pub(crate) async fn first(&self) -> (Instant, usize) {
        loop {
            if let Some(first) = self.seen.first.get() {
                return first;
            }
            self.seen.came.notified().await;
        }
    }

    pub(crate) fn first_so_far(&self) -> Option<(Instant, usize)> {
        self.seen.first.get()
    }
}

fn listener(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = socket(address, backlog)?;
    TcpListener::from_std(socket.into())
}

fn socket(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, seen: Rc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, seen) = (tls.clone(), seen.clone());
        let _ = socket.set_nodelay(true);
        connections.spawn_local(async move {
            match tls {
                None => serve(socket, &seen).await,
                Some(tls) => match tls.accept(socket).await {
                    Err(_) => Ok(()),
                    Ok(socket) => {
                        seen.handshakes.set(seen.handshakes.get() + 1);
                        serve(socket, &seen).await
                    }
                },
            }
        });
    }
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, seen: &Seen) -> io::Result<()> {
    let mut got = Vec::new();
    while socket.read_buf(&mut got).await? > 0 {
        let probe = got.starts_with(b"GET /healthz");
        if !probe && seen.first.get().is_none() {
            seen.first.set(Some((Instant::now(), seen.handshakes.get())));
            seen.came.notify_waiters();
        }
        if !got.ends_with(b"\r\n\r\n") {
            continue;
        }
        got.clear();
        if let Some(together) = seen.together.as_ref().filter(|_| !probe) {
            together.wait().await;
        }
        let body = if probe { "queue" } else { "hello" };
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{body}").as_bytes()).await?;
        socket.flush().await?;
    }
    Ok(())
}

/// An address that nobody reaches: whoever connects hears nothing, since the queue of its listener is full.
pub(crate) struct Hole {
    _listener: Socket,
    _filling: Vec<Socket>,
}

impl Hole {
    pub(crate) fn at(address: Ipv4Addr) -> io::Result<Self> {
        let address = SocketAddr::from((address, PLAIN));
        let listener = socket(address, 0)?;
        let filling = (0..3).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // It is under way, which is an error to `connect`.
            let _ = socket.connect(&address.into());
            Ok(socket)
        });
        let filling = filling.collect::<io::Result<_>>()?;
        let patience = std::time::Duration::from_millis(20);
        match std::net::TcpStream::connect_timeout(&address, patience) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Ok(Self { _listener: listener, _filling: filling })
            }
            other => Err(io::Error::other(format!("a full listener took a connection: {other:?}"))),
        }
    }
}
