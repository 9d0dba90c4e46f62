//! The activator: cold starts, what a warm hop costs beside the queue's, and how much room waiting and idling take.
//!
//! It runs as in a cluster, over an API server and an autoscaler in this process. Pods are in this process too, each on
//! a loopback address of its own, so that their ports are Knative's.

mod cluster;
mod cold;
mod crowd;
mod held;
mod idle;
mod pods;
mod warm;

use crate::progress::Progress;
use crate::results::{Goal, Measure, Results};
use crate::{Failure, Outcome, Stage};

/// Columns: ours, and the queue in the same run.
pub(crate) const ACTIVATOR: usize = 0;
pub(crate) const QUEUE: usize = 1;

/// CPU of a hop, and its latency, to the queue's.
const CPU: &[Goal] = &[Goal::Times(1.3, &["queue"])];
const LATENCY: &[Goal] = &[Goal::Times(1.2, &["queue"])];
const MEDIAN: &[Goal] = &[Goal::Most(10.0)];
const SLOWEST: &[Goal] = &[Goal::Most(30.0)];

pub(crate) fn run(stage: &Stage) -> Result<Outcome, Failure> {
    let args = &stage.args;
    let mut results = Results::new(vec!["activator".to_owned(), "queue".to_owned()]);
    let wanted = |key| if args.wants(key) { args.rounds() } else { 0 };
    let (warm, cold) = (wanted("warm"), wanted("cold"));
    // Memory and handshakes are the same each time.
    let once = |key| usize::from(args.wants(key));
    let steps = warm * warm::Hop::ALL.len() * 2
        + cold * cold::Scenario::ALL.len()
        + once("held")
        + once("idle") * idle::COUNTS.len()
        + once("crowd");
    let progress = Progress::new(steps);
    warm::pods(&stage.tls)?;
    for round in 1..=args.rounds() {
        for hop in warm::Hop::ALL.iter().take(warm * warm::Hop::ALL.len()) {
            for index in [ACTIVATOR, QUEUE] {
                progress.step(&format!("round {round}, {}: {}", results.names[index], hop.title()));
                stage.block_on(warm::run(stage, *hop, index, &mut results))?;
            }
            results.goals(hop.title(), Measure::Cpu, CPU);
            results.goals(hop.title(), Measure::P99, LATENCY);
        }
        for scenario in cold::Scenario::ALL.iter().take(cold * cold::Scenario::ALL.len()) {
            progress.step(&format!("round {round}: {}", scenario.title()));
            stage.block_on(cold::run(stage, *scenario, &mut results))?;
            results.goals(scenario.title(), Measure::Median, MEDIAN);
            results.goals(scenario.title(), Measure::Slowest99, SLOWEST);
        }
    }
    if args.wants("held") {
        progress.step(held::TITLE);
        stage.block_on(held::run(stage, &mut results))?;
    }
    for (count, title, goal) in idle::COUNTS.iter().take(once("idle") * idle::COUNTS.len()) {
        progress.step(title);
        stage.block_on(idle::run(stage, (*count, title, goal), &mut results))?;
    }
    if args.wants("crowd") {
        progress.step(crowd::TITLE);
        stage.block_on(crowd::run(stage, &mut results))?;
    }
    progress.end();
    Ok((results, vec![format!("lockkeeper: {}", stage.binary.display())]))
}
