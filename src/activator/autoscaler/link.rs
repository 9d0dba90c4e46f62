//! The WebSocket to the autoscaler, which is opened again for ever.
//!
//! A lost link is tried again within 100 to 180 ms, whatever the number of failures: an autoscaler that is back is known
//! within 200 ms, and an attempt that is refused costs next to nothing. Only the limit of a connection attempt grows,
//! for networks on which it is too short.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use super::report::{Poke, Reporter, encode};
use crate::net::websocket::{self, Frame};
use crate::telemetry::log::Throttle;

/// How often all entries are reported; the autoscaler takes counts as per second because of it.
const REPORT: Duration = Duration::from_secs(1);
/// How long the other end may be silent.
const PONG: Duration = Duration::from_secs(10);
/// How often it is asked for a sign of life.
const PING: Duration = Duration::from_millis(3333);
/// Limit of the WebSocket's handshake, and of a write.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Shortest pause between two attempts; up to 80 per cent more are added, so that activators don't come in step.
const PAUSE: Duration = Duration::from_millis(100);
/// First limit of a connection attempt, which grows by half each time up to [`HANDSHAKE`].
const CONNECT: Duration = Duration::from_millis(150);
/// Bytes of the answer to the handshake.
const MAX_HEAD: u64 = 16 * 1024;

/// What others may know of the link.
#[derive(Debug)]
pub struct Status {
    began: Instant,
    connected: AtomicBool,
    ever: AtomicBool,
    /// Milliseconds from `began` to the moment in which it was lost.
    lost: AtomicU64,
    losses: AtomicU64,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            connected: AtomicBool::new(false),
            ever: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }
}

impl Status {
    /// Whether the link is up.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Whether it ever was.
    pub fn was_connected(&self) -> bool {
        self.ever.load(Ordering::Relaxed)
    }

    /// For how long it has been down; since the start, if it never was up.
    pub fn down_for(&self) -> Option<Duration> {
        let lost = self.began + Duration::from_millis(self.lost.load(Ordering::Relaxed));
        (!self.is_connected()).then(|| lost.elapsed())
    }

    /// How often it was lost.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    fn up(&self) {
        self.ever.store(true, Ordering::Relaxed);
        self.connected.store(true, Ordering::Relaxed);
    }

    fn down(&self) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.lost.store(at, Ordering::Relaxed);
        self.losses.fetch_add(1, Ordering::Relaxed);
        self.connected.store(false, Ordering::Relaxed);
    }
}

/// Reports for ever, to the autoscaler at `address` (host and port), until `stop` turns true.
pub async fn run(
    address: String,
    pokes: mpsc::UnboundedReceiver<Poke>,
    reporter: Reporter,
    status: Arc<Status>,
    mut stop: watch::Receiver<bool>,
) {
    tracing::info!("Connecting to Autoscaler at ws://{address}");
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + REPORT, REPORT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work { pokes, reporter, ticks };
    tokio::select! {
        () = keep(&address, &mut work, &status) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn keep(address: &str, work: &mut Work, status: &Status) {
    let mut limit = CONNECT;
    let quiet = Throttle::every(Duration::from_secs(10));
    loop {
        match work.meanwhile(connect(address, limit)).await {
            Ok((read, write)) => {
                limit = CONNECT;
                status.up();
                tracing::info!("Connected to Autoscaler at ws://{address}");
                let error = serve(work, read, write).await;
                status.down();
                tracing::warn!(%error, "Lost the connection to Autoscaler at ws://{address}");
                continue;
            }
            Err(error) => {
                limit = (limit + limit / 2).min(HANDSHAKE);
                if quiet.allows(&error.to_string()) {
                    tracing::warn!(%error, "Websocket connection could not be established");
                }
            }
        }
        let jitter = PAUSE.mul_f64((websocket::random() % 800) as f64 / 1000.0);
        work.meanwhile(tokio::time::sleep(PAUSE + jitter)).await;
    }
}

/// What goes on whether the link is up or not.
struct Work {
    pokes: mpsc::UnboundedReceiver<Poke>,
    reporter: Reporter,
    ticks: Interval,
}

impl Work {
    /// Keeps the reports up to date, unsent, until `future` is ready.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return result,
                _ = self.next() => {}
            }
        }
    }

    /// The next message; none when there is nothing to say this second.
    async fn next(&mut self) -> Option<Vec<u8>> {
        tokio::select! {
            biased;
            Some(poke) = self.pokes.recv() => {
                let mut messages = vec![self.reporter.poke(poke)];
                while let Ok(poke) = self.pokes.try_recv() {
                    messages.push(self.reporter.poke(poke));
                }
                Some(encode(messages))
            }
            _ = self.ticks.tick() => {
                let messages = self.reporter.report(Instant::now());
                (!messages.is_empty()).then(|| encode(messages))
            }
        }
    }
}

/// Speaks over one connection to its end, and says why it ended.
async fn serve(work: &mut Work, mut read: BufReader<OwnedReadHalf>, mut write: OwnedWriteHalf) -> io::Error {
    let (frames, mut incoming) = mpsc::channel(8);
    let reader = tokio::task::spawn_local(async move {
        loop {
            let frame = websocket::read(&mut read).await;
            let failed = frame.is_err();
            if frames.send(frame).await.is_err() || failed {
                return;
            }
        }
    });
    let result = speak(work, &mut incoming, &mut write).await;
    reader.abort();
    result.err().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())
}

async fn speak(
    work: &mut Work,
    incoming: &mut mpsc::Receiver<io::Result<Frame>>,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let last = work.reporter.last();
    if !last.is_empty() {
        send(write, websocket::BINARY, &encode(last)).await?;
    }
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            message = work.next() => {
                if let Some(message) = message {
                    send(write, websocket::BINARY, &message).await?;
                }
            }
            frame = incoming.recv() => {
                let frame = frame.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
                heard = Instant::now();
                match frame.opcode {
                    websocket::PING => send(write, websocket::PONG, &frame.payload).await?,
                    websocket::CLOSE => {
                        let _ = send(write, websocket::CLOSE, &frame.payload).await;
                        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the autoscaler closed it"));
                    }
                    _ => {}
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() > PONG {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the autoscaler is silent"));
                }
                send(write, websocket::PING, b"").await?;
            }
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let sent = tokio::time::timeout(HANDSHAKE, websocket::write(write, opcode, payload, true)).await;
    sent.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the autoscaler does not read")))
}

/// Connects and shakes hands.
async fn connect(address: &str, limit: Duration) -> io::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    let late = |what: &'static str| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
    // Name look-up runs on a thread of its own and is not cut short by the limit of the connection.
    let found = tokio::time::timeout(HANDSHAKE, tokio::net::lookup_host(address)).await;
    let candidates: Vec<_> = found.map_err(late("its name was not found in time"))??.collect();
    let connecting = TcpStream::connect(candidates.as_slice());
    let socket = tokio::time::timeout(limit, connecting).await.map_err(late("no connection in time"))??;
    let _ = socket.set_nodelay(true);
    let (read, mut write) = socket.into_split();
    let mut read = BufReader::new(read);
    let shaking = shake_hands(address, &mut read, &mut write);
    tokio::time::timeout(HANDSHAKE, shaking).await.map_err(late("no answer to the handshake in time"))??;
    Ok((read, write))
}

async fn shake_hands(address: &str, read: &mut BufReader<OwnedReadHalf>, write: &mut OwnedWriteHalf) -> io::Result<()> {
    let key = websocket::key();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUser-Agent: lockkeeper/{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    write.write_all(request.as_bytes()).await?;
    let mut head = read.take(MAX_HEAD);
    let mut line = String::new();
    head.read_line(&mut line).await?;
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if line.split_ascii_whitespace().nth(1) != Some("101") {
        return refused(format!("it answered {:?} to the handshake", line.trim_end()));
    }
    let mut accepted = false;
    loop {
        line.clear();
        if head.read_line(&mut line).await? == 0 {
            return refused("its answer to the handshake has no end".to_owned());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("sec-websocket-accept") {
            accepted = value.trim() == websocket::accept(&key);
        }
    }
    if accepted { Ok(()) } else { refused("it is no WebSocket server".to_owned()) }
}
