//! How a connection begins: the TLS handshake if there is to be one, and whether HTTP/2 or HTTP/1.1 follows.
//!
//! Data side; called for each accepted socket by [`super::server`], which limits the time of all this. Over TLS the
//! protocol `h2` of ALPN settles it; else the first bytes do, over TLS as in plaintext: the Go activator names no protocol
//! and begins with HTTP/2's preface. A caller that speaks plain HTTP to the TLS port gets the answer of Go's server.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::call::Connection;
use super::server::Told;
use super::stream::Socket;
use crate::telemetry::request_log::TlsFacts;

/// The first bytes of HTTP/2 with prior knowledge (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The connection once it is known what is spoken on it: its stream, the first bytes if they were read to tell, and
/// whether it is HTTP/2. None: there is nothing to serve.
pub(super) async fn open(
    socket: TcpStream,
    info: &Connection,
    tls: Option<Arc<rustls::ServerConfig>>,
    told: &dyn Told,
) -> Option<(Socket, Vec<u8>, bool)> {
    let mut socket = match tls {
        None => Socket::Plain(socket),
        Some(config) => {
            if looks_like_http(&socket).await? {
                let error = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                told.handshake_failed(&error, info);
                answer_plain_http(socket).await;
                return None;
            }
            match Box::pin(shake_hands(socket, config)).await {
                Ok(stream) => {
                    told.handshake(stream.get_ref().1);
                    let _ = info.negotiated.set(negotiated(stream.get_ref().1));
                    info.certified.set(stream.get_ref().1.peer_certificates().is_some());
                    Socket::Tls(Box::new(stream))
                }
                Err(error) => {
                    told.handshake_failed(&error, info);
                    return None;
                }
            }
        }
    };
    if let Socket::Tls(stream) = &socket
        && let Some(name) = stream.get_ref().1.server_name()
    {
        let _ = info.server_name.set(name.into());
    }
    if let Socket::Tls(stream) = &socket
        && stream.get_ref().1.alpn_protocol() == Some(b"h2")
    {
        return Some((socket, Vec::new(), true));
    }
    let mut first = Vec::with_capacity(512);
    loop {
        let n = match &mut socket {
            Socket::Plain(s) => s.read_buf(&mut first).await,
            Socket::Tls(s) => s.read_buf(&mut first).await,
        };
        if n.ok()? == 0 {
            return None;
        }
        let common = first.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        if common == PREFACE.len() {
            return Some((socket, first, true));
        }
        if common < first.len() {
            return Some((socket, first, false));
        }
    }
}

/// The alert for a server name without a certificate, fatal (RFC 6066 section 3, RFC 8446 section 6.2), as a record.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The handshake. rustls says `access_denied` when the resolver has no certificate (the gateway's for a name, a queue's that
/// was withdrawn), as if the caller were refused; it is asked first, so that callers are told what is wrong.
async fn shake_hands(
    socket: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let hello = tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
    if config.cert_resolver.resolve(hello.client_hello()).is_none() {
        let mut socket = hello.io;
        let _ = socket.write_all(&UNRECOGNIZED_NAME).await;
        let _ = socket.shutdown().await;
        let error = rustls::Error::General("no server certificate chain resolved".to_owned());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
    }
    hello.into_stream(config).await
}

/// Whether a caller of the TLS port begins with a request in plaintext, by the beginnings that Go's server knows
/// (`crypto/tls`, `net/http`). Looked at before the handshake, since rustls would answer with an alert first. None: it left
/// without a byte, as those do who only look whether the port is open. That is no handshake that failed.
async fn looks_like_http(socket: &TcpStream) -> Option<bool> {
    let mut first = [0; 5];
    let n = socket.peek(&mut first).await.ok().filter(|n| *n > 0)?;
    let known: [&[u8]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
    Some(known.contains(&first.get(..n).unwrap_or_default()))
}

/// What the request log may name of a handshake.
fn negotiated(tls: &rustls::ServerConnection) -> TlsFacts {
    TlsFacts {
        version: tls.protocol_version().map_or(0, u16::from),
        resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        cipher_suite: tls.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into()),
        group: tls.negotiated_key_exchange_group().map_or(0, |group| group.name().into()),
        protocol: match tls.alpn_protocol() {
            Some(b"h2") => "h2",
            Some(b"http/1.1") => "http/1.1",
            _ => "",
        },
        server_name: tls.server_name().unwrap_or_default().into(),
    }
}

/// Plain HTTP on a TLS port gets the answer of Go's server, not just a closed connection.
async fn answer_plain_http(mut socket: TcpStream) {
    // What is unread when a socket closes resets the connection, and the answer with it.
    let _ = socket.try_read(&mut vec![0; 16 * 1024]);
    let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let _ = socket.write_all(text).await;
    let _ = socket.shutdown().await;
}
