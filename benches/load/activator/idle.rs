//! Revisions of which nobody asks anything.

use crate::client::REVISION;
use crate::contender::Running;
use crate::process::memory_kib;
use crate::results::{Goal, Measure, Results};
use crate::{Failure, Stage};

use super::cluster::Cluster;
use super::{ACTIVATOR, warm};

/// How many, and what they may take.
pub(crate) const COUNTS: [(usize, &str, &[Goal]); 2] =
    [(1000, "1,000 idle revisions", &[Goal::Most(40.0)]), (10_000, "10,000 idle revisions", &[Goal::Most(150.0)])];

pub(crate) async fn run(
    stage: &Stage,
    (count, title, goal): (usize, &'static str, &'static [Goal]),
    results: &mut Results,
) -> Result<(), Failure> {
    let cluster = Cluster::new(None);
    cluster.create_idle(count);
    // The one that tells that it has started.
    cluster.create(REVISION, |revision| revision);
    cluster.pods(REVISION, &[&warm::POD.to_string()]);
    let contender = cluster.activator(stage, &[])?;
    let running = Running::start(&contender, &stage.tls, &stage.cpus).await?;
    results.put(title, Measure::Ready, ACTIVATOR, running.started_in.as_secs_f64());
    tokio::time::sleep(stage.args.pace().rest).await;
    results.put(title, Measure::Memory, ACTIVATOR, memory_kib(running.id()) / 1024.0);
    results.goals(title, Measure::Memory, goal);
    Ok(())
}
