//! Section 6: as many requests as the container takes, ten times as many waiting, 503 for the rest.
use std::sync::{Arc, Condvar, Mutex};

use crate::support::app::{App, ok};
use crate::support::binary::queue;
use crate::support::client::{Raw, get};
use crate::support::wait::eventually;

/// An application that answers when told to.
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn app() -> (Self, App) {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let inside = gate.clone();
        let app = App::start(move |conn| {
            while conn.request().is_some() {
                let open = inside.0.lock().unwrap();
                drop(inside.1.wait_while(open, |open| !*open).unwrap());
                conn.send(ok("ok"));
            }
        });
        (Self(gate), app)
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// 6: 1 runs, 10 wait, the 12th is refused; the rest are answered once there is room.
#[test]
fn given_a_concurrency_of_one_when_twelve_come_then_one_is_refused_and_eleven_are_served() {
    let (gate, app) = Gate::app();
    let mut queue = queue(app.port()).env("CONTAINER_CONCURRENCY", 1).start();
    let http = queue.http();
    let mut clients: Vec<Raw> = (0..11).map(|_| Raw::plain(http)).collect();
    for client in &mut clients {
        client.get("/", "");
    }
    eventually("one request runs", || app.seen().len() == 1);

    // Eleven were written, but perhaps not read yet: the twelfth is refused as soon as they are.
    let mut extra = Vec::new();
    let refused = crate::support::wait::eventually_some("a refusal", || {
        let mut client = Raw::plain(http);
        client.get("/extra", "");
        match client.reply_within(std::time::Duration::from_millis(200)) {
            Some(reply) => Some(reply),
            None => {
                extra.push(client);
                None
            }
        }
    });
    assert_eq!((refused.status(), refused.text().as_str()), (503, "pending request queue full\n"));
    assert_eq!(refused.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(refused.header("x-lockkeeper-cause"), Some("queue_full"));
    assert_eq!(app.seen().len(), 1, "one at a time");

    gate.open();
    let served = clients.iter_mut().chain(&mut extra).filter_map(Raw::try_reply).filter(|r| r.status() == 200).count();
    assert_eq!(served, 11);
}

/// 6: no limit below 1.
#[test]
fn given_no_limit_when_fifty_come_then_all_reach_the_application() {
    let (gate, app) = Gate::app();
    let mut queue = queue(app.port()).env("CONTAINER_CONCURRENCY", -1).start();
    let http = queue.http();
    let mut clients: Vec<Raw> = (0..50).map(|_| Raw::plain(http)).collect();
    for client in &mut clients {
        client.get("/", "");
    }
    eventually("all are there at once", || app.seen().len() == 50);
    gate.open();
    assert!(clients.iter_mut().all(|client| client.reply().status() == 200));
}

/// 6: a caller that leaves gives its place back; probes never enter.
#[test]
fn given_a_full_breaker_when_callers_leave_then_their_places_are_free_and_probes_pass() {
    let (gate, app) = Gate::app();
    let mut queue = queue(app.port()).env("CONTAINER_CONCURRENCY", 1).start();
    let http = queue.http();
    for _ in 0..30 {
        Raw::plain(http).get("/leaves", "");
    }
    let probe = get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n");
    assert_eq!(probe.status(), 200);
    gate.open();
    eventually("there is room", || get(http, "/stays", "").status() == 200);
}
