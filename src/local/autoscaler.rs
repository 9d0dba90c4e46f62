//! A little autoscaler: one pod while there are requests, none after a while without.
//!
//! Speaks the autoscaler's side of the activator's WebSocket, and nothing else of it.
use std::io;
use std::net::SocketAddr;

use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::knative::stat::WireStatMessages;
use crate::net::websocket;

/// What the activator last said of the revision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Said {
    /// Number of the report.
    pub report: u64,
    /// Requests in flight.
    pub concurrency: f64,
}

/// Listens on loopback; what is said of any revision is published.
///
/// # Errors
/// When no port can be had.
pub async fn start() -> io::Result<(SocketAddr, watch::Receiver<Said>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (publish, said) = watch::channel(Said::default());
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let publish = publish.clone();
            tokio::task::spawn_local(async move {
                // The activator comes again by itself.
                let _ = serve(stream, &publish).await;
            });
        }
    });
    Ok((address, said))
}

async fn serve(mut stream: TcpStream, publish: &watch::Sender<Said>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or_default();
    let accept = websocket::accept(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    loop {
        let frame = websocket::read(&mut stream).await?;
        match frame.opcode {
            websocket::PING => websocket::write(&mut stream, websocket::PONG, &frame.payload, false).await?,
            websocket::BINARY => {
                let messages = WireStatMessages::decode(frame.payload.as_slice()).map_err(io::Error::other)?;
                let stats = messages.messages.iter().filter_map(|message| message.stat.as_ref());
                let concurrency = stats.map(|stat| stat.average_concurrent_requests + stat.request_count).sum();
                publish.send_modify(|said| *said = Said { report: said.report + 1, concurrency });
            }
            websocket::CLOSE => return Ok(()),
            _ => {}
        }
    }
}
