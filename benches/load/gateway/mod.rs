//! The gateway, beside Envoy with what Kourier tells it, nginx and HAProxy, where they are installed.
//!
//! All have the same route: one host with a certificate, two headers added on the way to one backend. lockkeeper reads
//! it from an API server in this process; the others from their files.

mod changes;
mod cluster;
mod envoy;
mod many;
mod others;

use crate::app::App;
use crate::client::Tls;
use crate::contender::{Contender, Running};
use crate::drive::{Sheet, measure};
use crate::progress::Progress;
use crate::queue::versions;
use crate::results::{Goal, Measure, Results};
use crate::work::{self, H2_RATE, RATE, SLACK};
use crate::{Failure, Outcome, Stage};

/// Our column.
pub(crate) const GATEWAY: usize = 0;

const CPU: &[Goal] = &[Goal::Times(1.0, &["nginx", "HAProxy"]), Goal::Times(0.6, &["Envoy"])];
const LATENCY: &[Goal] = &[Goal::Times(1.2, &["queue"])];

/// What a hop speaks on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// HTTP/2 on the caller's side, always over TLS.
    http2: bool,
    /// TLS to the backend, which speaks HTTP/1.1 always.
    to_tls: bool,
}

impl Hop {
    const ALL: [Self; 4] = [
        Self { http2: false, to_tls: false },
        Self { http2: true, to_tls: false },
        Self { http2: false, to_tls: true },
        Self { http2: true, to_tls: true },
    ];

    fn title(self) -> &'static str {
        match (self.http2, self.to_tls) {
            (false, false) => "HTTP/1.1 over TLS to HTTP/1.1",
            (true, false) => "HTTP/2 over TLS to HTTP/1.1",
            (false, true) => "HTTP/1.1 over TLS to HTTP/1.1 over TLS",
            (true, true) => "HTTP/2 over TLS to HTTP/1.1 over TLS",
        }
    }
}

/// The backend: one application, on a port each.
#[derive(Clone, Copy)]
pub(crate) struct Backend {
    pub(crate) plain: u16,
    pub(crate) tls: u16,
}

impl Backend {
    fn start(tls: &Tls) -> Result<Self, Failure> {
        let any = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        Ok(Self { plain: App::start()?.port(), tls: App::listen(any, Some(tls.acceptor()?))?.port() })
    }
}

pub(crate) fn run(stage: &Stage) -> Result<Outcome, Failure> {
    let args = &stage.args;
    let backend = Backend::start(&stage.tls)?;
    // Two of each: towards plaintext, and towards TLS. What the gateway reads lives as long.
    let clusters = [false, true].map(|to_tls| cluster::Cluster::new(stage, backend, to_tls));
    let mut contenders = Vec::new();
    for (to_tls, cluster) in [false, true].into_iter().zip(&clusters) {
        let mut all = vec![cluster.gateway(stage, 1)?];
        if !args.no_peers {
            all.extend(others::nginx(stage, backend, to_tls)?);
            all.extend(others::haproxy(stage, backend, to_tls)?);
            all.extend(envoy::contender(stage, backend, to_tls, envoy::Certificates::One)?);
        }
        if !to_tls {
            all.push(crate::contender::queue("queue".to_owned(), stage.command("queue")?, &stage.dir, backend.plain)?);
        }
        contenders.push(all);
    }
    let names: Vec<String> = contenders[0].iter().map(|contender| contender.name.clone()).collect();
    let rounds = args.rounds();
    println!("{rounds} rounds: {}\n", names.join(", "));
    let mut results = Results::new(names);
    let hops = if args.wants("hops") { Hop::ALL.as_slice() } else { &[] };
    let progress = Progress::new(rounds * hops.len() * results.names.len() + 2);
    for round in 1..=rounds {
        for hop in hops {
            for (index, contender) in contenders[usize::from(hop.to_tls)].iter().enumerate() {
                progress.step(&format!("round {round}, {}: {}", contender.name, hop.title()));
                stage.block_on(go(stage, *hop, (contender, index), &mut results))?;
            }
            results.goals(hop.title(), Measure::Cpu, CPU);
            results.goals(hop.title(), Measure::P99, LATENCY);
        }
    }
    if args.wants("many") {
        progress.step("many certificates");
        many::run(stage, backend, &mut results)?;
    }
    progress.end();
    Ok((results, versions(&contenders[0])))
}

/// One contender on one hop.
async fn go(
    stage: &Stage,
    hop: Hop,
    (contender, index): (&Contender, usize),
    results: &mut Results,
) -> Result<(), Failure> {
    let pace = stage.args.pace();
    let work = async {
        let running = Running::start(contender, &stage.tls, &stage.cpus).await?;
        let mut sheet = Sheet { results, work: hop.title(), index };
        if hop.http2 {
            let callers = work::http2(contender, &stage.tls).await?;
            measure(callers, H2_RATE, running.id(), pace, &mut sheet).await
        } else {
            let callers = work::http1(contender, Some(&stage.tls)).await?;
            measure(callers, RATE, running.id(), pace, &mut sheet).await
        }
    };
    match tokio::time::timeout(3 * (pace.flat_out + pace.paced) + SLACK, work).await {
        Ok(done) => done.map_err(|error| format!("{}, {}: {error}", contender.name, hop.title()).into()),
        Err(_) => Err(format!("{}, {}: it hangs", contender.name, hop.title()).into()),
    }
}
