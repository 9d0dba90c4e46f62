//! A scripted autoscaler: takes the activator's WebSocket, keeps what it is told, and goes away when it is told to.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lockkeeper::knative::stat::WireStatMessages;
use lockkeeper::net::websocket;
use prost::Message;

use crate::support::port::free_listener;
use crate::support::wait::eventually;

/// The autoscaler.
pub struct Autoscaler {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    silent: AtomicBool,
    heads: Mutex<Vec<String>>,
    told: Mutex<Vec<Told>>,
    pings: Mutex<Vec<Instant>>,
    open: Mutex<Vec<TcpStream>>,
}

/// What was said of one revision in one message.
#[derive(Clone, Debug)]
pub struct Told {
    /// Number of the message, from 0.
    pub message: usize,
    /// `namespace/name`.
    pub revision: String,
    /// Who says it.
    pub pod: String,
    /// Mean of the requests in flight.
    pub concurrency: f64,
    /// Requests that came.
    pub count: f64,
}

impl Autoscaler {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let listener = free_listener();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        listen(listener, state.clone());
        Self { port, state }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops listening and cuts every connection.
    pub fn stop(&self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        eventually("the port is closed", || TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    /// Listens again, knowing nothing.
    pub fn restart(&self) {
        self.state.told.lock().unwrap().clear();
        self.state.stop.store(false, Ordering::SeqCst);
        listen(TcpListener::bind(("127.0.0.1", self.port)).unwrap(), self.state.clone());
    }

    /// Takes everything from now on and says nothing, as one that hangs.
    pub fn hang(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    /// The handshakes so far, as they came.
    pub fn handshakes(&self) -> Vec<String> {
        self.state.heads.lock().unwrap().clone()
    }

    /// When pings came.
    pub fn pings(&self) -> usize {
        self.state.pings.lock().unwrap().len()
    }

    /// All that was said, in order.
    pub fn told(&self) -> Vec<Told> {
        self.state.told.lock().unwrap().clone()
    }

    /// What was said of one revision.
    pub fn told_of(&self, revision: &str) -> Vec<Told> {
        self.told().into_iter().filter(|told| told.revision == revision).collect()
    }
}

impl Drop for Autoscaler {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn listen(listener: TcpListener, state: Arc<State>) {
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if state.stop.load(Ordering::SeqCst) {
                return;
            }
            state.open.lock().unwrap().push(stream.try_clone().unwrap());
            let state = state.clone();
            std::thread::spawn(move || serve(stream, &state));
        }
    });
}

fn serve(mut stream: TcpStream, state: &State) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?.to_owned();
    state.heads.lock().unwrap().push(head);
    let accept = websocket::accept(&key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).ok()?;
    loop {
        let (opcode, payload) = frame(&mut stream)?;
        match opcode {
            websocket::BINARY => {
                let messages = WireStatMessages::decode(payload.as_slice()).expect("a message of statistics").messages;
                let mut told = state.told.lock().unwrap();
                let number = told.last().map_or(0, |last| last.message + 1);
                for message in messages {
                    let stat = message.stat.unwrap();
                    told.push(Told {
                        message: number,
                        revision: format!("{}/{}", message.namespace, message.name),
                        pod: stat.pod_name,
                        concurrency: stat.average_concurrent_requests,
                        count: stat.request_count,
                    });
                }
            }
            websocket::PING => {
                state.pings.lock().unwrap().push(Instant::now());
                if state.silent.load(Ordering::SeqCst) {
                    continue;
                }
                stream.write_all(&[0x80 | websocket::PONG, 0]).ok()?;
            }
            _ => {}
        }
    }
}

/// A masked frame, as clients must send them.
fn frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    assert_ne!(head[1] & 0x80, 0, "a client masks");
    let length = match head[1] & 0x7f {
        126 => {
            let mut long = [0; 2];
            stream.read_exact(&mut long).ok()?;
            usize::from(u16::from_be_bytes(long))
        }
        127 => panic!("no message is so long"),
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).ok()?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Some((head[0] & 0x0f, payload))
}
