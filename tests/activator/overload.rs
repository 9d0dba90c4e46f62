//! A4: more load than the pods can take, for a while: callers give up, memory does not grow, and what comes afterwards is
//! served at once.
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::world::{Activator, World};
use crate::support::app::{App, ok};
use crate::support::client::Raw;

/// Callers wait for so long.
const GIVE_UP: Duration = Duration::from_secs(1);

#[test]
fn given_four_times_the_load_when_callers_give_up_then_memory_is_flat_and_the_next_request_is_served_at_once() {
    let world = World::new(false);
    world.create(world.revision().concurrency(1));
    let activator = Activator::of(world.builder(), false);
    let slow = App::each(|_, _| {
        std::thread::sleep(Duration::from_millis(20));
        ok("ok")
    });
    let pod = world.pod_with(slow, |builder| builder.env("CONTAINER_CONCURRENCY", 1));
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);

    let mut asked: VecDeque<(Instant, Raw)> = VecDeque::new();
    let start = Instant::now();
    let (mut early, mut late) = (0, 0);
    for tick in 0_u32.. {
        let due = start + Duration::from_millis(5) * tick;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        asked.push_back((Instant::now(), activator.ask()));
        while asked.front().is_some_and(|(since, _)| since.elapsed() > GIVE_UP) {
            asked.pop_front();
        }
        match start.elapsed().as_secs() {
            0..=2 => early = early.max(activator.process.memory_own()),
            3..=7 => late = late.max(activator.process.memory_own()),
            _ => break,
        }
    }
    let load = asked.len();
    drop(asked);
    let start = Instant::now();
    assert_eq!(activator.get().status(), 200);
    let next = start.elapsed();
    println!("{early} KiB, {late} KiB later; {load} callers at once; the next request took {next:?}");
    assert!(load > 50, "there was load");
    // Did those that gave up stay, a thousand of them would hold 4.5 MiB.
    assert!(late <= early + 2048, "{early} KiB grew to {late} KiB");
    // Behind those that had given up it would take several seconds; 20 ms are the application's.
    assert!(next < GIVE_UP, "{next:?}");
}
