//! A6: the autoscaler goes and comes back.
use std::time::{Duration, Instant};

use super::world::{NAMESPACE, REVISION, World, named};
use crate::support::client::Raw;
use crate::support::objects::{private_endpoints, revision};
use crate::support::wait::eventually;

/// It is known within 200 ms that the autoscaler is back, however long it was away.
#[test]
fn given_an_autoscaler_that_restarts_when_it_listens_again_then_the_link_is_up_within_200_ms() {
    let world = World::new(false);
    let _activator = world.start();
    let mut took = Vec::new();
    for round in 0..9 {
        let before = world.autoscaler.handshakes().len();
        world.autoscaler.stop();
        // Away for longer each time: pauses must not grow with failures.
        std::thread::sleep(Duration::from_millis(100 * round));
        let start = Instant::now();
        world.autoscaler.restart();
        eventually("the link is up", || world.autoscaler.handshakes().len() > before);
        took.push(start.elapsed());
    }
    took.sort();
    println!("the link is up again after {took:?}");
    assert!(took[6] <= Duration::from_millis(200), "{took:?}");
}

/// Without an autoscaler warm revisions are served as before and readiness stays; a cold one starts once it is back.
#[test]
fn given_no_autoscaler_when_requests_come_then_warm_revisions_are_served_and_a_cold_one_wakes_when_it_is_back() {
    let world = World::new(false);
    world.create(world.revision());
    world.api.apply(revision(NAMESPACE, "cold-00001"));
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    world.autoscaler.stop();
    let mut cold = activator.ask_for("cold-00001", "");
    let mut client = Raw::plain(activator.http1);
    let until = Instant::now() + Duration::from_secs(2);
    let mut served = 0;
    while Instant::now() < until {
        assert_eq!(client.get("/", &named(NAMESPACE, REVISION)).reply().status(), 200);
        assert_eq!(activator.health().status(), 200);
        served += 1;
    }
    assert!(served > 10);

    world.autoscaler.restart();

    eventually("it is told of the cold one", || {
        world.autoscaler.told_of("default/cold-00001").iter().any(|told| told.concurrency > 0.0)
    });
    let ip = pod.ip.to_string();
    world.api.apply(private_endpoints(NAMESPACE, "cold-00001").subset(&[&ip], &[], "http", 8012));
    assert_eq!(cold.reply().status(), 200);
}
