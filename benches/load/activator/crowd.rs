//! Many pods at once, over TLS: how many handshakes does each see before its first request?

use std::net::Ipv4Addr;
use std::rc::Rc;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::client::{Ask, H1, REVISION};
use crate::contender::Running;
use crate::results::{Goal, Measure, Results};
use crate::{Failure, Stage};

use super::ACTIVATOR;
use super::cluster::{Cluster, PATIENCE};
use super::pods::Pod;

pub(crate) const TITLE: &str = "500 pods at once, over TLS, 500 requests held";
const PODS: usize = 500;

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 90, u8::try_from(number / 200).unwrap_or(255), u8::try_from(number % 200 + 1).unwrap())
}

pub(crate) async fn run(stage: &Stage, results: &mut Results) -> Result<(), Failure> {
    let acceptor = stage.tls.acceptor()?;
    let cluster = Cluster::new(Some(&stage.tls));
    // One request a pod, so that every pod has a first one.
    cluster.create(REVISION, |revision| revision.concurrency(1));
    let first = Pod::open(address(PODS), Some(&acceptor))?;
    cluster.pods(REVISION, &[&address(PODS).to_string()]);
    let contender = cluster.activator(stage, &[])?;
    let _running = Running::start(&contender, &stage.tls, &stage.cpus).await?;
    cluster.pods(REVISION, &[]);
    drop(first);
    tokio::time::sleep(stage.args.pace().rest).await;

    // None answers before all have been asked.
    let barrier = Rc::new(Barrier::new(PODS));
    let pods = (0..PODS).map(|number| Pod::together(address(number), &acceptor, &barrier));
    let pods = pods.collect::<Result<Vec<_>, _>>()?;
    let mut requests = JoinSet::new();
    for _ in 0..PODS {
        let mut connection = H1::open(contender.ports.tls, Some(&stage.tls)).await?;
        requests.spawn_local(async move { connection.fetch(Ask::Revision.http1()).await });
    }
    cluster.told(REVISION, PODS as f64 - 0.5).await?;
    let addresses: Vec<String> = (0..PODS).map(|number| address(number).to_string()).collect();
    cluster.pods(REVISION, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let all = async {
        let mut failed = Vec::new();
        while let Some(answered) = requests.join_next().await {
            failed.extend(answered.map_err(std::io::Error::other).and_then(|answer| answer).err());
        }
        failed
    };
    let failed = tokio::time::timeout(PATIENCE, all).await.map_err(|_| "some wait for ever")?;
    results.failed(ACTIVATOR, &failed);
    let asked: Vec<usize> = pods.iter().filter_map(|pod| Some(pod.first_so_far()?.1)).collect();
    if asked.len() < PODS {
        return Err(format!("{} of {PODS} pods had a first request", asked.len()).into());
    }
    let most = asked.iter().copied().max().ok_or("no pod was asked")?;
    results.put(TITLE, Measure::Handshakes, ACTIVATOR, most as f64);
    results.goals(TITLE, Measure::Handshakes, &[Goal::Most(1.0)]);
    Ok(())
}
