//! Section 8: what the autoscaler is told.
use std::time::{Duration, Instant};

use super::world::{NAMESPACE, REVISION, World};
use crate::support::client::Raw;
use crate::support::objects::revision;
use crate::support::wait::eventually;

const KEY: &str = "default/hello-00001";

/// The handshake and the poke: at once, with one request, before the request has gone anywhere.
#[test]
fn given_the_first_request_of_a_revision_when_it_comes_then_the_autoscaler_is_poked_at_once() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let handshakes = world.autoscaler.handshakes();
    assert_eq!(handshakes.len(), 1);
    assert!(handshakes[0].starts_with("GET / HTTP/1.1\r\n"), "{handshakes:?}");
    assert!(!handshakes[0].contains("Sec-WebSocket-Protocol"));

    let _waiting = activator.ask();

    eventually("a poke", || !world.autoscaler.told_of(KEY).is_empty());
    let told = world.autoscaler.told_of(KEY);
    assert_eq!((told[0].concurrency, told[0].count, told[0].pod.as_str()), (1.0, 1.0, "activator-0"));
}

/// Each second a report: three held requests are a concurrency of three; the poke's is not counted twice.
#[test]
fn given_requests_that_wait_when_seconds_pass_then_they_are_reported() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let waiting: Vec<Raw> = (0..3).map(|_| activator.ask()).collect();
    eventually("a full second of three", || {
        world.autoscaler.told_of(KEY).iter().any(|told| (told.concurrency - 3.0).abs() < 0.01)
    });
    let counts: f64 = world.autoscaler.told_of(KEY).iter().map(|told| told.count).sum();
    assert!((counts - 3.0).abs() < 1e-9, "{:?}", world.autoscaler.told_of(KEY));

    drop(waiting);

    eventually("the idle second is told", || {
        world.autoscaler.told_of(KEY).last().is_some_and(|told| told.concurrency == 0.0 && told.count == 0.0)
    });
    let before = world.autoscaler.told_of(KEY).len();
    // The entry is gone: the next request pokes again.
    let _again = eventually_poked(&world, &activator, before);
}

fn eventually_poked(world: &World, activator: &super::world::Activator, before: usize) -> Raw {
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(world.autoscaler.told_of(KEY).len(), before, "nothing is said of an idle revision");
    let client = activator.ask();
    eventually("a poke", || world.autoscaler.told_of(KEY).get(before).is_some_and(|told| told.concurrency == 1.0));
    client
}

/// One message for all revisions that have an entry.
#[test]
fn given_two_busy_revisions_when_a_second_passes_then_one_message_has_both() {
    let world = World::new(false);
    world.create(world.revision());
    world.api.apply(revision(NAMESPACE, "other-00001"));
    let activator = world.start();
    let _waiting = [activator.ask(), activator.ask_for("other-00001", "")];
    eventually("a message with both", || {
        let told = world.autoscaler.told();
        told.iter().any(|one| {
            one.revision == KEY
                && told.iter().any(|two| two.message == one.message && two.revision == "default/other-00001")
        })
    });
}

/// A6: an autoscaler that restarts is told again at once, and hears of a revision that woke up meanwhile.
#[test]
fn given_the_autoscaler_was_away_when_it_is_back_then_it_is_told_the_last_of_each_revision() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    world.autoscaler.stop();
    let _waiting = activator.ask();
    // Also what was said while nobody listened counts.
    std::thread::sleep(Duration::from_millis(300));

    world.autoscaler.restart();

    eventually("it is told", || world.autoscaler.told_of(KEY).first().is_some_and(|told| told.concurrency > 0.0));
}

/// Pings go out each 10/3 s, and a peer that does not answer for ten seconds is given up: another link is made.
#[test]
fn given_a_link_when_the_autoscaler_hangs_then_it_is_given_up_after_ten_seconds() {
    let world = World::new(false);
    let _activator = world.start();
    eventually("a ping comes", || world.autoscaler.pings() >= 1);
    assert_eq!(world.autoscaler.handshakes().len(), 1);
    let start = Instant::now();
    world.autoscaler.hang();
    eventually("another link is made", || world.autoscaler.handshakes().len() == 2);
    // The last answer may have come a moment before.
    assert!(start.elapsed() > Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(world.autoscaler.pings() >= 4, "{}", world.autoscaler.pings());
}

/// 5.2: a request of a warm revision is in flight from its arrival to the end of its response.
#[test]
fn given_a_warm_revision_when_requests_pass_then_their_number_is_reported() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    for _ in 0..10 {
        assert_eq!(activator.ask_for(REVISION, "").reply().status(), 200);
    }
    eventually("all are counted", || {
        let counts: f64 = world.autoscaler.told_of(KEY).iter().map(|told| told.count).sum();
        (counts - 10.0).abs() < 1e-9
    });
}
