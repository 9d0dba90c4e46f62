//! A warm hop: requests go through at once, beside the queue on the same work.

use std::net::Ipv4Addr;

use crate::app::App;
use crate::client::{Ask, REVISION, Tls};
use crate::contender::{self, Contender, Running};
use crate::drive::{Sheet, measure};
use crate::results::Results;
use crate::work::{self, H2_RATE, RATE, SLACK};
use crate::{Failure, Stage};

use super::QUEUE;
use super::cluster::Cluster;
use super::pods;

/// The address of the pod of all warm requests, which is always there.
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(127, 70, 0, 1);

/// What the hop speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Plain,
    Tls,
    H2,
}

impl Hop {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::H2];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plain => "warm: HTTP/1.1 in plaintext",
            Self::Tls => "warm: HTTP/1.1 over TLS, to the pod too",
            Self::H2 => "warm: HTTP/2 over TLS, to the pod too",
        }
    }
}

/// Starts the pod.
pub(crate) fn pods(tls: &Tls) -> Result<(), Failure> {
    App::listen((POD, pods::PLAIN).into(), None)?;
    App::listen((POD, pods::TLS).into(), Some(tls.acceptor()?))?;
    Ok(())
}

/// One contender on one hop. The queue's own upstream, the application beside it, is in plaintext always.
pub(crate) async fn run(stage: &Stage, hop: Hop, index: usize, results: &mut Results) -> Result<(), Failure> {
    let pace = stage.args.pace();
    let cluster = Cluster::new((hop != Hop::Plain).then_some(&stage.tls));
    cluster.create(REVISION, |revision| if hop == Hop::H2 { revision.h2c() } else { revision });
    cluster.pods_on(REVISION, &[&POD.to_string()], if hop == Hop::H2 { "http2" } else { "http" });
    let contender: Contender = if index == QUEUE {
        // One application for both: what it costs to answer is the same.
        let app = App::start()?;
        let queue = contender::queue("queue".to_owned(), stage.command("queue")?, &stage.dir, app.port())?;
        Contender { ask: Ask::Revision, ..queue }
    } else {
        cluster.activator(stage, &[])?
    };
    let work = async {
        let running = Running::start(&contender, &stage.tls, &stage.cpus).await?;
        let mut sheet = Sheet { results, work: hop.title(), index };
        match hop {
            Hop::Plain => measure(work::http1(&contender, None).await?, RATE, running.id(), pace, &mut sheet).await,
            Hop::Tls => {
                let callers = work::http1(&contender, Some(&stage.tls)).await?;
                measure(callers, RATE, running.id(), pace, &mut sheet).await
            }
            Hop::H2 => {
                let callers = work::http2(&contender, &stage.tls).await?;
                measure(callers, H2_RATE, running.id(), pace, &mut sheet).await
            }
        }
    };
    match tokio::time::timeout(3 * (pace.flat_out + pace.paced) + SLACK, work).await {
        Ok(done) => done.map_err(|error| format!("{}, {}: {error}", contender.name, hop.title()).into()),
        Err(_) => Err(format!("{}, {}: it hangs", contender.name, hop.title()).into()),
    }
}
