//! Just enough of RFC 6455 for the link to the autoscaler, the sample application and `local --check`: unfragmented
//! frames up to 1 MiB.
//!
//! The proxy itself never looks into WebSocket frames of others; it only writes a close frame when it has to cut one.
use std::io;

use aws_lc_rs::digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Opcode of a text message.
pub const TEXT: u8 = 1;
/// Opcode of a binary message.
pub const BINARY: u8 = 2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of a pong.
pub const PONG: u8 = 10;

const LIMIT: u64 = 1 << 20;

/// One frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The opcode, without the FIN bit.
    pub opcode: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The `Sec-WebSocket-Accept` that answers `key` (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept(key: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(hash.finish().as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (group >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// Reads one frame.
///
/// # Errors
/// When the stream ends or the frame is longer than 1 MiB.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Frame> {
    let first = stream.read_u8().await?;
    let second = stream.read_u8().await?;
    let length = match second & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    if length > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "WebSocket frame of more than 1 MiB"));
    }
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Ok(Frame { opcode: first & 0x0f, payload })
}

/// A key for [`write()`], or for a handshake: hard to guess (RFC 6455 section 10.3), and cheap.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::Instant::now())
}

/// A fresh `Sec-WebSocket-Key`.
#[must_use]
pub fn key() -> String {
    base64(&[random().to_ne_bytes(), random().to_ne_bytes()].concat())
}

/// Writes one whole message. A client must `mask`.
///
/// # Errors
/// When the stream fails.
pub async fn write<S: AsyncWrite + Unpin>(stream: &mut S, opcode: u8, payload: &[u8], mask: bool) -> io::Result<()> {
    let flag = if mask { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => frame.push(flag | short),
        (_, Ok(medium)) => {
            frame.push(flag | 126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.push(flag | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    if mask {
        let [key @ .., _, _, _, _] = random().to_ne_bytes();
        frame.extend_from_slice(&key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    } else {
        frame.extend_from_slice(payload);
    }
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_the_key_of_the_rfc_when_accepted_then_the_answer_is_the_rfcs() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn when_frames_of_each_length_form_are_written_then_they_read_back() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for mask in [false, true] {
                let payload = vec![7; length];
                let mut wire = Vec::new();
                write(&mut wire, TEXT, &payload, mask).await.unwrap();
                let frame = read(&mut wire.as_slice()).await.unwrap();
                assert_eq!(frame, Frame { opcode: TEXT, payload });
            }
        }
    }
}
