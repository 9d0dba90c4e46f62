//! Contract, sections 6.3 and 10.1: WebSockets of HTTP/1.1 and of HTTP/2 callers (RFC 8441).
use bytes::Bytes;
use lockkeeper::net::websocket;
use serde_json::json;
use tokio::net::TcpStream;

use super::harness::{Directory, builder, ingress, rule, simple, split};
use crate::support::app::{App, Conn, response};
use crate::support::binary::queue;
use crate::support::client::{Raw, local, run};
use crate::support::h2_streams::{self, some};

/// A WebSocket server: answers each byte block with itself and its suffix (`wsserver`), other requests with 403.
fn echo(suffix: &'static str) -> App {
    App::start(move |conn: &mut Conn| {
        while let Some(head) = conn.head() {
            if let (Some(_), Some(hash)) = (head.get("k-network-probe"), head.get("k-network-hash")) {
                conn.send(response("200 OK", &[("K-Network-Hash", hash)], ""));
                continue;
            }
            let Some(key) = head.get("sec-websocket-key").filter(|_| head.target() != "/refused") else {
                conn.send(response("403 Forbidden", &[], "not here"));
                continue;
            };
            let accept = if head.target() == "/wrong" { "nonsense".to_owned() } else { websocket::accept(key) };
            conn.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: echo\r\n\r\n"
            ));
            loop {
                let frame = conn.some();
                if frame.is_empty() {
                    return;
                }
                conn.send([&frame[..], suffix.as_bytes()].concat());
            }
        }
    })
}

const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n";

/// `websocket`: 100 echoes on one socket; `websocket/split`: both splits are seen, each socket keeps to one.
#[test]
fn given_a_split_when_sockets_are_opened_then_each_keeps_to_its_backend() {
    let directory = Directory::new();
    let (one, two) = (echo(" one"), echo(" two"));
    directory.backend("one", "http", &[one.port()]).backend("two", "http", &[two.port()]);
    let splits = json!([split("one", 50), split("two", 50)]);
    directory.apply(ingress(
        "hello",
        1,
        json!({"rules": [rule("ExternalIP", &["a"], vec![json!({"splits": splits})])]}),
    ));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();
    let mut seen = std::collections::BTreeSet::new();
    for socket in 0..100 {
        let mut caller = Raw::plain(port);
        caller.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n"));
        assert_eq!(caller.head().unwrap().status(), 101);
        let suffixes: std::collections::BTreeSet<_> = (0..if socket == 0 { 100 } else { 2 })
            .map(|_| {
                caller.send("ping");
                caller.bytes(8)
            })
            .collect();
        assert_eq!(suffixes.len(), 1);
        seen.extend(suffixes);
    }
    assert_eq!(seen.len(), 2, "both within 100 sockets: else 2^-99");
}

/// RFC 8441: several WebSockets on one connection beside requests; refusals stay refusals, and an upstream that does not
/// prove the handshake opens none.
#[test]
fn given_an_http2_caller_when_it_opens_websockets_then_they_are_upgrades_upstream() {
    let (directory, backend) = (Directory::new(), echo("!"));
    directory.backend("app", "http2", &[backend.port()]).apply(simple("hello", "a.example.com", "app"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    crate::support::wait::eventually("the route is there", || {
        super::harness::get_with(port, "a.example.com", "/", UPGRADE).status() == 101
    });
    speak(port);
    let seen = backend.last();
    assert_eq!((seen.target(), seen.get("host")), ("/x?y", Some("a.example.com")));
    assert_eq!(seen.get("upgrade"), Some("websocket"));
}

/// The same through a queue.
#[test]
fn given_a_queue_when_an_http2_caller_opens_websockets_then_they_are_upgrades_upstream() {
    let backend = echo("!");
    let mut queue = queue(backend.port()).start();
    speak(queue.http());
}

fn speak(port: u16) {
    run(async move {
        let (mut send, driver) = h2_streams::connect(TcpStream::connect(local(port)).await.unwrap()).await.unwrap();
        send = send.ready().await.unwrap();
        assert!(send.is_extended_connect_protocol_enabled());
        let request = |path: &str| {
            let request = h2_streams::websocket(&format!("http://a.example.com{path}"));
            request.header("sec-websocket-version", "13").body(()).unwrap()
        };

        let (refused, _) = send.send_request(request("/refused"), false).unwrap();
        assert_eq!(refused.await.unwrap().status(), 403);
        let (wrong, _) = send.send_request(request("/wrong"), false).unwrap();
        assert!(wrong.await.unwrap().status().is_server_error());

        let mut open = Vec::new();
        for _ in 0..3 {
            let (response, mut to) = send.send_request(request("/x?y"), false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["sec-websocket-protocol"], "echo");
            assert_eq!(response.headers().get("sec-websocket-accept"), None);
            let mut from = response.into_body();
            for text in ["one", "two"] {
                to.send_data(Bytes::from_static(text.as_bytes()), false).unwrap();
                assert_eq!(some(&mut from, text.len() + 1).await, format!("{text}!").as_bytes());
            }
            open.push((to, from));
        }
        // The caller's end is the upstream's, and the answer to it the caller's.
        let (mut to, mut from) = open.pop().unwrap();
        to.send_data(Bytes::new(), true).unwrap();
        assert!(some(&mut from, 1).await.is_empty());
        drop(open);
        drop(send);
        driver.abort();
    });
}

/// The end of the drain: a caller that stays is told with close frame 1001, after a GOAWAY.
#[test]
fn given_websockets_of_an_http2_caller_when_the_drain_ends_then_each_is_told() {
    let backend = App::start(|conn: &mut Conn| {
        while let Some(head) = conn.head() {
            let Some(key) = head.get("sec-websocket-key") else {
                conn.send(response("200 OK", &[], ""));
                continue;
            };
            let accept = websocket::accept(key);
            conn.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            ));
            conn.wait_close();
        }
    });
    let directory = Directory::new();
    directory.backend("app", "http", &[backend.port()]).apply(simple("hello", "a.example.com", "app"));
    let mut gateway = directory.start(builder().env("DRAIN_TIME_SECONDS", 1));
    let port = gateway.http();
    crate::support::wait::eventually("the route is there", || {
        super::harness::get(port, "a.example.com", "/").status() == 200
    });
    run(async move {
        let (mut send, driver) = h2_streams::connect(TcpStream::connect(local(port)).await.unwrap()).await.unwrap();
        let mut open = Vec::new();
        for _ in 0..2 {
            let request = h2_streams::websocket("http://a.example.com/").body(()).unwrap();
            let (response, to) = send.send_request(request, false).unwrap();
            open.push((to, response.await.unwrap().into_body()));
        }
        gateway.binary.signal("TERM");
        for (_to, from) in &mut open {
            assert_eq!(some(from, 4).await, [0x88, 2, 0x03, 0xe9]);
        }
        drop(open);
        let _ = driver.await;
    });
}
