//! Many Ingresses with a certificate each: start, memory, handshakes beside those of one certificate, and changes.

use lockkeeper::local::pki::Leaf;

use crate::client::HOST;
use crate::contender::{Contender, Running};
use crate::drive::{Sheet, measure_handshakes};
use crate::process::memory_kib;
use crate::results::{Goal, Measure, Results};
use crate::{Failure, Stage};

use super::cluster::{Cluster, certificate, service, slice};
use super::{Backend, GATEWAY, changes, envoy};

/// How many, and what the works are called.
pub(crate) struct Size {
    pub(crate) count: usize,
    start: &'static str,
    handshakes: &'static str,
    /// Changes of an Ingress, of a certificate, of an address.
    pub(crate) changes: [&'static str; 3],
}

const FULL: Size = Size {
    count: 10_000,
    start: "10,000 Ingresses with a certificate each",
    handshakes: "full handshake, among 10,000 certificates",
    changes: ["one Ingress of 10,000 changes", "one certificate of 10,000 changes", "one address of 10,000 changes"],
};
const QUICK: Size = Size {
    count: 1000,
    start: "1,000 Ingresses with a certificate each",
    handshakes: "full handshake, among 1,000 certificates",
    changes: ["one Ingress of 1,000 changes", "one certificate of 1,000 changes", "one address of 1,000 changes"],
};
const ONE: &str = "full handshake, 1 certificate";
/// Turns of handshakes with many and with one.
const TURNS: usize = 10;

/// The host of an Ingress.
pub(crate) fn host(index: usize) -> String {
    format!("app-{index}.example.com")
}

/// Names of its objects.
pub(crate) fn name(index: usize) -> String {
    format!("app-{index}")
}

pub(crate) fn run(stage: &Stage, backend: Backend, results: &mut Results) -> Result<(), Failure> {
    let size = if stage.args.quick { QUICK } else { FULL };
    let leaves: Vec<(String, Leaf)> = (0..size.count)
        .map(|index| Ok((host(index), stage.tls.authority.leaf(&[&host(index)], index as u64 + 16)?)))
        .collect::<Result<_, Failure>>()?;
    let cluster = Cluster::new(stage, backend, false);
    let objects = leaves.iter().enumerate().flat_map(|(index, (host, leaf))| {
        let name = name(index);
        let of = slice(&name, backend.plain, backend.tls);
        [certificate(&name, leaf), service(&name), of, cluster.ingress(&name, host, &name, 1)]
    });
    cluster.api.apply_all(objects.collect::<Vec<_>>());
    let alone = Cluster::new(stage, backend, false);

    let mut pairs = vec![(GATEWAY, cluster.gateway(stage, 1)?, alone.gateway(stage, 1)?)];
    let envoy = results.names.iter().position(|name| name == "Envoy");
    if let Some(index) = envoy {
        let many = envoy::contender(stage, backend, false, envoy::Certificates::Many(&leaves))?;
        let one = envoy::contender(stage, backend, false, envoy::Certificates::Alone)?;
        pairs.extend(many.zip(one).map(|(many, one)| (index, many, one)));
    }
    for (index, many, one) in &pairs {
        stage.block_on(compare(stage, &size, (*index, many, one), results))?;
    }
    results.goals(size.handshakes, Measure::Cpu, &[Goal::Times(1.0, &["Envoy"])]);
    results.goals(size.handshakes, Measure::Ratio, &[Goal::Most(1.05)]);
    results.goals(ONE, Measure::Cpu, &[Goal::Times(1.0, &["Envoy"])]);
    results.goals(size.start, Measure::Ready, &[Goal::Most(10.0)]);
    results.goals(size.start, Measure::Memory, &[Goal::Most(250.0)]);
    stage.block_on(changes::run(stage, &cluster, backend, &size, results))
}

/// One contender with many and with one, by turns.
async fn compare(
    stage: &Stage,
    size: &Size,
    (index, many, one): (usize, &Contender, &Contender),
    results: &mut Results,
) -> Result<(), Failure> {
    let running = Running::start(many, &stage.tls, &stage.cpus).await?;
    results.put(size.start, Measure::Ready, index, running.started_in.as_secs_f64());
    tokio::time::sleep(stage.args.pace().rest).await;
    results.put(size.start, Measure::Memory, index, memory_kib(running.id()) / 1024.0);
    let single = Running::start(one, &stage.tls, &stage.cpus).await?;
    let each = stage.args.pace().handshakes / TURNS;
    for turn in 0..TURNS {
        let any = |left: usize| Some(host((turn * each + left) * 6151 % size.count));
        let to = (&stage.tls, many.ports.tls, many.ask);
        let mut sheet = Sheet { results, work: size.handshakes, index };
        measure_handshakes(to, each, any, running.id(), &mut sheet).await?;
        let to = (&stage.tls, one.ports.tls, one.ask);
        let mut sheet = Sheet { results, work: ONE, index };
        measure_handshakes(to, each, |_| Some(HOST.to_owned()), single.id(), &mut sheet).await?;
    }
    let of = |work| results.median(work, Measure::Cpu, index);
    if let Some((many, one)) = of(size.handshakes).zip(of(ONE)) {
        results.put(size.handshakes, Measure::Ratio, index, many / one);
    }
    Ok(())
}
