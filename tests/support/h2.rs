//! HTTP/2 by the frame (RFC 9113), for callers that no library would play: floods, resets, malformed headers.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::binary::socket_timeout;
use super::client::local;

/// Frame types.
pub const DATA: u8 = 0;
/// See above.
pub const HEADERS: u8 = 1;
/// See above.
pub const RST_STREAM: u8 = 3;
/// See above.
pub const SETTINGS: u8 = 4;
/// See above.
pub const PING: u8 = 6;
/// See above.
pub const GOAWAY: u8 = 7;
/// See above.
pub const WINDOW_UPDATE: u8 = 8;
/// See above.
pub const CONTINUATION: u8 = 9;

/// The flag that ends a stream (DATA, HEADERS).
pub const END_STREAM: u8 = 1;
/// The flag that ends a header block (HEADERS, CONTINUATION).
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream, 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether it is the last one of its stream.
    pub fn ends_stream(&self) -> bool {
        self.kind == RST_STREAM || (matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0)
    }

    /// The code of a RST_STREAM.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload.get(at..at + 4).map_or(0, |code| u32::from_be_bytes(code.try_into().unwrap()))
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals without indexing and without Huffman coding (RFC 7541 section 6.2.2): any bytes fit in.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_bytes(), value.as_bytes()] {
            integer(text.len(), &mut bytes);
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// A length with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(mut value: usize, bytes: &mut Vec<u8>) {
    if value < 127 {
        bytes.push(value as u8);
        return;
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// A connection that sends and reads frames.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// Connects with prior knowledge; settings are exchanged lazily: the server's are read as frames.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::connect_to(local(port))
    }

    /// The same to any address.
    #[track_caller]
    pub fn connect_to(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the port is open");
        let _ = stream.set_nodelay(true);
        stream.set_read_timeout(socket_timeout()).unwrap();
        stream.set_write_timeout(socket_timeout()).unwrap();
        let mut frames = Self { stream };
        frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames.send(SETTINGS, 0, 0, &[]);
        frames
    }

    /// The server's side of an accepted connection: the preface is read, the settings are sent.
    pub fn accept(mut stream: TcpStream) -> Option<Self> {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(socket_timeout());
        stream.read_exact(&mut [0; 24]).ok()?;
        let mut frames = Self { stream };
        frames.send(SETTINGS, 0, 0, &[]).then_some(frames)
    }

    /// Whether the next byte comes within `limit`; false at the end, too.
    pub fn more_within(&mut self, limit: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(limit));
        let came = self.stream.peek(&mut [0]).is_ok_and(|count| count > 0);
        let _ = self.stream.set_read_timeout(socket_timeout());
        came
    }

    /// Sends bytes as they are; false when the peer no longer takes any.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a frame; false when the peer no longer takes any.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.bytes(&frame(kind, flags, stream, payload))
    }

    /// Sends a header block in one frame.
    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> bool {
        self.send(HEADERS, END_HEADERS | u8::from(end), stream, &block(fields))
    }

    /// The next frame, SETTINGS and PING acknowledged; `None` when the connection has ended.
    #[allow(clippy::should_implement_trait, reason = "an iterator would promise more")]
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame.kind == SETTINGS && frame.flags & 1 == 0 {
            self.send(SETTINGS, 1, 0, &[]);
        }
        if frame.kind == PING && frame.flags & 1 == 0 {
            self.send(PING, 1, 0, &frame.payload);
        }
        Some(frame)
    }

    /// Reads until a frame fits.
    #[track_caller]
    pub fn until(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            match self.next() {
                Some(frame) if fits(&frame) => return frame,
                Some(_) => {}
                None => panic!("the connection ended before {what}"),
            }
        }
    }

    /// Reads to the end of the connection: the last GOAWAY, if one came, and whether the end came in time.
    pub fn end(&mut self, limit: Duration) -> (Option<Frame>, bool) {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        let mut goaway = None;
        let start = std::time::Instant::now();
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                goaway = Some(frame);
            }
        }
        (goaway, start.elapsed() < limit)
    }

    /// The socket, for what is not frames.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }
}
