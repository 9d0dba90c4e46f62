//! For tests: an address that refuses, and stays the test's own.
#![allow(clippy::unwrap_used)]
use std::net::{SocketAddr, TcpListener};

/// An address of 127.0.0.1 where nobody listens, and that nobody else gets while the socket is held.
pub(crate) fn closed() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Listens there.
pub(crate) fn open(socket: socket2::Socket) -> TcpListener {
    socket.listen(64).unwrap();
    socket.into()
}

/// Listens there, for tokio.
pub(crate) fn open_async(socket: socket2::Socket) -> tokio::net::TcpListener {
    socket.set_nonblocking(true).unwrap();
    tokio::net::TcpListener::from_std(open(socket)).unwrap()
}
