//! Q4: the application answers while the caller still uploads.
//!
//! The long version: `cargo test --locked -- --ignored q4`.
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use http_body::Frame;
use lockkeeper::local::client::{Connection, Outgoing, Protocol, frame};

use crate::support::app::{App, Conn};
use crate::support::binary::{queue, socket_timeout};
use crate::support::client::{local, run_for};
use crate::support::message::Reader;
use crate::support::wait::patience;

const UPLOAD: usize = 10 << 20;
const READ: usize = 1 << 10;
const ANSWER: usize = 1 << 20;

/// What an application does with the rest of the upload after its answer.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// Reads it, as a server that keeps the connection does.
    Read,
    /// Says `Connection: close`, reads what comes and closes at the end, as careful servers do (RFC 9112 section 9.6).
    Linger,
}

/// Reads a bit of the body, answers 1 MiB, then does with the rest what it does.
fn application(rest: Rest) -> App {
    App::start(move |conn: &mut Conn| {
        while let Some(head) = conn.head() {
            let first = conn.bytes(READ);
            if first.len() < READ {
                return;
            }
            let close = if matches!(rest, Rest::Linger) { "Connection: close\r\n" } else { "" };
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER}\r\n{close}\r\n"));
            conn.send(vec![b'a'; ANSWER]);
            let mut left = head.get("content-length").and_then(|length| length.parse::<usize>().ok()).unwrap() - READ;
            while left > 0 {
                let got = conn.bytes(left.min(64 << 10)).len();
                if got == 0 {
                    return;
                }
                left -= got;
            }
            if matches!(rest, Rest::Linger) {
                return;
            }
        }
    })
}

/// `callers` at once, `rounds` times each.
fn duplex(rest: Rest, callers: usize, rounds: usize) {
    let app = application(rest);
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    let upload = Arc::new(vec![b'u'; UPLOAD]);
    let threads: Vec<_> = (0..callers)
        .map(|caller| {
            let upload = upload.clone();
            std::thread::spawn(move || {
                (0..rounds).filter_map(|round| one(http, caller, round, &upload)).collect::<Vec<_>>()
            })
        })
        .collect();
    let failed: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let all = callers * rounds;
    assert!(failed.is_empty(), "{rest:?}: {} of {all}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
}

/// One upload with its answer, and a second request on the same connection if it is still open: what went wrong.
fn one(port: u16, caller: usize, round: usize, upload: &Arc<Vec<u8>>) -> Option<String> {
    let fault = |what: String| Some(format!("{caller}.{round}: {what}"));
    let stream = TcpStream::connect(local(port)).unwrap();
    stream.set_read_timeout(socket_timeout()).unwrap();
    let mut upstream = stream.try_clone().unwrap();
    let bytes = upload.clone();
    let writer = std::thread::spawn(move || {
        let head = format!("POST /{caller}.{round} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", bytes.len());
        upstream.write_all(head.as_bytes()).and_then(|()| upstream.write_all(&bytes)).is_ok()
    });
    let mut reader = Reader::new(stream);
    let Some(head) = reader.head() else { return fault("no answer".to_owned()) };
    let body = reader.response_body(&head, "POST");
    if head.status() != 200 || body.bytes.len() != ANSWER || body.bytes.iter().any(|byte| *byte != b'a') {
        return fault(format!("{} with {} bytes", head.line, body.bytes.len()));
    }
    let sent = writer.join().unwrap();
    let closes = head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    if !sent || closes {
        return None;
    }
    // The connection was kept: then nothing of this upload may be in the way of the next request.
    let next = format!("POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: {READ}\r\n\r\n{}", "n".repeat(READ));
    let _ = reader.stream.write_all(next.as_bytes());
    match reader.head() {
        None => None,
        Some(head) if head.status() == 200 => {
            let body = reader.response_body(&head, "POST");
            (!body.complete).then(|| format!("{caller}.{round}: the next answer has {} bytes", body.bytes.len()))
        }
        Some(head) => fault(format!("the next answer is {}", head.line)),
    }
}

/// Q4, bounded: 100 at once.
#[test]
fn given_answers_that_come_while_uploads_run_when_100_do_so_at_once_then_all_are_whole() {
    for rest in [Rest::Read, Rest::Linger] {
        duplex(rest, 100, 1);
    }
}

/// Q4 in its own numbers: 10,000 requests, 100 at once.
#[test]
#[ignore = "moves 110 GB"]
fn q4_given_answers_that_come_while_uploads_run_when_10000_do_so_then_all_are_whole() {
    duplex(Rest::Read, 100, 50);
    duplex(Rest::Linger, 100, 50);
}

/// Q4 over HTTP/2: each stream is answered while its upload is held back by flow control.
#[test]
fn given_http2_uploads_when_the_answer_comes_first_then_it_arrives_and_other_streams_go_on() {
    let app = application(Rest::Linger);
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    run_for(patience() * 3, async {
        let mut client = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
        for round in 0..20 {
            let (sender, body) = Outgoing::stream();
            let upload = tokio::task::spawn_local(async move {
                let chunk = bytes::Bytes::from(vec![b'u'; 64 << 10]);
                for _ in 0..UPLOAD / chunk.len() {
                    if sender.send(Frame::data(chunk.clone())).await.is_err() {
                        return;
                    }
                }
            });
            let request = client.request("POST", "hello", "/up").header("content-length", UPLOAD);
            let response = client.send(request.body(body).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200, "round {round}");
            let (mut count, mut body) = (0, response.into_body());
            while let Some(frame) = frame(&mut body).await.unwrap_or_else(|error| panic!("round {round}: {error}")) {
                count += frame.into_data().map_or(0, |data| data.len());
            }
            assert_eq!(count, ANSWER, "round {round}");
            upload.abort();
        }
    });
}
