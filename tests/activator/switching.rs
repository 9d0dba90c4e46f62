//! B1: `system-internal-tls` in `config-network`, switched both ways under steady traffic of both protocols.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::world::{Activator, NAMESPACE, REVISION, World, named};
use crate::support::client::{Raw, run_for};
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
