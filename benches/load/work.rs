//! What the queue and its peers are made to do, each work with a process of its own.

use std::io;
use std::time::Duration;

use crate::client::{GET_BIG, H1, H2, Tls};
use crate::contender::{Contender, Running};
use crate::drive::{Call, Get, Sheet, measure, measure_flat_out, measure_handshakes};
use crate::process::{Cpus, memory_kib};
use crate::results::{Measure, Results};
use crate::{Failure, Pace};

/// Connections with small requests, as many as requests are under way.
pub(crate) const CONNECTIONS: usize = 64;
/// Connections of HTTP/2, and streams on each.
pub(crate) const H2_CONNECTIONS: usize = 8;
pub(crate) const H2_STREAMS: usize = 16;
/// Connections with large bodies.
const LARGE: usize = 4;
/// Requests a second when paced.
pub(crate) const RATE: f64 = 2000.0;
pub(crate) const H2_RATE: f64 = 1000.0;
/// A work that takes so much longer than it should hangs.
pub(crate) const SLACK: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Start,
    Plain,
    Tls,
    H2,
    Handshakes,
    Down,
    Up,
    Idle,
}

impl Work {
    pub(crate) const ALL: [Self; 8] =
        [Self::Start, Self::Plain, Self::Tls, Self::H2, Self::Handshakes, Self::Down, Self::Up, Self::Idle];

    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::H2 => "h2",
            Self::Handshakes => "handshakes",
            Self::Down => "down",
            Self::Up => "up",
            Self::Idle => "idle",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Start => "started, nothing to do",
            Self::Plain => "HTTP/1.1 in plaintext",
            Self::Tls => "HTTP/1.1 over TLS",
            Self::H2 => "HTTP/2 over TLS to h2c",
            Self::Handshakes => "full handshake and a request",
            Self::Down => "10 MiB to the caller over TLS",
            Self::Up => "10 MiB from the caller over TLS",
            Self::Idle => "1,000 idle TLS connections",
        }
    }
}

/// One proxy to be put to work.
pub(crate) struct Bench<'a> {
    pub(crate) contender: &'a Contender,
    pub(crate) tls: &'a Tls,
    pub(crate) cpus: &'a Cpus,
    pub(crate) pace: Pace,
}

struct GetBig(H1);
struct Post(H1, std::rc::Rc<[u8]>);

impl Call for GetBig {
    async fn call(&mut self) -> io::Result<()> {
        self.0.fetch(GET_BIG).await.map(drop)
    }
}

impl Call for Post {
    async fn call(&mut self) -> io::Result<()> {
        self.0.upload(&self.1).await.map(drop)
    }
}

/// Callers over HTTP/1.1; in plaintext without `tls`.
pub(crate) async fn http1(contender: &Contender, tls: Option<&Tls>) -> io::Result<Vec<Get>> {
    let port = if tls.is_some() { contender.ports.tls } else { contender.ports.plain };
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        callers.push(Get(H1::open(port, tls).await?, contender.ask));
    }
    Ok(callers)
}

/// Callers over HTTP/2.
pub(crate) async fn http2(contender: &Contender, tls: &Tls) -> io::Result<Vec<H2>> {
    let mut callers = Vec::new();
    for _ in 0..H2_CONNECTIONS {
        let port = contender.ports.h2.unwrap_or(contender.ports.tls);
        let connection = H2::open(port, Some(tls), contender.ask).await?;
        callers.extend(std::iter::repeat_n(connection, H2_STREAMS));
    }
    Ok(callers)
}

impl Bench<'_> {
    /// Starts the proxy, makes it work, takes the figures, ends it.
    pub(crate) async fn run(&self, work: Work, index: usize, results: &mut Results) -> Result<(), Failure> {
        if work == Work::H2 && self.contender.ports.h2.is_none() {
            return Ok(());
        }
        let most = 3 * (self.pace.flat_out + self.pace.paced) + SLACK;
        match tokio::time::timeout(most, self.work(work, index, results)).await {
            Ok(result) => result.map_err(|error| format!("{}, {}: {error}", self.contender.name, work.title()).into()),
            Err(_) => Err(format!("{}, {}: it hangs", self.contender.name, work.title()).into()),
        }
    }

    async fn work(&self, work: Work, index: usize, results: &mut Results) -> Result<(), Failure> {
        let (contender, tls, pace) = (self.contender, self.tls, self.pace);
        let running = Running::start(contender, tls, self.cpus).await?;
        if !running.tls && work != Work::Plain {
            results.note(index, "no TLS port");
            return Ok(());
        }
        let pid = running.id();
        let mut sheet = Sheet { results, work: work.title(), index };
        match work {
            Work::Start => {
                sheet.put(Measure::Start, running.started_in.as_secs_f64() * 1e3);
                tokio::time::sleep(pace.rest).await;
                sheet.put(Measure::IdleMemory, memory_kib(pid) / 1024.0);
            }
            Work::Plain => measure(http1(contender, None).await?, RATE, pid, pace, &mut sheet).await?,
            Work::Tls => {
                measure(http1(contender, Some(tls)).await?, RATE, pid, pace, &mut sheet).await?;
                sheet.put(Measure::LoadedMemory, memory_kib(pid) / 1024.0);
            }
            Work::H2 => measure(http2(contender, tls).await?, H2_RATE, pid, pace, &mut sheet).await?,
            Work::Handshakes => {
                let to = (tls, contender.ports.tls, contender.ask);
                measure_handshakes(to, pace.handshakes, |_| None, pid, &mut sheet).await?;
            }
            Work::Down => {
                let callers = self.large().await?.into_iter().map(GetBig).collect();
                measure_flat_out(callers, pid, pace, &mut sheet).await?;
            }
            Work::Up => {
                let piece: std::rc::Rc<[u8]> = vec![b'x'; 64 * 1024].into();
                let callers = self.large().await?.into_iter().map(|h1| Post(h1, piece.clone())).collect();
                measure_flat_out(callers, pid, pace, &mut sheet).await?;
            }
            Work::Idle => {
                // What is touched by the first connection only is not counted.
                for _ in 0..16 {
                    self.idle().await?;
                }
                tokio::time::sleep(pace.rest).await;
                let before = memory_kib(pid);
                let mut open = Vec::with_capacity(pace.idle);
                for _ in 0..pace.idle {
                    open.push(self.idle().await?);
                }
                tokio::time::sleep(pace.rest).await;
                let grown = memory_kib(pid) - before;
                sheet.put(Measure::ConnectionMemory, grown / pace.idle as f64);
            }
        }
        Ok(())
    }

    /// A connection that has done its work.
    async fn idle(&self) -> io::Result<H1> {
        let mut connection = H1::open(self.contender.ports.tls, Some(self.tls)).await?;
        connection.fetch(self.contender.ask.http1()).await?;
        Ok(connection)
    }

    async fn large(&self) -> io::Result<Vec<H1>> {
        let mut open = Vec::new();
        for _ in 0..LARGE {
            open.push(H1::open(self.contender.ports.tls, Some(self.tls)).await?);
        }
        Ok(open)
    }
}
