//! Q3: {HTTP/1.1, HTTP/1.1 over TLS, h2c, HTTP/2 over TLS} x {plain, events, WebSocket, gRPC} x {total, start, idle}, each
//! cell before the response has begun, while it flows, and when it falls silent.
//!
//! Expected of every cell: before the response, an answer that names the timer; after it, either nothing at all or a
//! reset. A response that was cut and yet ended as if whole fails the cell.
use std::io;
use std::time::Duration;

use http_body::Frame;
use lockkeeper::local::client::{Connection, Outgoing, Protocol, Trust, dial, frame, read};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};

use crate::support::binary::queue;
use crate::support::client::{local, reset_reason, run};
use crate::support::h2_streams;
use crate::support::pki::Pki;

/// The timer, seconds: the flow of [`TICK`] must not stall for as long, on a machine where others work too.
const TIMER: u64 = 2;
const TICK: Duration = Duration::from_millis(100);
/// How long a response must live to show that the timer leaves it alone.
const LIFE: Duration = Duration::from_millis(TIMER * 1000 + 1500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Events,
    WebSocket,
    Grpc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Before,
    Flowing,
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// An answer of our own: its status, its cause, its gRPC status.
    Answered(u16, String, String),
    /// Cut, and the caller can tell: by CANCEL (HTTP/2), close frame 1001 (WebSocket) or a missing end (HTTP/1.1).
    Cut(&'static str),
    LivesOn,
    Wrong(String),
}

#[derive(Clone)]
struct Way {
    name: &'static str,
    port: u16,
    trust: Option<Trust>,
    protocol: Protocol,
}

impl Way {
    fn cut(&self, kind: Kind) -> Outcome {
        Outcome::Cut(match (kind, self.protocol) {
            (Kind::WebSocket, _) => "1001",
            (_, Protocol::Http1) => "unfinished",
            (_, Protocol::Http2) => "CANCEL",
        })
    }
}

fn expected(way: &Way, kind: Kind, timer: &str, phase: Phase) -> Outcome {
    match (phase, timer) {
        (Phase::Before, _) if kind == Kind::Grpc => Outcome::Answered(200, timer.to_owned(), "4".to_owned()),
        (Phase::Before, _) => Outcome::Answered(504, timer.to_owned(), String::new()),
        (_, "timeout_total") | (Phase::Silent, "timeout_idle") => way.cut(kind),
        _ => Outcome::LivesOn,
    }
}

#[test]
fn given_the_total_timer_when_it_fires_then_each_cell_answers_or_resets() {
    check("REVISION_TIMEOUT_SECONDS", "timeout_total");
}

#[test]
fn given_the_response_start_timer_when_it_fires_then_only_unanswered_cells_notice() {
    check("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "timeout_start");
}

#[test]
fn given_the_idle_timer_when_it_fires_then_only_silent_cells_notice() {
    check("REVISION_IDLE_TIMEOUT_SECONDS", "timeout_idle");
}

fn check(variable: &str, cause: &'static str) {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let pki = Pki::new();
    let mut queue = queue(app.addr().port()).certs(pki.dir()).env(variable, TIMER).start();
    let (http, tls) = (queue.http(), queue.tls());
    let way = |name, port, trust, protocol| Way { name, port, trust, protocol };
    let ways = [
        way("h1", http, None, Protocol::Http1),
        way("h1 over TLS", tls, Some(pki.trust()), Protocol::Http1),
        way("h2c", http, None, Protocol::Http2),
        way("h2 over TLS", tls, Some(pki.trust()), Protocol::Http2),
    ];
    let wrong = run(async {
        let mut cells = Vec::new();
        for way in ways {
            for kind in [Kind::Plain, Kind::Events, Kind::WebSocket, Kind::Grpc] {
                for phase in [Phase::Before, Phase::Flowing, Phase::Silent] {
                    let way = way.clone();
                    cells.push(tokio::task::spawn_local(async move {
                        let wanted = expected(&way, kind, cause, phase);
                        let got = cell(&way, kind, phase).await.unwrap_or_else(|e| Outcome::Wrong(e.to_string()));
                        (wanted != got).then(|| format!("{} {kind:?} {phase:?}: {got:?}, not {wanted:?}", way.name))
                    }));
                }
            }
        }
        let mut wrong = Vec::new();
        for cell in cells {
            wrong.extend(cell.await.unwrap());
        }
        wrong
    });
    assert!(wrong.is_empty(), "{cause}:\n{}", wrong.join("\n"));
}

async fn cell(way: &Way, kind: Kind, phase: Phase) -> io::Result<Outcome> {
    if kind == Kind::WebSocket {
        return match way.protocol {
            Protocol::Http1 => websocket(way, phase).await,
            Protocol::Http2 => over_http2(way, phase).await,
        };
    }
    let mut client = Connection::open(local(way.port), way.trust.as_ref(), way.protocol).await?;
    let (path, sends) = match (kind, phase) {
        (_, Phase::Before) => ("/slow?ms=60000", false),
        (Kind::Events, Phase::Flowing) => ("/sse?n=0&ms=100", false),
        (Kind::Events, _) => ("/sse?n=2&ms=600000", false),
        (Kind::Grpc, _) => ("/grpc.Echo/Stream", true),
        _ => ("/echo", true),
    };
    let mut request = client.request(if kind == Kind::Events { "GET" } else { "POST" }, "hello", path);
    if kind == Kind::Grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let (sender, body) = Outgoing::stream();
    let mut sender = Some(sender);
    if sends {
        sender.as_ref().unwrap().send(Frame::data("first".into())).await.map_err(io::Error::other)?;
    } else {
        sender = None;
    }
    let response = client.send(request.body(body).map_err(io::Error::other)?).await?;
    if phase == Phase::Before {
        let answer = read(response).await?;
        let header = |name: &str| {
            let trailer = answer.trailers.as_ref().and_then(|trailers| trailers.get(name));
            let value = answer.headers.get(name).or(trailer);
            value.map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        return Ok(Outcome::Answered(answer.status, header("x-lockkeeper-cause"), header("grpc-status")));
    }
    if response.status() != 200 {
        return Ok(Outcome::Wrong(format!("status {}", response.status())));
    }
    let began = Instant::now();
    let mut body = response.into_body();
    let flow = (phase == Phase::Flowing).then(|| sender.take()).flatten().map(flow);
    let kept = sender;
    let outcome = loop {
        match timeout(LIFE.saturating_sub(began.elapsed()), frame(&mut body)).await {
            Err(_) => break Outcome::LivesOn,
            Ok(Ok(Some(_))) if began.elapsed() >= LIFE => break Outcome::LivesOn,
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => break Outcome::Wrong("ended as if whole".to_owned()),
            Ok(Err(error)) => match (way.protocol, reset_reason(&error)) {
                (Protocol::Http1, _) => break Outcome::Cut("unfinished"),
                (Protocol::Http2, Some(h2::Reason::CANCEL)) => break Outcome::Cut("CANCEL"),
                (Protocol::Http2, reason) => break Outcome::Wrong(format!("reset with {reason:?}: {error}")),
            },
        }
    };
    drop((flow, kept));
    Ok(outcome)
}

/// Sends a byte a tick until it is aborted or nobody listens.
fn flow(sender: Sender<Frame<bytes::Bytes>>) -> Stop<()> {
    Stop(tokio::task::spawn_local(async move {
        while sender.send(Frame::data("x".into())).await.is_ok() && tick().await {}
    }))
}

async fn tick() -> bool {
    sleep(TICK).await;
    true
}

struct Stop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Stop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn websocket(way: &Way, phase: Phase) -> io::Result<Outcome> {
    let (mut stream, _) = dial(local(way.port), way.trust.as_ref(), way.protocol).await?;
    let path = if phase == Phase::Before { "/slow?ms=60000" } else { "/ws" };
    let hello = format!(
        "GET {path} HTTP/1.1\r\nHost: hello\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(hello.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    if status != 101 {
        let cause = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("x-lockkeeper-cause: ").map(str::to_owned));
        return Ok(Outcome::Answered(status, cause.unwrap_or_default(), String::new()));
    }
    let began = Instant::now();
    while began.elapsed() < LIFE {
        if phase == Phase::Flowing {
            // A masked text frame "x" with a zero key; its echo is "x" unmasked.
            let _ = stream.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await;
            let _ = stream.flush().await;
        }
        let mut frame = Vec::new();
        match timeout(LIFE.saturating_sub(began.elapsed()), read_frame(&mut stream, &mut frame)).await {
            Err(_) => return Ok(Outcome::LivesOn),
            Ok(Ok(())) if frame == [0x88, 2, 0x03, 0xe9] => return Ok(Outcome::Cut("1001")),
            Ok(Ok(())) if frame == [0x81, 1, b'x'] => tick().await,
            Ok(other) => return Ok(Outcome::Wrong(format!("{other:?} after {frame:?}"))),
        };
    }
    Ok(Outcome::LivesOn)
}

/// An unmasked frame of at most 125 bytes.
async fn read_frame(stream: &mut (impl AsyncReadExt + Unpin), frame: &mut Vec<u8>) -> io::Result<()> {
    frame.push(stream.read_u8().await?);
    frame.push(stream.read_u8().await?);
    for _ in 0..frame[1] {
        frame.push(stream.read_u8().await?);
    }
    Ok(())
}

/// The same by extended CONNECT (RFC 8441).
async fn over_http2(way: &Way, phase: Phase) -> io::Result<Outcome> {
    let (stream, _) = dial(local(way.port), way.trust.as_ref(), way.protocol).await?;
    let (mut send, driver) = h2_streams::connect(stream).await.map_err(io::Error::other)?;
    let _driver = Stop(driver);
    let path = if phase == Phase::Before { "/slow?ms=60000" } else { "/ws" };
    let request = h2_streams::websocket(&format!("http://hello{path}")).body(()).unwrap();
    let (response, mut to) = send.send_request(request, false).map_err(io::Error::other)?;
    let response = response.await.map_err(io::Error::other)?;
    if response.status() != 200 {
        let cause = response.headers().get("x-lockkeeper-cause").and_then(|cause| cause.to_str().ok());
        let cause = cause.unwrap_or_default().to_owned();
        return Ok(Outcome::Answered(response.status().as_u16(), cause, String::new()));
    }
    let mut from = response.into_body();
    let (began, mut seen) = (Instant::now(), Vec::new());
    while began.elapsed() < LIFE {
        if phase == Phase::Flowing {
            let _ = to.send_data(bytes::Bytes::from_static(&[0x81, 0x81, 0, 0, 0, 0, b'x']), false);
        }
        match timeout(LIFE.saturating_sub(began.elapsed()), from.data()).await {
            Err(_) => return Ok(Outcome::LivesOn),
            Ok(Some(Ok(data))) => {
                let _ = from.flow_control().release_capacity(data.len());
                seen.extend_from_slice(&data);
            }
            Ok(other) => return Ok(Outcome::Wrong(format!("{other:?} after {seen:?}"))),
        }
        while let Some(rest) = seen.strip_prefix(&[0x81, 1, b'x']) {
            seen = rest.to_vec();
        }
        match &*seen {
            [0x88, 2, 0x03, 0xe9] => return Ok(Outcome::Cut("1001")),
            _ => tick().await,
        };
    }
    Ok(Outcome::LivesOn)
}
