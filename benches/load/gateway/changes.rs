//! One thing among many changes: how long until every worker acts accordingly? The API server's part and that of whoever
//! asks is in it.

use std::io;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::app::App;
use crate::client::{H1, shown};
use crate::contender::Running;
use crate::histogram::Histogram;
use crate::results::{Goal, Measure, Results};
use crate::{Failure, Stage};

use super::cluster::{Cluster, certificate, service, slice};
use super::many::{Size, host, name};
use super::{Backend, GATEWAY};

const WORKERS: usize = 2;
/// More connections than workers: each goes to the worker that has the fewest.
const CONNECTIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);
/// The Service to which an Ingress is changed.
const OTHER: &str = "other";

pub(crate) async fn run(
    stage: &Stage,
    cluster: &Cluster,
    backend: Backend,
    size: &Size,
    results: &mut Results,
) -> Result<(), Failure> {
    let other = App::other()?;
    cluster.api.apply_all([service(OTHER), slice(OTHER, other.port(), 0)]);
    let contender = cluster.gateway(stage, WORKERS)?;
    let _running = Running::start(&contender, &stage.tls, &stage.cpus).await?;
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        callers.push(H1::open(contender.ports.plain, None).await?);
    }
    let [routes, certificates, addresses] = size.changes;
    let index = |change: usize, step: usize| change * step % size.count;
    let count = stage.args.pace().changes;

    let mut times = Histogram::new();
    for change in 0..count {
        let index = index(change, 31);
        let ask = request(index);
        let before = callers[0].fetch(&ask).await?;
        let begun = Instant::now();
        cluster.api.apply(cluster.ingress(&name(index), &host(index), OTHER, 2));
        changed(&mut callers, &ask, before, begun).await?;
        record(&mut times, begun)?;
    }
    put(results, routes, &times);

    let mut times = Histogram::new();
    for change in 0..count {
        let index = index(change, 37);
        let leaf = stage.tls.authority.leaf(&[&host(index)], 1_000_000 + change as u64)?;
        let fresh = CertificateDer::from_pem_slice(leaf.chain.as_bytes())?;
        let begun = Instant::now();
        cluster.api.apply(certificate(&name(index), &leaf));
        // A connection each, so that all workers are asked.
        for _ in 0..CONNECTIONS {
            while shown(&stage.tls, contender.ports.tls, &host(index)).await? != fresh {
                pause(begun).await?;
            }
        }
        record(&mut times, begun)?;
    }
    put(results, certificates, &times);

    let mut times = Histogram::new();
    for change in 0..count {
        // None of those that lead elsewhere now.
        let index = index(change, 41) / 31 * 31 + 1;
        let ask = request(index);
        let before = callers[0].fetch(&ask).await?;
        let begun = Instant::now();
        cluster.api.apply(slice(&name(index), other.port(), 0));
        changed(&mut callers, &ask, before, begun).await?;
        record(&mut times, begun)?;
        cluster.api.apply(slice(&name(index), backend.plain, backend.tls));
        changed(&mut callers, &ask, other_than(before), Instant::now()).await?;
    }
    put(results, addresses, &times);
    Ok(())
}

/// The length that no longer counts once things are as they were.
fn other_than(before: usize) -> usize {
    if before == App::GREETING_LENGTH { App::OTHER_LENGTH } else { App::GREETING_LENGTH }
}

fn request(index: usize) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(index)).into_bytes()
}

/// Waits until none of the callers gets an answer of this length.
async fn changed(callers: &mut [H1], ask: &[u8], before: usize, begun: Instant) -> Result<(), Failure> {
    for caller in callers {
        while caller.fetch(ask).await? == before {
            pause(begun).await?;
        }
    }
    Ok(())
}

async fn pause(begun: Instant) -> io::Result<()> {
    if begun.elapsed() > PATIENCE {
        return Err(io::Error::other("a change is not in force"));
    }
    // The API server, on the same CPU, has something to do too.
    tokio::time::sleep(Duration::from_millis(1)).await;
    Ok(())
}

fn record(times: &mut Histogram, begun: Instant) -> Result<(), Failure> {
    times.record(u64::try_from(begun.elapsed().as_nanos())?);
    Ok(())
}

fn put(results: &mut Results, work: &'static str, times: &Histogram) {
    results.put(work, Measure::Median, GATEWAY, times.quantile(0.5) as f64 / 1e6);
    results.put(work, Measure::Slowest99, GATEWAY, times.quantile(0.99) as f64 / 1e6);
    results.goals(work, Measure::Slowest99, &[Goal::Most(100.0)]);
}
