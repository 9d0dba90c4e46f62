//! The rules of the contract (sections 6 and 7) and of the issue, one by one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::*;
use super::pod;

fn throttle(concurrency: u32, policy: Policy) -> Throttle {
    Throttle::new(Rules { policy: Arc::new(policy), concurrency, probe_optimisation: true }, 7)
}

/// All probes that are wanted pass.
fn pass(throttle: &mut Throttle) {
    for (key, ..) in throttle.probes() {
        throttle.probed(key, Outcome::Passed);
    }
}

fn fail_probes(throttle: &mut Throttle, outcome: Outcome) {
    for (key, ..) in throttle.probes() {
        throttle.probed(key, outcome);
    }
}

fn probed(throttle: &Throttle) -> Vec<SocketAddr> {
    throttle.probes().into_iter().map(|(_, address, _)| address).collect()
}

/// A throttle all of whose pods passed their probes.
fn ready(concurrency: u32, policy: Policy, pods: u8) -> Throttle {
    let mut throttle = throttle(concurrency, policy);
    throttle.endpoints(&(0..pods).map(pod).collect::<Vec<_>>(), &[]);
    pass(&mut throttle);
    throttle
}

fn go(throttle: &mut Throttle) -> (SlotKey, SocketAddr) {
    let Arrived::Go(slot) = throttle.arrived(false) else { panic!("it must wait") };
    (slot, throttle.address(slot).unwrap().0)
}

fn waits(throttle: &mut Throttle) -> Ticket {
    let Arrived::Wait(ticket) = throttle.arrived(false) else { panic!("it need not wait") };
    ticket
}

/// Contract 6.3: capacity is concurrency times pods; reducing it interrupts nothing.
#[test]
fn given_two_pods_of_three_slots_then_six_run_and_the_seventh_waits() {
    let mut throttle = ready(3, Policy::default(), 2);
    let slots: Vec<_> = (0..6).map(|_| go(&mut throttle)).collect();
    let ticket = waits(&mut throttle);

    throttle.endpoints(&[pod(0)], &[]);
    let on = |n| slots.iter().filter(move |(_, address)| *address == pod(n)).map(|(slot, _)| *slot);
    on(1).for_each(|slot| throttle.completed(slot, true));
    assert_eq!(throttle.peek(ticket), None, "the pod that left takes nothing");
    throttle.completed(on(0).next().unwrap(), true);

    assert_eq!(throttle.address(throttle.peek(ticket).unwrap()), Some((pod(0), false)));
}

/// A5: the fewest running; ties are spread.
#[test]
fn given_no_limit_when_many_arrive_then_every_pod_gets_the_same() {
    let mut throttle = ready(0, Policy::default(), 7);
    let mut share: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for _ in 0..700 {
        let (slot, address) = go(&mut throttle);
        *share.entry(address).or_default() += 1;
        throttle.completed(slot, true);
    }
    assert!(share.len() == 7 && share.values().all(|n| *n == 100), "{share:?}");
}

/// Contract 6.1, the middle row.
#[test]
fn given_gos_choice_and_two_slots_when_three_arrive_then_the_first_pod_is_filled_before_the_second() {
    let mut throttle = ready(2, Policy { choice: Choice::Original, ..Policy::default() }, 3);
    let at: Vec<_> = (0..5).map(|_| go(&mut throttle).1).collect();
    assert_eq!(at, [pod(0), pod(0), pod(1), pod(1), pod(2)]);
}

/// Contract 6.1, the last row: in turn from after the last pick, full ones skipped.
#[test]
fn given_gos_choice_and_many_slots_then_pods_are_taken_in_turn() {
    let mut throttle = ready(4, Policy { choice: Choice::Original, ..Policy::default() }, 3);
    let slots: Vec<_> = (0..12).map(|_| go(&mut throttle)).collect();
    let at: Vec<_> = slots.iter().map(|(_, address)| *address).collect();
    assert_eq!(at[..6], [pod(0), pod(1), pod(2), pod(0), pod(1), pod(2)]);
    waits(&mut throttle);
    throttle.completed(slots[1].0, true);
    assert_eq!(throttle.counts().waiting, 0);
}

/// Contract 6.1, the first row: the better of two random picks, so neither is left out nor overloaded.
#[test]
fn given_gos_choice_without_limit_then_load_stays_near_even() {
    let mut throttle = ready(0, Policy { choice: Choice::Original, ..Policy::default() }, 10);
    let mut share: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    (0..1000).for_each(|_| *share.entry(go(&mut throttle).1).or_default() += 1);
    assert!(share.len() == 10 && share.values().all(|n| (95..=105).contains(n)), "{share:?}");
}

/// A5, borrowing: a request does not wait beside an idle pod of another activator.
#[test]
fn given_two_activators_when_our_pod_is_busy_then_the_other_ones_is_borrowed() {
    for borrow in [true, false] {
        let mut throttle = ready(1, Policy { borrow, ..Policy::default() }, 2);
        throttle.activators(Arc::new(Activators::new(["10.1.0.1", "10.1.0.2"], "10.1.0.1").unwrap()));
        assert_eq!(throttle.counts().own, 1);
        go(&mut throttle);
        let second = throttle.arrived(false);
        assert_eq!(matches!(second, Arrived::Go(_)), borrow);
        assert!(matches!(throttle.arrived(false), Arrived::Wait(_)));
    }
}

/// Contract 6.2 and A4: nothing is refused below the bound.
#[test]
fn given_no_pods_when_more_arrive_than_may_wait_then_only_the_rest_is_refused() {
    let mut throttle = throttle(1, Policy::default());
    let tickets: Vec<_> = (0..10_000).map(|_| waits(&mut throttle)).collect();
    assert_eq!(throttle.arrived(false), Arrived::Full);
    throttle.cancelled(tickets[5000]);
    waits(&mut throttle);
    assert_eq!(throttle.arrived(false), Arrived::Full);
}

/// A2: put aside at once, and back after a probe; how often it failed decides the pause, until it takes a request.
#[test]
fn given_a_pod_that_refuses_then_the_next_request_goes_elsewhere_until_it_passes_a_probe() {
    let mut throttle = ready(0, Policy::default(), 2);
    for strikes in 1..4 {
        let (slot, dead) = std::iter::repeat_with(|| go(&mut throttle)).find(|(_, at)| *at == pod(1)).unwrap();
        throttle.failed(slot, Failure::Unreachable);
        assert!((0..10).all(|_| go(&mut throttle).1 != dead));
        assert_eq!(throttle.probes().iter().map(|p| (p.1, p.2)).collect::<Vec<_>>(), [(dead, Pace::Aside { strikes })]);
        pass(&mut throttle);
    }
    let (slot, _) = std::iter::repeat_with(|| go(&mut throttle)).find(|(_, at)| *at == pod(1)).unwrap();
    throttle.completed(slot, true);
    let (slot, _) = std::iter::repeat_with(|| go(&mut throttle)).find(|(_, at)| *at == pod(1)).unwrap();
    throttle.failed(slot, Failure::Unreachable);
    assert_eq!(throttle.probes()[0].2, Pace::Aside { strikes: 1 });
}

/// Many requests that a dying pod refuses at once are one failure.
#[test]
fn given_a_hundred_requests_that_one_pod_refuses_then_it_counts_once() {
    let mut throttle = ready(0, Policy::default(), 1);
    let slots: Vec<_> = (0..100).map(|_| go(&mut throttle).0).collect();
    slots.into_iter().for_each(|slot| throttle.failed(slot, Failure::Unreachable));
    assert_eq!(throttle.probes()[0].2, Pace::Aside { strikes: 1 });
    assert_eq!(throttle.counts().running, 0);
}

/// A refused certificate is the caller's answer when there is no other pod; it must not become a wait.
#[test]
fn given_only_a_pod_whose_handshake_fails_then_it_is_still_tried_and_another_is_preferred() {
    let mut throttle = ready(0, Policy::default(), 1);
    let (slot, _) = go(&mut throttle);
    throttle.failed(slot, Failure::Tls);
    let (slot, _) = go(&mut throttle);
    throttle.failed(slot, Failure::Tls);
    throttle.endpoints(&[pod(0), pod(1)], &[]);
    for (key, address, _) in throttle.probes() {
        assert!(address == pod(0) || throttle.probed(key, Outcome::Passed));
    }
    assert!((0..10).all(|_| go(&mut throttle).1 == pod(1)));
}

/// A retry goes before all that wait.
#[test]
fn given_waiting_requests_when_one_comes_again_then_it_is_first() {
    let mut throttle = ready(1, Policy::default(), 1);
    let (slot, _) = go(&mut throttle);
    let waiting = waits(&mut throttle);
    let Arrived::Wait(again) = throttle.arrived(true) else { panic!("there is no slot") };
    throttle.completed(slot, true);
    assert!(throttle.peek(again).is_some() && throttle.peek(waiting).is_none());
}

/// Contract 7.5.
#[test]
fn given_a_pod_that_is_not_ready_then_its_probe_counts_only_with_the_optimisation() {
    for probe_optimisation in [true, false] {
        let mut throttle = Throttle::new(Rules { probe_optimisation, ..Rules::default() }, 7);
        throttle.endpoints(&[], &[pod(0)]);
        pass(&mut throttle);
        assert_eq!(throttle.counts().usable, usize::from(probe_optimisation));
        throttle.endpoints(&[pod(0)], &[]);
        assert_eq!(throttle.counts().usable, 1);
    }
}

/// Contract 7.6: no probes of healthy pods, until they move from ready to not ready.
#[test]
fn given_a_healthy_pod_then_it_is_not_probed_until_it_becomes_not_ready() {
    let mut throttle = ready(0, Policy::default(), 1);
    assert_eq!(probed(&throttle), []);
    throttle.endpoints(&[pod(0)], &[]);
    assert_eq!(probed(&throttle), []);
    throttle.endpoints(&[], &[pod(0)]);
    assert_eq!((probed(&throttle), throttle.counts().usable), (vec![pod(0)], 0));
}

/// Contract 7.6: only automatic mode probes what Kubernetes calls ready.
#[test]
fn given_mesh_mode_disabled_then_ready_pods_are_trusted_and_others_probed() {
    let mut throttle = throttle(0, Policy { mesh: MeshMode::Disabled, ..Policy::default() });
    throttle.endpoints(&[pod(0)], &[pod(1)]);
    assert_eq!((throttle.counts().usable, probed(&throttle)), (1, vec![pod(1)]));
}

/// Contract 7.8 and A3: the cluster IP is used while pods cannot be addressed, and no longer.
#[test]
fn given_pods_that_do_not_answer_then_the_cluster_ip_is_used_until_one_does() {
    let mut throttle = throttle(1, Policy::default());
    throttle.cluster_ip(Some(pod(200)));
    throttle.endpoints(&[pod(0), pod(1)], &[]);
    assert_eq!(probed(&throttle), [pod(0), pod(1)]);
    fail_probes(&mut throttle, Outcome::Silent);
    assert_eq!(probed(&throttle), [pod(0), pod(1), pod(200)]);
    pass_only(&mut throttle, pod(200));

    // Two ready pods of one slot each.
    let (first, _) = go(&mut throttle);
    assert_eq!(throttle.address(first), Some((pod(200), true)));
    go(&mut throttle);
    let ticket = waits(&mut throttle);
    assert!(throttle.probes().iter().all(|(_, at, pace)| *at != pod(200) && *pace == Pace::Fallback));

    pass_only(&mut throttle, pod(1));
    assert_eq!(throttle.address(throttle.peek(ticket).unwrap()), Some((pod(1), false)));
    assert!(!throttle.counts().fallback);
}

fn pass_only(throttle: &mut Throttle, address: SocketAddr) {
    let key = throttle.probes().into_iter().find(|(_, at, _)| *at == address).unwrap().0;
    assert!(throttle.probed(key, Outcome::Passed));
}

/// Contract 7.8: any status but 502 and 503 proves that there is no mesh.
#[test]
fn given_one_pod_that_answers_something_then_the_cluster_ip_is_not_asked() {
    let cases = [
        (Policy::default(), Outcome::Silent, true),
        (Policy::default(), Outcome::Answered, false),
        (Policy { pod_addressability: true, ..Policy::default() }, Outcome::Silent, false),
        (Policy { mesh: MeshMode::Disabled, ..Policy::default() }, Outcome::Silent, false),
    ];
    for (policy, outcome, asked) in cases {
        let mut throttle = throttle(0, policy);
        throttle.cluster_ip(Some(pod(200)));
        throttle.endpoints(&[], &[pod(0)]);
        fail_probes(&mut throttle, outcome);
        assert_eq!(probed(&throttle).contains(&pod(200)), asked, "{policy:?} {outcome:?}");
    }
}

/// Contract 7.3: with the mesh declared, pods are neither probed nor used.
#[test]
fn given_mesh_mode_enabled_then_only_the_cluster_ip_is_probed_and_used() {
    let mut throttle = throttle(0, Policy { mesh: MeshMode::Enabled, ..Policy::default() });
    throttle.cluster_ip(Some(pod(200)));
    throttle.endpoints(&[pod(0)], &[]);
    assert_eq!(probed(&throttle), [pod(200)]);
    pass(&mut throttle);
    assert_eq!(go(&mut throttle).1, pod(200));
    // Contract 6.3: without ready pods there is no capacity behind the cluster IP.
    throttle.endpoints(&[], &[pod(0)]);
    waits(&mut throttle);
}

/// Contract 6.3: the cluster IP is divided among the activators.
#[test]
fn given_three_activators_then_each_takes_its_part_of_the_cluster_ip() {
    let mut throttle = throttle(4, Policy { mesh: MeshMode::Enabled, ..Policy::default() });
    throttle.activators(Arc::new(Activators::new(["a", "b", "c"], "b").unwrap()));
    throttle.cluster_ip(Some(pod(200)));
    throttle.endpoints(&[pod(0), pod(1)], &[]);
    pass(&mut throttle);
    go(&mut throttle);
    go(&mut throttle);
    waits(&mut throttle);
}

/// Contract 7.2: no candidates, no capacity; what waits goes on waiting.
#[test]
fn given_waiting_requests_when_all_addresses_vanish_and_come_back_then_they_go() {
    let mut throttle = ready(1, Policy::default(), 1);
    let _busy = go(&mut throttle);
    let ticket = waits(&mut throttle);
    throttle.endpoints(&[], &[]);
    assert_eq!(throttle.peek(ticket), None);
    throttle.endpoints(&[], &[pod(5)]);
    pass(&mut throttle);
    assert!(throttle.peek(ticket).is_some());
}

/// A request that begins to wait makes the prober look at once.
#[test]
fn given_a_pod_that_is_being_probed_when_the_first_request_waits_then_the_prober_is_hurried_once() {
    let mut throttle = throttle(0, Policy::default());
    throttle.endpoints(&[], &[pod(0)]);
    throttle.take_wanted();
    waits(&mut throttle);
    waits(&mut throttle);
    assert_eq!(throttle.take_wanted(), [Wanted::Hurry]);
}

#[test]
fn given_a_deleted_revision_then_who_waits_is_refused_and_what_runs_may_end() {
    let mut throttle = ready(1, Policy::default(), 1);
    let (slot, _) = go(&mut throttle);
    let ticket = waits(&mut throttle);
    throttle.close();
    assert_eq!(throttle.poll(ticket, std::task::Waker::noop()), Some(Err(())));
    throttle.completed(slot, true);
    assert_eq!((throttle.arrived(false), throttle.counts()), (Arrived::Gone, Counts::default()));
}
