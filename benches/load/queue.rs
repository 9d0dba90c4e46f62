//! The queue beside other queues, nginx and HAProxy.

use crate::app::App;
use crate::contender::{self, Contender};
use crate::progress::Progress;
use crate::results::Results;
use crate::work::{Bench, Work};
use crate::{Failure, Outcome, Stage};

pub(crate) fn run(stage: &Stage) -> Result<Outcome, Failure> {
    let args = &stage.args;
    let app = App::start()?;
    let contenders = contender::all(args, &stage.binary, &stage.dir, app.port())?;
    let names: Vec<String> = contenders.iter().map(|contender| contender.name.clone()).collect();
    println!("{} rounds: {}\n", args.rounds(), names.join(", "));

    let mut results = Results::new(names);
    let works: Vec<Work> = Work::ALL.into_iter().filter(|work| args.wants(work.key())).collect();
    let progress = Progress::new(args.rounds() * contenders.len() * works.len());
    for round in 1..=args.rounds() {
        for (index, contender) in contenders.iter().enumerate() {
            let bench = Bench { contender, tls: &stage.tls, cpus: &stage.cpus, pace: args.pace() };
            for work in &works {
                progress.step(&format!("round {round}, {}: {}", contender.name, work.title()));
                stage.block_on(bench.run(*work, index, &mut results))?;
            }
        }
    }
    progress.end();
    Ok((results, versions(&contenders)))
}

/// A line each.
pub(crate) fn versions(contenders: &[Contender]) -> Vec<String> {
    contenders.iter().map(|contender| format!("{}: {}", contender.name, contender.about)).collect()
}
