//! A scripted application that speaks HTTP/2 with prior knowledge, by the frame: for what no library would do.
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::h2::{DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, frame};
use super::port::free_listener;

/// A running application.
pub struct H2App {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    accepted: AtomicUsize,
    bodies: Mutex<Vec<Vec<u8>>>,
}

/// One connection, given to the script.
pub struct H2Conn {
    /// Its number, from 0. Those that only ask for the protocol count too.
    pub index: usize,
    frames: Frames,
    open: BTreeMap<u32, Vec<u8>>,
    last: u32,
    state: Arc<State>,
}

impl H2App {
    /// Starts an application that runs `script` for each connection.
    pub fn start(script: impl Fn(&mut H2Conn) + Send + Sync + 'static) -> Self {
        let listener = free_listener();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let (shared, script) = (state.clone(), Arc::new(script));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let index = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let (script, state) = (script.clone(), shared.clone());
                std::thread::spawn(move || {
                    let Some(frames) = Frames::accept(stream) else { return };
                    script(&mut H2Conn { index, frames, open: BTreeMap::new(), last: 0, state });
                });
            }
        });
        Self { port, state }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bodies of requests that came in whole, in the order in which they did.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.state.bodies.lock().unwrap().clone()
    }
}

impl Drop for H2App {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl H2Conn {
    /// The next frame; none at the end.
    pub fn frame(&mut self) -> Option<Frame> {
        let frame = self.frames.next()?;
        if frame.kind == HEADERS {
            self.last = self.last.max(frame.stream);
        }
        Some(frame)
    }

    /// The next request that is whole: its stream and its body. None at the end.
    pub fn request(&mut self) -> Option<(u32, Vec<u8>)> {
        loop {
            let frame = self.frame()?;
            match frame.kind {
                HEADERS => drop(self.open.insert(frame.stream, Vec::new())),
                DATA => self.open.entry(frame.stream).or_default().extend_from_slice(&frame.payload),
                RST_STREAM => drop(self.open.remove(&frame.stream)),
                _ => continue,
            }
            if frame.kind == DATA && !frame.payload.is_empty() && !frame.ends_stream() {
                let taken = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                self.frames.send(WINDOW_UPDATE, 0, frame.stream, &taken);
                self.frames.send(WINDOW_UPDATE, 0, 0, &taken);
            }
            if frame.kind != RST_STREAM && frame.ends_stream() {
                let body = self.open.remove(&frame.stream).unwrap_or_default();
                self.state.bodies.lock().unwrap().push(body.clone());
                return Some((frame.stream, body));
            }
        }
    }

    /// Whether the next byte comes within `limit`; false at the end, too.
    pub fn more_within(&mut self, limit: Duration) -> bool {
        self.frames.more_within(limit)
    }

    /// Answers 200 with `body`, and gives back the window that a body of such a length used last.
    pub fn answer(&mut self, stream: u32, body: &[u8]) {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &[0x88]);
        for piece in body.chunks(16 * 1024) {
            bytes.extend(frame(DATA, 0, stream, piece));
        }
        bytes.extend(frame(DATA, END_STREAM, stream, b""));
        if !body.is_empty() {
            bytes.extend(frame(WINDOW_UPDATE, 0, 0, &u32::try_from(body.len()).unwrap().to_be_bytes()));
        }
        self.frames.bytes(&bytes);
    }

    /// Says that it did nothing with this stream.
    pub fn refuse(&mut self, stream: u32) {
        self.frames.send(RST_STREAM, 0, stream, &7u32.to_be_bytes());
    }

    /// Says goodbye: streams above `last` were not taken up.
    pub fn goaway(&mut self, last: u32) {
        self.frames.send(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
    }

    /// The last stream that the peer opened.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// The frames.
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }
}

/// A caller by HTTP/2, one request after the other.
pub struct H2Caller {
    frames: Frames,
    stream: u32,
}

impl H2Caller {
    /// Connects with prior knowledge.
    pub fn connect(port: u16) -> Self {
        Self { frames: Frames::connect(port), stream: 1 }
    }

    /// Sends requests, some without a body, in one piece; returns their streams.
    pub fn send(&mut self, requests: &[(&str, Option<&[u8]>)]) -> Vec<u32> {
        let (mut bytes, mut streams) = (Vec::new(), Vec::new());
        for (method, body) in requests {
            let stream = self.stream;
            self.stream += 2;
            let mut fields = vec![(":method", *method), (":scheme", "http"), (":path", "/"), (":authority", "hello")];
            let length = body.map(|body| body.len().to_string());
            fields.extend(length.as_deref().map(|length| ("content-length", length)));
            bytes.extend(frame(HEADERS, END_HEADERS | u8::from(body.is_none()), stream, &super::h2::block(&fields)));
            let pieces: Vec<&[u8]> = body.map(|body| body.chunks(16 * 1024).collect()).unwrap_or_default();
            for (n, piece) in pieces.iter().enumerate() {
                bytes.extend(frame(DATA, u8::from(n + 1 == pieces.len()), stream, piece));
            }
            streams.push(stream);
        }
        self.frames.bytes(&bytes);
        streams
    }

    /// The answer to the request on `stream`: whether it is a 200, and its body. None if it was reset, or the connection
    /// ended.
    pub fn answer(&mut self, stream: u32) -> Option<(bool, Vec<u8>)> {
        let (mut ok, mut body) = (false, Vec::new());
        loop {
            let frame = self.frames.next()?;
            if frame.kind == GOAWAY {
                return None;
            }
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS => ok |= frame.payload.first() == Some(&0x88),
                DATA => {
                    if !frame.payload.is_empty() {
                        let taken = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                        self.frames.send(WINDOW_UPDATE, 0, 0, &taken);
                    }
                    body.extend_from_slice(&frame.payload);
                }
                RST_STREAM => return None,
                _ => {}
            }
            if frame.ends_stream() {
                return Some((ok, body));
            }
        }
    }

    /// The next frame, of any stream.
    pub fn frame(&mut self) -> Option<Frame> {
        self.frames.next()
    }

    /// The frames.
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// A request and its answer.
    pub fn ask(&mut self, method: &str, body: Option<&[u8]>) -> Option<(bool, Vec<u8>)> {
        let streams = self.send(&[(method, body)]);
        self.answer(streams[0])
    }
}
