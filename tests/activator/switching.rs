//! B1: `system-internal-tls` in `config-network`, switched both ways under steady traffic of both protocols.
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use super::world::{Activator, NAMESPACE, REVISION, World, named};
use crate::support::app::{App, ok};
use crate::support::client::{Raw, local, run_for};
use crate::support::pki::client_of;
use crate::support::wait::{eventually, patience};
use lockkeeper::local::client::{Connection, Protocol};

/// Callers of each kind, until they are told to stop.
struct Traffic {
    stop: &'static AtomicBool,
    served: &'static AtomicUsize,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    fn start(activator: &Activator) -> Self {
        let (stop, served) = (&*Box::leak(Box::default()), &*Box::leak(Box::default()));
        let (http1, h2c) = (activator.http1, activator.h2c);
        let kept = move || {
            let mut client = Raw::plain(http1);
            move || client.get("/kept", &named(NAMESPACE, REVISION)).try_reply().map(|reply| reply.status())
        };
        let fresh = move || {
            move || Raw::plain(http1).get("/fresh", &named(NAMESPACE, REVISION)).try_reply().map(|reply| reply.status())
        };
        let callers = vec![
            std::thread::spawn(move || ask("kept", kept(), stop, served)),
            std::thread::spawn(move || ask("fresh", fresh(), stop, served)),
            std::thread::spawn(move || http2(h2c, stop, served)),
        ];
        Self { stop, served, callers }
    }

    /// Waits until so many more requests were served.
    fn pass(&self, more: usize) {
        let before = self.served.load(Ordering::SeqCst);
        eventually("requests pass", || self.served.load(Ordering::SeqCst) >= before + more);
    }

    /// Ends it; what failed.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    }
}

fn ask(who: &str, mut one: impl FnMut() -> Option<u16>, stop: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        match one() {
            Some(200) => {
                served.fetch_add(1, Ordering::SeqCst);
            }
            other => failed.push(format!("{who}: {other:?}")),
        }
    }
    failed
}

fn http2(port: u16, stop: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    run_for(patience() * 4, async {
        let mut connection = Connection::open(([127, 0, 0, 1], port).into(), None, Protocol::Http2).await.unwrap();
        let host = format!("{REVISION}.{NAMESPACE}.svc.cluster.local");
        let mut failed = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            match connection.get(&host, "/").await {
                Ok(answer) if answer.status == 200 => {
                    served.fetch_add(1, Ordering::SeqCst);
                }
                Ok(answer) => failed.push(format!("HTTP/2: {}", answer.status)),
                Err(error) => {
                    failed.push(format!("HTTP/2: {error}"));
                    break;
                }
            }
        }
        failed
    })
}

#[test]
fn given_traffic_when_tls_is_switched_on_and_off_then_no_request_is_lost() {
    let world = World::new(true);
    world.create(world.revision());
    world.set_tls(false);
    let mut activator = Activator::of(world.builder(), false);
    let pods = [world.pod(), world.pod()];
    world.endpoints(&[pods[0].ip, pods[1].ip], &[]);
    assert_eq!(activator.get().status(), 200);
    let traffic = Traffic::start(&activator);
    traffic.pass(50);
    let switches = |how: &str| activator.process.log.lines(|line| line.contains(how)).len();
    for round in 1..=2 {
        for (on, how) in [(true, "Pods are addressed over TLS"), (false, "Pods are addressed in plaintext")] {
            world.set_tls(on);
            eventually(how, || switches(how) == round);
            traffic.pass(100);
        }
    }
    world.set_tls(true);
    traffic.pass(50);
    let failed = traffic.end();
    assert!(failed.is_empty(), "{failed:?}");
    activator.https();
}

/// What is under way ends as it began, on both hops: the port for TLS closes, and the answer still goes over it.
#[test]
fn given_a_request_under_way_when_tls_is_switched_then_it_is_answered() {
    for tls in [true, false] {
        let world = World::new(true);
        world.create(world.revision());
        world.set_tls(tls);
        let mut activator = Activator::of(world.builder(), tls);
        let (go_on, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let app = App::start(move |conn| {
            if conn.request().is_some() {
                let _ = wait.lock().unwrap().recv();
                conn.send(ok("in time"));
            }
        });
        let pod = world.pod_with(app, |builder| builder);
        world.endpoints(&[pod.ip], &[]);
        let mut client = match tls {
            true => Raw::tls(activator.https(), client_of(&world.authority, None), "kn-routing"),
            false => Raw::plain(activator.http1),
        };
        client.get("/", &named(NAMESPACE, REVISION));
        eventually("it is under way", || pod.app.count() == 1);

        world.set_tls(!tls);
        match tls {
            true => {
                let port = activator.https();
                eventually("the port is closed", || TcpStream::connect(local(port)).is_err());
            }
            false => drop(activator.https()),
        }
        go_on.send(()).unwrap();

        let reply = client.reply();
        assert_eq!((reply.status(), reply.text().as_str()), (200, "in time"), "TLS before: {tls}");
    }
}
