//! Chaos: everything around the activator comes and goes under steady load, and no request may notice.
//!
//! Pods are killed and rolled, revisions go to zero and back, events are delayed, lost and told again, the autoscaler and
//! the API server restart, certificates and authorities rotate. What happens, and when, follows from a seed, which is
//! printed: `LOCKKEEPER_CHAOS_SEED` replays it, `LOCKKEEPER_CHAOS_SECONDS` says for how long (default 20).
//!
//! Of each request it is known for how much of its time a pod could have served it: one that lives, listens, is listed,
//! and of which the API server has told. Nothing else may take long. How long is judged against requests that went
//! straight to a pod meanwhile, since the machine may be busy; `LOCKKEEPER_CHAOS_STRICT=1` judges by the clock alone.
mod fleet;
mod load;
mod world;

use std::time::{Duration, Instant};

use fleet::SERVICE;
use world::Chaos;

/// The longest time beside a pod that could serve, of 99 in 100 requests.
const USUAL: Duration = Duration::from_millis(250);
/// The same of any request.
const LONGEST: Duration = Duration::from_secs(2);

#[test]
fn given_steady_load_when_everything_comes_and_goes_then_no_request_is_lost_or_waits_beside_a_pod() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("LOCKKEEPER_CHAOS_SEED").unwrap_or_else(|| {
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), Instant::now()) % 1_000_000
    });
    let time = Duration::from_secs(number("LOCKKEEPER_CHAOS_SECONDS").unwrap_or(20));
    println!("LOCKKEEPER_CHAOS_SEED={seed}");
    let mut chaos = Chaos::start(seed);
    chaos.run(time);
    let (diary, outcome) = chaos.end();

    let summary = format!(
        "seed {seed}: {} requests, {} not served; beside a pod: p99 {:?}, longest {:?}; straight to a pod: p99 {:?}, longest {:?}",
        outcome.waits.len(),
        outcome.lost.len(),
        outcome.wait(0.99),
        outcome.wait(1.0),
        outcome.straight(0.99),
        outcome.straight(1.0),
    );
    println!("{summary}\nslowest: {}", outcome.slowest);
    if outcome.wait(1.0) > USUAL {
        println!("{}", diary.join("\n"));
    }
    let told = || format!("{summary}\n{}\n{}", diary.join("\n"), outcome.lost.join("\n"));
    assert!(outcome.waits.len() > 100, "there was load: {}", told());
    assert!(outcome.lost.is_empty(), "{}", told());
    let strict = number("LOCKKEEPER_CHAOS_STRICT") == Some(1);
    let room = |straight: Duration| if strict { Duration::ZERO } else { straight * 10 };
    assert!(outcome.wait(0.99) <= USUAL + room(outcome.straight(0.99)), "{}", told());
    assert!(outcome.wait(1.0) <= LONGEST + room(outcome.straight(1.0)), "{}", told());
}

/// A control on the judge: it sees a wait beside a pod, and none where there was no pod.
#[test]
fn given_a_timeline_when_a_request_waits_then_only_the_time_beside_a_pod_counts() {
    let start = Instant::now();
    let at = |millis: u64| start + Duration::from_millis(millis);
    let timeline = fleet::Timeline::default();
    for (millis, able) in [(100, true), (200, false), (500, true)] {
        timeline.mark(at(millis), able);
    }
    let beside = |from, to| timeline.beside(at(from), at(to)).as_millis();
    assert_eq!(beside(0, 90), 0);
    assert_eq!(beside(150, 180), 30);
    assert_eq!(beside(150, 600), 150);
    assert_eq!(beside(210, 490), 0);
    assert_eq!(beside(600, 700), 100);
    assert!(SERVICE < USUAL);
}
