//! HTTP/2 callers that drive their streams themselves: dialogues, and WebSockets by extended CONNECT (RFC 8441).
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// A connection whose peer's settings have come, and the task that drives it.
pub async fn connect(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
) -> Result<(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>), h2::Error> {
    let (send, mut connection) = h2::client::handshake(stream).await?;
    let mut pings = connection.ping_pong().expect("nobody else has it");
    let driver = tokio::task::spawn_local(connection);
    // It answers in order: its settings were there before.
    pings.ping(h2::Ping::opaque()).await?;
    Ok((send, driver))
}

/// A request for a WebSocket.
pub fn websocket(uri: &str) -> http::request::Builder {
    http::Request::connect(uri).extension(h2::ext::Protocol::from_static("websocket"))
}

/// So many bytes, fewer at the end.
pub async fn some(from: &mut h2::RecvStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let Some(Ok(data)) = from.data().await else { break };
        from.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    bytes
}
