//! The data side: threads with one single-threaded runtime each.
//!
//! A connection lives on one worker for its whole life, with its upstream connections: nothing in the path of a
//! request is shared between threads, locked or woken across them. Worker 0 accepts; it gives each connection to the
//! worker that holds the fewest, so that a few long-lived HTTP/2 connections do not all land on one.

pub mod clock;
pub mod cpu;
pub mod deadline;
pub mod memory;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

/// Which listener a connection came in by: an index that the role gives when it starts listening.
pub type PortId = u8;

/// A connection that a worker shall serve.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not yet registered with the worker's runtime.
    pub stream: std::net::TcpStream,
    /// The caller's address.
    pub peer: SocketAddr,
    /// The listener that took it.
    pub port: PortId,
}

/// What a role does with a connection, built once a worker on its own thread.
pub trait Serve: 'static {
    /// Serves a connection that was accepted; called on the worker's thread, spawns with [`tokio::task::spawn_local`].
    fn serve(&self, stream: TcpStream, peer: SocketAddr, port: PortId, held: Held);
}

/// Counts a connection as held by its worker until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Handle {
    connections: Arc<AtomicUsize>,
    send: mpsc::UnboundedSender<Accepted>,
}

/// A listener on its way to worker 0, with the signal that closes it.
pub struct Listener {
    /// Bound and listening.
    pub socket: std::net::TcpListener,
    /// What [`Serve::serve`] is told.
    pub port: PortId,
    /// Stops accepting when it turns true or is dropped.
    pub stop: watch::Receiver<bool>,
}

/// The running workers.
pub struct Workers {
    listeners: mpsc::UnboundedSender<Listener>,
    handles: Vec<Handle>,
}

impl Workers {
    /// Starts `count` threads; `build` makes each one's server on its thread.
    ///
    /// # Errors
    /// A thread or a runtime could not be made.
    pub fn start<S: Serve>(count: usize, build: impl Fn(usize) -> S + Clone + Send + 'static) -> io::Result<Self> {
        let (listeners, listeners_rx) = mpsc::unbounded_channel();
        let mut listeners_rx = Some(listeners_rx);
        let mut receivers = Vec::new();
        let handles: Vec<Handle> = (0..count.max(1))
            .map(|_| {
                let (send, recv) = mpsc::unbounded_channel();
                receivers.push(recv);
                Handle { connections: Arc::default(), send }
            })
            .collect();
        for (index, accepted) in receivers.into_iter().enumerate() {
            let (build, handles, listeners) = (build.clone(), handles.clone(), listeners_rx.take());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            std::thread::Builder::new().name(format!("worker-{index}")).stack_size(512 * 1024).spawn(move || {
                crate::memory::blocks::keep();
                let local = LocalSet::new();
                local.block_on(&runtime, async move {
                    run(index, Rc::new(build(index)), accepted, listeners, handles.into()).await
                });
            })?;
        }
        Ok(Self { listeners, handles })
    }

    /// Begins to accept on a listener.
    pub fn listen(&self, listener: Listener) {
        let _ = self.listeners.send(listener);
    }

    /// Connections that are open on all workers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.handles.iter().map(|h| h.connections.load(Ordering::Relaxed)).sum()
    }
}

async fn run<S: Serve>(
    index: usize,
    server: Rc<S>,
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    listeners: Option<mpsc::UnboundedReceiver<Listener>>,
    handles: Rc<[Handle]>,
) {
    if let Some(mut listeners) = listeners {
        let (server, handles) = (server.clone(), handles.clone());
        tokio::task::spawn_local(async move {
            while let Some(listener) = listeners.recv().await {
                tokio::task::spawn_local(accept(listener, server.clone(), handles.clone()));
            }
        });
    }
    while let Some(Accepted { stream, peer, port }) = accepted.recv().await {
        let held = Held(handles[index].connections.clone());
        match TcpStream::from_std(stream) {
            Ok(stream) => server.serve(stream, peer, port, held),
            Err(error) => tracing::warn!(%error, "a connection could not be registered"),
        }
    }
}

async fn accept<S: Serve>(listener: Listener, server: Rc<S>, handles: Rc<[Handle]>) {
    let Listener { socket, port, mut stop } = listener;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "a listener could not be registered"),
    };
    let pause = Cell::new(false);
    loop {
        if pause.take() {
            // Out of file descriptors, most likely: give connections time to end instead of spinning.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let taken = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            taken = socket.accept() => taken,
        };
        match taken {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                dispatch(stream, peer, port, &*server, &handles);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                pause.set(true);
            }
        }
    }
}

/// Gives the connection to the worker that holds the fewest; this worker when there is a tie.
fn dispatch<S: Serve>(stream: TcpStream, peer: SocketAddr, port: PortId, here: &S, handles: &[Handle]) {
    let target = handles
        .iter()
        .enumerate()
        .min_by_key(|(_, h)| h.connections.load(Ordering::Relaxed))
        .map_or(0, |(index, _)| index);
    let Some(handle) = handles.get(target) else { return };
    handle.connections.fetch_add(1, Ordering::Relaxed);
    if target == 0 {
        return here.serve(stream, peer, port, Held(handle.connections.clone()));
    }
    match stream.into_std() {
        Ok(stream) => drop(handle.send.send(Accepted { stream, peer, port })),
        Err(_) => drop(Held(handle.connections.clone())),
    }
}
