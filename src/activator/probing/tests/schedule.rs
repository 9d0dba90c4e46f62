//! What is probed when, in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::super::super::throttle::Pace;
use super::super::schedule::Limits;
use super::network::{Behaviour, LIMITS, Network, key, ms};

const NEVER: Duration = Duration::from_secs(1_000_000);
const REFUSES: Behaviour =
    Behaviour { round_trip: Duration::ZERO, opens: NEVER, swallows: false, holds: Duration::ZERO };
const SWALLOWS: Behaviour =
    Behaviour { round_trip: Duration::ZERO, opens: NEVER, swallows: true, holds: Duration::ZERO };
const ANSWERS: Behaviour =
    Behaviour { round_trip: Duration::ZERO, opens: Duration::ZERO, swallows: false, holds: Duration::ZERO };

/// A3 of the issue: at once, then after 5, 10, 20, 40, 80, 160, 200 ms.
#[test]
fn given_a_pod_that_refuses_when_nobody_waits_then_pauses_double_up_to_the_frequency() {
    let mut network = Network::new(LIMITS, false);
    network.want(key(1, 0), Pace::Usual, REFUSES);
    network.run(ms(1000));
    let started: Vec<_> = network.started[&key(1, 0)].iter().map(Duration::as_millis).collect();
    assert_eq!(started, [0, 5, 15, 35, 75, 155, 315, 515, 715, 915]);
}

/// The figure of the issue: a request is waiting, the port opens at any moment; median 10 ms, p99 30 ms.
#[test]
fn given_a_waiting_request_when_a_port_opens_at_any_moment_then_it_is_found_within_ten_milliseconds() {
    for opens in (1..250).map(|n| Duration::from_micros(n * 39_871)) {
        let mut network = Network::new(LIMITS, true);
        network.want(key(1, 0), Pace::Usual, Behaviour { opens, ..REFUSES });
        network.run(ms(10_500));
        let late = network.passed[&key(1, 0)] - opens;
        assert!(late <= ms(10), "open at {opens:?}, found {late:?} after");
    }
}

/// The request comes when the pod has refused for long: it is probed at once and often from then on.
#[test]
fn given_a_pod_that_is_probed_seldom_when_a_request_begins_to_wait_then_it_is_probed_at_once() {
    let mut network = Network::new(LIMITS, false);
    network.want(key(1, 0), Pace::Usual, REFUSES);
    network.run(ms(1000));
    network.is_waited_for = true;
    network.hurry(1);
    network.run(ms(1050));
    let started: Vec<_> = network.started[&key(1, 0)].iter().map(Duration::as_millis).collect();
    assert_eq!(started[10..], [1000, 1010, 1020, 1030, 1040, 1050]);

    // Again and again, as when a revision is always at its limit: not more often for that.
    for now in 1051..1100 {
        network.hurry(1);
        network.run(ms(now));
    }
    assert_eq!(network.started[&key(1, 0)].len(), 16 + 4);
}

/// A3: the limit follows the round trip, so that every delay works, and costs two round trips.
#[test]
fn given_any_round_trip_then_the_first_probe_is_the_one_that_passes() {
    for round_trip in [0, 70, 140, 150, 300, 600, 900] {
        for is_waited_for in [true, false] {
            let mut network = Network::new(LIMITS, is_waited_for);
            network.want(key(1, 0), Pace::Usual, Behaviour { round_trip: ms(round_trip), ..ANSWERS });
            network.run(ms(10_000));
            assert_eq!(network.passed.get(&key(1, 0)), Some(&ms(2 * round_trip)), "{round_trip}, {is_waited_for}");
        }
    }
}

/// A longer one still: the round trip is learned from a probe that connected.
#[test]
fn given_a_round_trip_of_seconds_then_it_is_learned() {
    let mut network = Network::new(LIMITS, true);
    network.want(key(1, 0), Pace::Usual, Behaviour { round_trip: ms(1500), ..ANSWERS });
    network.run(ms(20_000));
    assert!(network.passed[&key(1, 0)] < ms(6_000), "{:?}", network.passed);
}

/// A queue may hold its answer until the application is ready: then its first probe is answered, and few are open.
#[test]
fn given_a_pod_that_connects_and_does_not_answer_then_few_probes_follow_and_the_answer_is_awaited() {
    let mut network = Network::new(LIMITS, true);
    network.want(key(1, 0), Pace::Usual, Behaviour { holds: ms(5_100), ..ANSWERS });
    network.run(ms(10_000));
    assert_eq!(network.passed[&key(1, 0)], ms(5_100));
    assert_eq!(network.started[&key(1, 0)].len(), 3);
}

#[test]
fn given_a_pod_that_swallows_everything_then_new_probes_follow_and_old_ones_are_cut_off() {
    let mut network = Network::new(LIMITS, false);
    network.want(key(1, 0), Pace::Usual, SWALLOWS);
    network.run(ms(60_000));
    let starts = &network.started[&key(1, 0)];
    assert!((100..=200).contains(&starts.len()), "{}", starts.len());
    assert!(network.most_running <= 6 && network.late > 100);
    // And the moment it answers, it is found.
    network.stop(key(1, 0));
    assert!(network.running.is_empty());
}

/// A3: no revision delays another, whatever its pods do.
#[test]
fn given_thousands_of_unreachable_pods_of_one_revision_then_another_ones_pod_is_probed_at_once() {
    let limits = Limits { attempts: 64, ..LIMITS };
    let mut network = Network::new(limits, true);
    for pod in 0..3000 {
        network.want(key(1, pod), Pace::Usual, SWALLOWS);
    }
    network.run(ms(5_000));
    for at in 0..20 {
        let now = network.now();
        network.want(key(2, at), Pace::Usual, ANSWERS);
        network.run(now + ms(400));
        let waited = network.passed[&key(2, at)] - now;
        assert!(waited <= ms(300), "{waited:?}");
    }
    assert!(network.most_running <= 64);
}

/// Within the bound that is meant for all, late probes give way.
#[test]
fn given_unreachable_pods_that_fill_the_bound_with_late_probes_then_new_ones_start_at_once() {
    let limits = Limits { attempts: 64, ..LIMITS };
    let mut network = Network::new(limits, true);
    for pod in 0..50 {
        network.want(key(1, pod), Pace::Usual, SWALLOWS);
    }
    network.run(ms(5_000));
    assert_eq!(network.most_running, 64);
    network.want(key(2, 0), Pace::Usual, ANSWERS);
    network.run(ms(5_001));
    assert_eq!(network.passed[&key(2, 0)], ms(5_000));
}

/// A2: first after 100 ms, then twice as long each time.
#[test]
fn given_a_pod_that_was_put_aside_then_it_is_probed_after_a_while_and_a_waiting_request_does_not_change_that() {
    let mut network = Network::new(LIMITS, true);
    network.want(key(1, 0), Pace::Aside { strikes: 1 }, REFUSES);
    network.hurry(1);
    network.run(ms(13_000));
    let started: Vec<_> = network.started[&key(1, 0)].iter().map(Duration::as_millis).collect();
    assert_eq!(started, [100, 300, 700, 1500, 3100, 6300, 11_300]);
}

/// A3: the fallback to the cluster IP heals within 30 s, however long it has lasted.
#[test]
fn given_a_fallback_then_pods_are_still_probed_at_least_every_thirty_seconds() {
    let mut network = Network::new(LIMITS, false);
    network.want(key(1, 0), Pace::Usual, REFUSES);
    network.run(ms(500));
    network.want(key(1, 0), Pace::Fallback, REFUSES);
    network.run(Duration::from_secs(600));
    let starts = &network.started[&key(1, 0)];
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_secs(30)));
    assert!(starts.len() < 40, "{}", starts.len());
}

#[test]
fn given_five_hundred_pods_at_once_then_each_is_probed_once() {
    let mut network = Network::new(LIMITS, true);
    for pod in 0..500 {
        network.want(key(1, pod), Pace::Usual, ANSWERS);
    }
    network.run(ms(100));
    assert_eq!(network.passed.len(), 500);
    assert!(network.started.values().all(|starts| starts.len() == 1));
}

/// Many pods that refuse must not cost more than a share of a processor.
#[test]
fn given_five_hundred_pods_that_refuse_then_the_rate_of_probes_is_bounded() {
    let mut network = Network::new(LIMITS, true);
    for pod in 0..500 {
        network.want(key(1, pod), Pace::Usual, REFUSES);
    }
    network.run(ms(2_000));
    let before: usize = network.started.values().map(Vec::len).sum();
    network.run(ms(7_000));
    let after: usize = network.started.values().map(Vec::len).sum();
    assert!((after - before) / 5 <= 2_600, "{} a second", (after - before) / 5);
}

proptest! {
    /// Whatever is wanted and stopped: bounds hold, what can answer is found, and nothing runs on.
    #[test]
    fn given_any_order_of_wishes_then_bounds_hold_and_what_answers_is_found(
        attempts in 1_usize..8,
        steps in prop::collection::vec((0_u8..4, 0_u64..3, 0_u32..4, 0_u64..400), 0..60),
    ) {
        let mut network = Network::new(Limits { attempts, ..LIMITS }, true);
        for (what, revision, pod, pause) in steps {
            let key = key(revision, pod);
            match what {
                0 => network.stop(key),
                1 => network.hurry(revision),
                _ => {
                    let pod = [REFUSES, SWALLOWS, Behaviour { round_trip: ms(40), ..ANSWERS }, Behaviour { opens: ms(2_000), ..SWALLOWS }][pod as usize];
                    network.want(key, if what == 2 { Pace::Usual } else { Pace::Aside { strikes: 1 } }, pod);
                }
            }
            let until = network.now() + ms(pause);
            network.run(until);
            prop_assert!(network.running.len() <= attempts);
        }
        network.passed.clear();
        for revision in 0..3 {
            network.want(key(revision, 2), Pace::Usual, ANSWERS);
        }
        let until = network.now() + Duration::from_secs(30);
        network.run(until);
        prop_assert_eq!((0..3).filter(|revision| network.passed.contains_key(&key(*revision, 2))).count(), 3);
        for revision in 0..3 {
            (0..4).for_each(|pod| network.stop(key(revision, pod)));
        }
        prop_assert!(network.running.is_empty() && network.schedule.len() == 0 && network.schedule.wake_at().is_none());
    }
}
