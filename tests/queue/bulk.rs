//! Q10: bodies of any size pass, both ways at once and unharmed, through a bounded part of memory.
//!
//! Callers and applications here do as little as they can for each byte: what is sent is made once, what comes back is
//! compared in pieces. The long version: `cargo test --locked -- --ignored q10`, best with the executable of a release
//! build (`LOCKKEEPER_TEST_EXECUTABLE`).
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockkeeper::local::client::{Io, Protocol, Trust, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::accept::accept;
use crate::support::binary::queue;
use crate::support::client::{local, run_for};
use crate::support::pki::Pki;
use crate::support::wait::patience;

const PIECE: usize = 64 << 10;
/// What is read at once of HTTP/1.1.
const READ: usize = 256 << 10;

/// What is sent: no byte tells its place, but a piece that is lost, doubled or moved is noticed.
struct Pattern(Vec<Bytes>);

impl Pattern {
    fn new() -> Self {
        let byte = |at: u64| (at ^ (at >> 8).wrapping_mul(31) ^ (at >> 16).wrapping_mul(17)) as u8;
        // It repeats itself after 16 MiB.
        let piece = |n: u64| (n * PIECE as u64..(n + 1) * PIECE as u64).map(byte).collect();
        Self((0..256).map(piece).collect())
    }

    fn piece(&self, at: u64) -> &Bytes {
        &self.0[(at / PIECE as u64) as usize % self.0.len()]
    }

    /// Compares what came at a place; the place after it.
    fn check(&self, mut at: u64, mut data: &[u8]) -> u64 {
        while !data.is_empty() {
            let offset = (at % PIECE as u64) as usize;
            let (now, rest) = data.split_at(data.len().min(PIECE - offset));
            assert!(*now == self.piece(at)[offset..offset + now.len()], "wrong bytes near {at}");
            at += now.len() as u64;
            data = rest;
        }
        at
    }
}

/// `size` bytes to an echo and back over HTTP/1.1.
async fn over_http1(stream: impl Io, pattern: &Pattern, size: u64) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(Box::pin(stream));
    let send = async {
        to.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").as_bytes()).await?;
        for at in (0..size).step_by(PIECE) {
            to.write_all(pattern.piece(at)).await?;
        }
        to.flush().await
    };
    let receive = async {
        let mut read = Vec::with_capacity(READ);
        let head = head(&mut from, &mut read).await?;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(&format!("ength: {size}\r\n")), "{head}");
        let mut at = 0;
        while at < size {
            at = pattern.check(at, &read);
            read.clear();
            if at < size && from.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        assert_eq!(at, size);
        Ok(())
    };
    tokio::try_join!(send, receive).map(|_| ())
}

/// Reads a head; what came behind it stays in `read`.
async fn head(from: &mut (impl AsyncReadExt + Unpin), read: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = read.drain(..end + 4).collect();
            return Ok(String::from_utf8(head).unwrap());
        }
        if from.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// An HTTP/1.1 application that sends back what comes, while it comes.
async fn echo_http1(mut socket: TcpStream) -> io::Result<()> {
    let mut read = Vec::with_capacity(READ);
    loop {
        let head = head(&mut socket, &mut read).await?.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut left: u64 = length.parse().unwrap();
        socket.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n").as_bytes()).await?;
        while left > 0 {
            socket.write_all(&read).await?;
            left -= read.len() as u64;
            read.clear();
            if left > 0 && socket.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// HTTP/2 windows and frames as the queue's own.
const WINDOW: u32 = 1 << 20;

fn failed(error: h2::Error) -> io::Error {
    io::Error::other(error)
}

/// Sends a piece as the windows allow.
async fn send(stream: &mut h2::SendStream<Bytes>, mut piece: Bytes) -> io::Result<()> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        while stream.capacity() == 0 {
            poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap_or(Ok(0)).map_err(failed)?;
        }
        let now = piece.split_to(piece.len().min(stream.capacity()));
        stream.send_data(now, false).map_err(failed)?;
    }
    Ok(())
}

/// `size` bytes to an echo and back over HTTP/2.
async fn over_http2(stream: impl Io + 'static, pattern: &Pattern, size: u64) -> io::Result<()> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_frame_size(WINDOW);
    let (mut caller, connection) = builder.handshake::<_, Bytes>(Box::pin(stream)).await.map_err(failed)?;
    let connection = tokio::task::spawn_local(connection);
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (response, mut to) = caller.send_request(request, false).map_err(failed)?;
    let upload = async {
        for at in (0..size).step_by(PIECE) {
            send(&mut to, pattern.piece(at).clone()).await?;
        }
        to.send_data(Bytes::new(), true).map_err(failed)
    };
    let download = async {
        let mut body = response.await.map_err(failed)?.into_body();
        let mut at = 0;
        while let Some(data) = body.data().await {
            let data = data.map_err(failed)?;
            at = pattern.check(at, &data);
            body.flow_control().release_capacity(data.len()).map_err(failed)?;
        }
        assert_eq!(at, size);
        Ok(())
    };
    tokio::try_join!(upload, download)?;
    connection.abort();
    Ok(())
}

/// An HTTP/2 application that sends back what comes, while it comes, and takes no more before that has gone.
async fn echo_http2(socket: TcpStream) -> io::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_frame_size(WINDOW);
    let mut connection = builder.handshake(socket).await.map_err(failed)?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request.map_err(failed)?;
        tokio::task::spawn_local(async move {
            let mut from = request.into_body();
            let mut to = respond.send_response(http::Response::new(()), false).map_err(failed)?;
            while let Some(data) = from.data().await {
                let data = data.map_err(failed)?;
                let length = data.len();
                send(&mut to, data).await?;
                from.flow_control().release_capacity(length).map_err(failed)?;
            }
            to.send_data(Bytes::new(), true).map_err(failed)
        });
    }
    Ok(())
}

async fn over(protocol: Protocol, port: u16, trust: Option<&Trust>, pattern: &Pattern, size: u64) {
    let (stream, _) = dial(local(port), trust, protocol).await.unwrap();
    let done = match protocol {
        Protocol::Http1 => over_http1(stream, pattern, size).await,
        Protocol::Http2 => over_http2(stream, pattern, size).await,
    };
    done.unwrap_or_else(|error| panic!("{protocol:?}: {error}"));
}

/// In plaintext, or over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Tls,
}

/// `size` bytes up and down, on a connection of each kind at once.
fn both_ways(protocol: Protocol, kinds: &[Kind], size: u64, limit: Duration) {
    let port = match protocol {
        Protocol::Http1 => accept(async |socket| drop(echo_http1(socket).await)),
        Protocol::Http2 => accept(async |socket| drop(echo_http2(socket).await)),
    };
    let pki = Pki::new();
    let mut queue = queue(port).certs(pki.dir()).env("REVISION_TIMEOUT_SECONDS", 0).start();
    let mut way = |kind: &Kind| match kind {
        Kind::Plain => (queue.http(), None),
        Kind::Tls => (queue.tls(), Some(pki.trust())),
    };
    let ways: Vec<(u16, Option<Trust>)> = kinds.iter().map(&mut way).collect();
    let streams = ways.len() as u64;
    run_for(limit, async {
        let pattern = Rc::new(Pattern::new());
        // What is loaded once is no growth.
        for (port, trust) in &ways {
            over(protocol, *port, trust.as_ref(), &pattern, 1 << 20).await;
        }
        let (before, start) = (queue.memory_own(), Instant::now());
        let begin = |(port, trust): (u16, Option<Trust>)| {
            let pattern = pattern.clone();
            tokio::task::spawn_local(async move { over(protocol, port, trust.as_ref(), &pattern, size).await })
        };
        let work: Vec<_> = ways.into_iter().map(begin).collect();
        let mut most = before;
        for mut work in work {
            loop {
                // Pages of the binary, which come and go, are left out: so the kernel keeps no peak of it.
                most = most.max(queue.memory_own());
                if let Ok(done) = tokio::time::timeout(Duration::from_millis(5), &mut work).await {
                    break done.unwrap();
                }
            }
        }
        let grown = most - before;
        println!("{protocol:?}: {streams} x {} MiB both ways in {:?}, {grown} KiB more", size >> 20, start.elapsed());
        assert!(grown <= 2 * 1024 * streams, "grew by {grown} KiB with {streams} streams");
    });
}

/// Each protocol with a queue of its own, at once.
fn through(ways: [(Protocol, &[Kind]); 2], size: u64, limit: Duration) {
    std::thread::scope(|scope| {
        let work = ways.map(|(protocol, kinds)| scope.spawn(move || both_ways(protocol, kinds, size, limit)));
        for work in work {
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Q10, bounded.
#[test]
fn given_64_mib_when_they_pass_both_ways_then_memory_grows_by_2_mib_a_stream_at_most() {
    const BOTH: &[Kind] = &[Kind::Plain, Kind::Tls];
    through([(Protocol::Http1, BOTH), (Protocol::Http2, BOTH)], 64 << 20, patience() * 10);
}

/// Q10: 5 GiB each way, over each protocol: more than 32 bits can count.
#[test]
#[ignore = "moves 20 GiB"]
fn q10_given_5_gib_when_they_pass_both_ways_then_memory_grows_by_2_mib_a_stream_at_most() {
    let ways: [(Protocol, &[Kind]); 2] = [(Protocol::Http1, &[Kind::Tls]), (Protocol::Http2, &[Kind::Plain])];
    through(ways, 5 << 30, Duration::from_secs(1800));
}
