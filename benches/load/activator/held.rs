//! Many requests that wait for a pod: their room, and that all are answered once there is one.

use std::net::Ipv4Addr;

use tokio::task::JoinSet;

use crate::client::{Ask, H2, NAMESPACE, REVISION};
use crate::contender::Running;
use crate::process::memory_kib;
use crate::results::{Goal, Measure, Results};
use crate::{Failure, Stage};

use super::cluster::{Cluster, PATIENCE};
use super::{ACTIVATOR, warm};

pub(crate) const TITLE: &str = "10,500 requests held on 42 h2c connections";
const CONNECTIONS: usize = 42;
/// What one connection may carry.
const STREAMS: usize = 250;

pub(crate) async fn run(stage: &Stage, results: &mut Results) -> Result<(), Failure> {
    let cluster = Cluster::new(None);
    cluster.create(REVISION, |revision| revision);
    cluster.pods(REVISION, &[&warm::POD.to_string()]);
    let contender = cluster.activator(stage, &[("LOCKKEEPER_QUEUE_DEPTH", "20000")])?;
    let running = Running::start(&contender, &stage.tls, &stage.cpus).await?;
    // Scaled to zero.
    cluster.pods(REVISION, &[]);
    tokio::time::sleep(stage.args.pace().rest).await;

    let port = contender.ports.h2.ok_or("no port for h2c")?;
    let mut requests = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let connection = H2::open(port, None, Ask::Revision).await?;
        for _ in 0..STREAMS {
            let mut stream = connection.clone();
            requests.spawn_local(async move { stream.fetch().await });
        }
    }
    // A mean over a time in which all of them waited.
    cluster.told(REVISION, (CONNECTIONS * STREAMS) as f64 - 0.5).await?;
    tokio::time::sleep(stage.args.pace().rest).await;
    results.put(TITLE, Measure::Memory, ACTIVATOR, memory_kib(running.id()) / 1024.0);
    results.goals(TITLE, Measure::Memory, &[Goal::Most(120.0)]);

    cluster.pods(REVISION, &[&Ipv4Addr::to_string(&warm::POD)]);
    let all = async {
        let mut failed = Vec::new();
        while let Some(answered) = requests.join_next().await {
            failed.extend(answered.map_err(std::io::Error::other).and_then(|answer| answer).err());
        }
        failed
    };
    let failed = tokio::time::timeout(PATIENCE, all).await.map_err(|_| format!("{NAMESPACE}: some wait for ever"))?;
    results.failed(ACTIVATOR, &failed);
    Ok(())
}
