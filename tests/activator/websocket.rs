//! Section 13.3, better: WebSockets of HTTP/2 callers (RFC 8441) leave like those of HTTP/1.1 callers.
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::net::websocket;
use tokio::task::JoinHandle;

use super::world::{Activator, NAMESPACE, Pod, REVISION, World, named};
use crate::support::app::App;
use crate::support::client::{Raw, local, run};
use crate::support::h2_streams::{self, some};

/// A masked text frame `hi` with a key of zeros, and its echo.
const HELLO: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// Close frames with 1001, going away, as a server and as a client sends them.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
const GOING_AWAY_MASKED: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// An application whose WebSockets give back what they get. What came last on each before its end is told.
fn echo() -> (App, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let tell = Arc::new(Mutex::new(tell));
    let app = App::start(move |conn| {
        let Some(head) = conn.head() else { return };
        let Some(key) = head.get("sec-websocket-key") else { return };
        let accept = websocket::accept(key);
        conn.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ));
        let mut last = Vec::new();
        loop {
            let bytes = conn.some();
            if bytes.is_empty() {
                let _ = tell.lock().unwrap().send(last);
                return;
            }
            conn.send(&bytes);
            last = bytes;
        }
    });
    (app, told)
}

/// An activator with a pod.
fn start(tls: bool, grace: &str) -> (World, Activator, Pod, Receiver<Vec<u8>>) {
    let world = World::new(tls);
    world.create(world.revision());
    let activator = Activator::of(world.builder().env("LOCKKEEPER_SHUTDOWN_GRACE", grace), tls);
    let (app, told) = echo();
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    (world, activator, pod, told)
}

/// A caller's connection and its only WebSocket.
struct Caller {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    to: SendStream<Bytes>,
    from: RecvStream,
}

impl Caller {
    async fn open(port: u16, trust: Option<&Trust>) -> Self {
        let (stream, _) = dial(local(port), trust, Protocol::Http2).await.unwrap();
        let (mut send, driver) = h2_streams::connect(stream).await.unwrap();
        let request = h2_streams::websocket("http://hello.example.com/chat")
            .header("sec-websocket-version", "13")
            .header("knative-serving-namespace", NAMESPACE)
            .header("knative-serving-revision", REVISION);
        let (response, to) = send.send_request(request.body(()).unwrap(), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        Self { send, driver, to, from: response.into_body() }
    }

    async fn echoes(&mut self) {
        self.to.send_data(Bytes::from_static(HELLO), false).unwrap();
        assert_eq!(some(&mut self.from, HELLO.len()).await, HELLO);
    }

    /// Waits for the GOAWAY: no request may be sent any more.
    async fn is_told_to_go(&mut self) {
        while std::future::poll_fn(|cx| self.send.poll_ready(cx)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sees its WebSocket end in order, without a reset, and the connection after it.
    async fn has_ended(mut self) {
        while let Some(data) = self.from.data().await {
            assert!(data.expect("no reset").is_empty());
        }
        drop((self.to, self.from, self.send));
        assert!(self.driver.await.unwrap().is_ok());
    }
}

/// The caller is told to go, its WebSocket goes on for as long as both ends want, and the process ends with it.
#[test]
fn given_a_websocket_of_an_http2_caller_when_it_leaves_then_the_websocket_goes_on_to_its_end() {
    for tls in [false, true] {
        let (world, mut activator, _pod, told) = start(tls, "60s");
        let trust = tls.then(|| Trust::new(world.authority.der(), "kn-routing"));
        let port = if tls { activator.https() } else { activator.h2c };
        run(async {
            let mut caller = Caller::open(port, trust.as_ref()).await;
            caller.echoes().await;

            activator.process.signal("TERM");

            caller.is_told_to_go().await;
            activator.process.logs("Done waiting, shutting down servers.");
            caller.echoes().await;
            assert!(activator.process.poll().is_none(), "TLS: {tls}");
            caller.to.send_data(Bytes::new(), true).unwrap();
            caller.has_ended().await;
        });
        assert_eq!(told.recv().unwrap(), HELLO);
        assert_eq!(activator.process.exit().code(), Some(0), "TLS: {tls}");
        assert!(activator.process.log.lines(|line| line.contains("The grace period is over")).is_empty());
    }
}

/// One that nobody ends is cut when the grace period is over, and both ends are told, as over HTTP/1.1.
#[test]
fn given_websockets_when_the_grace_period_is_over_then_both_ends_of_each_are_told() {
    for tls in [false, true] {
        let (world, mut activator, _pod, told) = start(tls, "2s");
        let trust = tls.then(|| Trust::new(world.authority.der(), "kn-routing"));
        let port = if tls { activator.https() } else { activator.h2c };
        let mut http1 = Raw::plain(activator.http1);
        let upgrade =
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n";
        http1.get("/chat", &format!("{}{upgrade}", named(NAMESPACE, REVISION)));
        assert_eq!(http1.head().unwrap().status(), 101);
        run(async {
            let mut caller = Caller::open(port, trust.as_ref()).await;
            caller.echoes().await;

            activator.process.signal("TERM");

            assert_eq!(some(&mut caller.from, GOING_AWAY.len()).await, GOING_AWAY, "TLS: {tls}");
            caller.has_ended().await;
        });
        assert_eq!(http1.bytes(GOING_AWAY.len()), GOING_AWAY);
        assert!(http1.closes());
        for _ in 0..2 {
            assert_eq!(told.recv().unwrap(), GOING_AWAY_MASKED, "TLS: {tls}");
        }
        assert_eq!(activator.process.exit().code(), Some(0));
        assert_eq!(activator.process.log.lines(|line| line.contains("The grace period is over")).len(), 1);
    }
}
