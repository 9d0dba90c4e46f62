//! A request waits, and a pod begins to listen: how long until the request's first byte is there?

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::client::{H1, NAMESPACE};
use crate::contender::Running;
use crate::histogram::Histogram;
use crate::results::{Measure, Results};
use crate::{Failure, Stage};

use super::ACTIVATOR;
use super::cluster::{Cluster, PATIENCE};
use super::pods::{Hole, Pod};

/// What else is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// A pod of the same revision that nobody reaches.
    Unreachable,
    /// The addresses of another revision, whose pods nobody reaches, have just changed.
    Changes,
}

/// A kind of cold start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    tls: bool,
    beside: Beside,
}

impl Scenario {
    pub(crate) const ALL: [Self; 6] = [
        Self { tls: false, beside: Beside::Nothing },
        Self { tls: false, beside: Beside::Unreachable },
        Self { tls: false, beside: Beside::Changes },
        Self { tls: true, beside: Beside::Nothing },
        Self { tls: true, beside: Beside::Unreachable },
        Self { tls: true, beside: Beside::Changes },
    ];

    pub(crate) fn title(self) -> &'static str {
        match (self.tls, self.beside) {
            (false, Beside::Nothing) => "a pod listens -> first byte of the held request",
            (false, Beside::Unreachable) => "the same beside a pod that nobody reaches",
            (false, Beside::Changes) => "the same after changes of another revision",
            (true, Beside::Nothing) => "over TLS: a pod listens -> first byte",
            (true, Beside::Unreachable) => "over TLS beside a pod that nobody reaches",
            (true, Beside::Changes) => "over TLS after changes of another revision",
        }
    }
}

/// The pods of a run: loopback addresses that no other run has.
fn address(group: u8, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 80 + group, u8::try_from(number / 200).unwrap_or(255), u8::try_from(number % 200 + 1).unwrap())
}

/// The median of the runs, and the slowest of a hundred, which of twenty is the slowest.
pub(crate) async fn run(stage: &Stage, scenario: Scenario, results: &mut Results) -> Result<(), Failure> {
    let tls = scenario.tls.then_some(&stage.tls);
    let acceptor = tls.map(crate::client::Tls::acceptor).transpose()?;
    let cluster = Cluster::new(tls);
    let revisions: Vec<String> = (0..stage.args.pace().cold_starts).map(|run| format!("cold-{run}-00001")).collect();
    revisions.iter().for_each(|revision| cluster.create(revision, |revision| revision));
    cluster.create("other-00001", |revision| revision);
    // For the question whether it has started.
    let _first = Pod::open(address(0, 0), acceptor.as_ref())?;
    cluster.create(crate::client::REVISION, |revision| revision);
    cluster.pods(crate::client::REVISION, &[&address(0, 0).to_string()]);
    let contender = cluster.activator(stage, &[])?;
    let _running = Running::start(&contender, &stage.tls, &stage.cpus).await?;
    let port = if tls.is_some() { contender.ports.tls } else { contender.ports.plain };

    let holes = (0..4).map(|number| Hole::at(address(2, number))).collect::<Result<Vec<_>, _>>()?;
    let hole = |number: usize| address(2, number % holes.len()).to_string();
    let mut _waiting_elsewhere = None;
    if scenario.beside == Beside::Changes {
        cluster.pods("other-00001", &[&hole(0), &hole(1)]);
        _waiting_elsewhere = Some(ask(port, tls, "other-00001").await?);
        cluster.told("other-00001", f64::MIN_POSITIVE).await?;
    }
    let mut latencies = Histogram::new();
    for (run, revision) in revisions.iter().enumerate() {
        let pod = address(1, run);
        let (own, other) = (pod.to_string(), hole(3));
        match scenario.beside {
            Beside::Unreachable => cluster.pods(revision, &[&other, &own]),
            _ => cluster.pods(revision, &[&own]),
        }
        let waiting = ask(port, tls, revision).await?;
        cluster.told(revision, f64::MIN_POSITIVE).await?;
        // At any point of the pauses between two probes.
        tokio::time::sleep(Duration::from_millis(100 + (run as u64 * 37) % 200)).await;
        if scenario.beside == Beside::Changes {
            for change in 0..4 {
                cluster.pods("other-00001", &[&hole(run + change), &hole(run + change + 1)]);
            }
        }
        let opened = Instant::now();
        let pod = Pod::open(pod, acceptor.as_ref())?;
        let (came, _) = tokio::time::timeout(PATIENCE, pod.first()).await.map_err(|_| "the request never came")?;
        latencies.record(u64::try_from(came.saturating_duration_since(opened).as_nanos())?);
        tokio::time::timeout(PATIENCE, waiting).await??;
    }
    results.put(scenario.title(), Measure::Median, ACTIVATOR, latencies.quantile(0.5) as f64 / 1e6);
    results.put(scenario.title(), Measure::Slowest99, ACTIVATOR, latencies.quantile(0.99) as f64 / 1e6);
    Ok(())
}

/// Asks for a revision: what it gives ends with the answer.
async fn ask(
    port: u16,
    tls: Option<&crate::client::Tls>,
    revision: &str,
) -> Result<impl Future<Output = std::io::Result<usize>> + use<>, Failure> {
    let mut connection = H1::open(port, tls).await?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nKnative-Serving-Namespace: {NAMESPACE}\r\nKnative-Serving-Revision: {revision}\r\n\r\n"
    );
    connection.send(request.as_bytes()).await?;
    Ok(async move { connection.answer().await })
}
