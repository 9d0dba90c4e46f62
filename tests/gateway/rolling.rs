//! A rolling restart of three gateways under mixed load: no request fails, and a fresh one answers none with 404.
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockkeeper::local::client::{Connection, Outgoing, Protocol, read};
use lockkeeper::net::websocket;

use super::harness::{Directory, Gateway, builder, simple};
use crate::support::app::{App, Conn, ok, response};
use crate::support::client::{Raw, local, reset_reason, run_for};
use crate::support::wait::eventually;

/// What a load balancer in front knows: the ports of the replicas that are ready, and what came of the requests.
#[derive(Default)]
struct Front {
    ports: Mutex<Vec<u16>>,
    next: AtomicUsize,
    stop: AtomicBool,
    done: [AtomicU32; 3],
    failed: Mutex<Vec<String>>,
}

impl Front {
    fn port(&self) -> u16 {
        let ports = self.ports.lock().unwrap();
        ports[self.next.fetch_add(1, Ordering::Relaxed) % ports.len()]
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn tell(&self, kind: usize, result: Result<(), String>) {
        match result {
            Ok(()) => drop(self.done[kind].fetch_add(1, Ordering::Relaxed)),
            Err(why) => self.failed.lock().unwrap().push(why),
        }
    }
}

/// Connections are kept until the gateway says that it leaves, as callers do.
fn http1(front: &Front) {
    while !front.stopped() {
        let mut caller = Raw::plain(front.port());
        loop {
            let Some(reply) = caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").try_reply() else {
                break front.tell(0, Err("h1: closed under a request".to_owned()));
            };
            let status = reply.status();
            front.tell(0, if status == 200 { Ok(()) } else { Err(format!("h1: {status}")) });
            if reply.header("connection") == Some("close") || front.stopped() {
                break;
            }
        }
    }
}

async fn http2(front: &Front) {
    while !front.stopped() {
        let connected = Connection::open(local(front.port()), None, Protocol::Http2).await;
        let mut caller = connected.expect("a replica that is ready takes connections");
        // A few requests each: GOAWAY comes between requests, and a fresh connection follows.
        for _ in 0..5 {
            let request = caller.request("GET", "a", "/").body(Outgoing::whole("")).unwrap();
            let status = match caller.send(request).await {
                Ok(response) => read(response).await.map(|answer| answer.status).map_err(|error| error.to_string()),
                // The connection takes no more: nothing was sent, or the gateway says that it took nothing.
                Err(error) if untaken(&error) => break,
                Err(error) => Err(error.to_string()),
            };
            front.tell(
                1,
                match status {
                    Ok(200) => Ok(()),
                    other => Err(format!("h2: {other:?}")),
                },
            );
        }
    }
}

fn untaken(error: &std::io::Error) -> bool {
    let unsent = error.get_ref().and_then(|error| error.downcast_ref::<hyper::Error>());
    unsent.is_some_and(|error| error.is_canceled() || error.is_closed())
        || reset_reason(error) == Some(h2::Reason::REFUSED_STREAM)
}

fn websockets(front: &Front) {
    while !front.stopped() {
        let mut caller = Raw::plain(front.port());
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a";
        caller.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n\r\n"));
        let status = caller.head().map(|head| head.status());
        if status != Some(101) {
            front.tell(2, Err(format!("WebSocket: {status:?}")));
            continue;
        }
        for _ in 0..10 {
            caller.send("ping");
            let echo = caller.bytes(4);
            front.tell(2, if echo == b"ping" { Ok(()) } else { Err(format!("WebSocket: {echo:?}")) });
        }
    }
}

fn start(backend: u16) -> Gateway {
    let directory = Directory::new();
    directory.backend("app", "http", &[backend]).apply(simple("hello", "a", "app"));
    directory.start(builder().env("DRAIN_TIME_SECONDS", 10).env("LOCKKEEPER_DRAIN_SETTLE", "2s"))
}

#[test]
fn given_mixed_load_when_three_gateways_are_replaced_one_by_one_then_no_request_fails() {
    let backend = App::start(|conn: &mut Conn| {
        while let Some(head) = conn.head() {
            if let Some(key) = head.get("sec-websocket-key") {
                let accept = websocket::accept(key);
                conn.send(format!("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"));
                loop {
                    let bytes = conn.some();
                    if bytes.is_empty() {
                        return;
                    }
                    conn.send(bytes);
                }
            }
            match head.get("k-network-hash") {
                Some(hash) => conn.send(response("200 OK", &[("K-Network-Hash", hash)], "")),
                None => conn.send(ok("one")),
            }
        }
    });
    let mut replicas: Vec<Gateway> = (0..3).map(|_| start(backend.port())).collect();
    let front = Arc::new(Front::default());
    *front.ports.lock().unwrap() = replicas.iter_mut().map(Gateway::http).collect();
    let load = |kind: fn(&Front)| {
        let front = front.clone();
        std::thread::spawn(move || kind(&front))
    };
    let running =
        [load(http1), load(http1), load(|front| run_for(Duration::from_secs(120), http2(front))), load(websockets)];
    let more = |since: &[u32; 3]| (0..3).all(|kind| front.done[kind].load(Ordering::Relaxed) > since[kind] + 10);
    let counts = || [0, 1, 2].map(|kind| front.done[kind].load(Ordering::Relaxed));

    let began = Instant::now();
    for (index, replica) in replicas.iter_mut().enumerate() {
        let since = counts();
        eventually("all kinds of load run", || more(&since));
        let mut fresh = start(backend.port());
        let port = fresh.http();
        let mut old = std::mem::replace(replica, fresh);
        // As Kubernetes does it: the new one is ready and gets requests, the old one leaves and gets no new ones.
        front.ports.lock().unwrap()[index] = port;
        old.binary.signal("TERM");
        assert_eq!(old.binary.exit().code(), Some(0));
    }
    let since = counts();
    eventually("all kinds of load run on", || more(&since));
    front.stop.store(true, Ordering::Relaxed);
    for thread in running {
        thread.join().unwrap();
    }

    let failed = front.failed.lock().unwrap();
    assert!(failed.is_empty(), "{} of {:?} failed: {failed:?}", failed.len(), counts());
    eprintln!("{:?} requests in {:?}", counts(), began.elapsed());
}
