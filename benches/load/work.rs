//! What the proxies are made to do, each work with a process of its own.
//!
//! *Flat out*: each connection sends its next request when the last was answered; gives CPU time and rate. *Paced*: at
//! a fixed rate, well below what any of them can do; gives latency, counted from the moment at which a request was due,
//! so that one slow answer is not hidden by the requests that had to wait for it.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{GET, GET_BIG, H1, H2, Tls};
use crate::contender::{Contender, Running};
use crate::histogram::Histogram;
use crate::process::{CpuTime, Cpus, memory_kib};
use crate::results::{Measure, Results};
use crate::{Failure, Pace};

/// Connections with small requests, as many as requests are under way.
const CONNECTIONS: usize = 64;
/// Connections of HTTP/2, and streams on each.
const H2_CONNECTIONS: usize = 8;
const H2_STREAMS: usize = 16;
/// Connections with large bodies.
const LARGE: usize = 4;
/// Handshakes under way.
const HANDSHAKES: usize = 8;
/// Requests a second when paced.
const RATE: f64 = 2000.0;
const H2_RATE: f64 = 1000.0;
/// What is not measured at the beginning.
const WARM_UP: Duration = Duration::from_millis(150);
/// A work that takes so much longer than it should hangs.
const SLACK: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Something that can be done again and again on one connection.
trait Call: Sized + 'static {
    async fn call(&mut self) -> io::Result<()>;
}

struct Get(H1);
struct GetBig(H1);
struct Post(H1, std::rc::Rc<[u8]>);

impl Call for Get {
    async fn call(&mut self) -> io::Result<()> {
        self.0.fetch(GET).await
    }
}

impl Call for GetBig {
    async fn call(&mut self) -> io::Result<()> {
        self.0.fetch(GET_BIG).await
    }
}

impl Call for Post {
    async fn call(&mut self) -> io::Result<()> {
        self.0.upload(&self.1).await
    }
}

impl Call for H2 {
    async fn call(&mut self) -> io::Result<()> {
        self.fetch().await
    }
}

/// What came of some calls.
struct Done<C> {
    /// Those whose connections still work.
    callers: Vec<C>,
    answered: u64,
    latencies: Histogram,
    failed: Vec<io::Error>,
}

impl<C> Done<C> {
    fn nothing() -> Self {
        Self { callers: Vec::new(), answered: 0, latencies: Histogram::new(), failed: Vec::new() }
    }

    fn add(&mut self, other: Self) {
        self.callers.extend(other.callers);
        self.answered += other.answered;
        self.latencies.add(&other.latencies);
        self.failed.extend(other.failed);
    }
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
        let running = Running::start(self.contender, self.tls, self.cpus).await?;
        if !running.tls && work != Work::Plain {
            results.note(index, "no TLS port");
            return Ok(());
        }
        let ports = self.contender.ports;
        let mut put = |measure, value| results.put(work, measure, index, value);
        match work {
            Work::Start => {
                put(Measure::Start, running.started_in.as_secs_f64() * 1e3);
                tokio::time::sleep(self.pace.rest).await;
                put(Measure::IdleMemory, memory_kib(running.id()) / 1024.0);
            }
            Work::Plain | Work::Tls => {
                let tls = (work == Work::Tls).then_some(self.tls);
                let port = if tls.is_some() { ports.tls } else { ports.plain };
                let mut callers = Vec::new();
                for _ in 0..CONNECTIONS {
                    callers.push(Get(H1::open(port, tls).await?));
                }
                self.flat_out_and_paced(work, callers, RATE, &running, index, results).await?;
                if work == Work::Tls {
                    results.put(work, Measure::LoadedMemory, index, memory_kib(running.id()) / 1024.0);
                }
            }
            Work::H2 => {
                let mut callers = Vec::new();
                for _ in 0..H2_CONNECTIONS {
                    let connection = H2::open(ports.h2.unwrap_or(ports.tls), self.tls).await?;
                    callers.extend(std::iter::repeat_n(connection, H2_STREAMS));
                }
                self.flat_out_and_paced(work, callers, H2_RATE, &running, index, results).await?;
            }
            Work::Handshakes => self.handshakes(&running, index, results).await?,
            Work::Down => {
                let callers = self.large().await?.into_iter().map(GetBig).collect();
                self.flat_out(work, callers, &running, index, results).await?;
            }
            Work::Up => {
                let piece: std::rc::Rc<[u8]> = vec![b'x'; 64 * 1024].into();
                let callers = self.large().await?.into_iter().map(|h1| Post(h1, piece.clone())).collect();
                self.flat_out(work, callers, &running, index, results).await?;
            }
            Work::Idle => {
                // What is touched by the first connection only is not counted.
                for _ in 0..16 {
                    H1::open(ports.tls, Some(self.tls)).await?.fetch(GET).await?;
                }
                tokio::time::sleep(self.pace.rest).await;
                let before = memory_kib(running.id());
                let mut open = Vec::with_capacity(self.pace.idle);
                for _ in 0..self.pace.idle {
                    let mut connection = H1::open(ports.tls, Some(self.tls)).await?;
                    connection.fetch(GET).await?;
                    open.push(connection);
                }
                tokio::time::sleep(self.pace.rest).await;
                let grown = memory_kib(running.id()) - before;
                put(Measure::ConnectionMemory, grown / self.pace.idle as f64);
            }
        }
        Ok(())
    }

    async fn large(&self) -> io::Result<Vec<H1>> {
        let mut open = Vec::new();
        for _ in 0..LARGE {
            open.push(H1::open(self.contender.ports.tls, Some(self.tls)).await?);
        }
        Ok(open)
    }

    /// CPU time and rate; the callers that are left.
    async fn flat_out<C: Call>(
        &self,
        work: Work,
        callers: Vec<C>,
        running: &Running,
        index: usize,
        results: &mut Results,
    ) -> Result<Vec<C>, Failure> {
        let warm = flat_out(callers, WARM_UP).await;
        results.failed(index, &warm.failed);
        let (before, begun) = (CpuTime::of(running.id()), Instant::now());
        let done = flat_out(warm.callers, self.pace.flat_out).await;
        let (elapsed, used) = (begun.elapsed(), CpuTime::of(running.id()).since(&before));
        results.failed(index, &done.failed);
        if done.answered == 0 {
            return Err("no request was answered".into());
        }
        let count = done.answered as f64;
        results.put(work, Measure::Cpu, index, used.as_secs_f64() * 1e6 / count);
        results.put(work, Measure::Rate, index, count / elapsed.as_secs_f64());
        Ok(done.callers)
    }

    async fn flat_out_and_paced<C: Call>(
        &self,
        work: Work,
        callers: Vec<C>,
        rate: f64,
        running: &Running,
        index: usize,
        results: &mut Results,
    ) -> Result<(), Failure> {
        let callers = self.flat_out(work, callers, running, index, results).await?;
        let done = paced(callers, rate, self.pace.paced).await;
        results.failed(index, &done.failed);
        results.latencies(work, index, &done.latencies);
        Ok(())
    }

    async fn handshakes(&self, running: &Running, index: usize, results: &mut Results) -> Result<(), Failure> {
        let (tls, port) = (self.tls, self.contender.ports.tls);
        let left = std::cell::Cell::new(self.pace.handshakes);
        let one = async || {
            let mut latencies = Histogram::new();
            while left.get() > 0 {
                left.set(left.get() - 1);
                let begun = Instant::now();
                H1::open(port, Some(tls)).await?.fetch(GET).await?;
                latencies.record(nanos(begun.elapsed()));
            }
            Ok::<_, io::Error>(latencies)
        };
        let before = CpuTime::of(running.id());
        let mut latencies = Histogram::new();
        let all: [_; HANDSHAKES] = std::array::from_fn(|_| one());
        for done in join_all(all).await {
            latencies.add(&done?);
        }
        let used = CpuTime::of(running.id()).since(&before);
        results.put(Work::Handshakes, Measure::Cpu, index, used.as_secs_f64() * 1e6 / latencies.len() as f64);
        results.latencies(Work::Handshakes, index, &latencies);
        Ok(())
    }
}

/// Runs futures to their ends, on this task.
async fn join_all<F: Future, const N: usize>(futures: [F; N]) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    futures.into_iter().filter_map(|(_, output)| output).collect()
}

async fn flat_out<C: Call>(callers: Vec<C>, time: Duration) -> Done<C> {
    let until = Instant::now() + time;
    together(callers, |_, mut caller| async move {
        let mut done = Done::nothing();
        while Instant::now() < until {
            if let Err(error) = caller.call().await {
                done.failed.push(error);
                return done;
            }
            done.answered += 1;
        }
        done.callers.push(caller);
        done
    })
    .await
}

async fn paced<C: Call>(callers: Vec<C>, rate: f64, time: Duration) -> Done<C> {
    let count = callers.len().max(1);
    let every = Duration::from_secs_f64(count as f64 / rate);
    let begun = Instant::now() + Duration::from_millis(5);
    together(callers, move |index, mut caller| async move {
        let mut done = Done::nothing();
        let mut due = begun + every.mul_f64(index as f64 / count as f64);
        while due < begun + time {
            let mut from = due;
            if Instant::now() < due {
                tokio::time::sleep_until(due).await;
                // The timer's own lateness, up to a millisecond, is not the proxy's.
                from = Instant::now();
            }
            if let Err(error) = caller.call().await {
                done.failed.push(error);
                return done;
            }
            done.latencies.record(nanos(from.elapsed()));
            done.answered += 1;
            due += every;
        }
        done.callers.push(caller);
        done
    })
    .await
}

async fn together<C: Call, F: Future<Output = Done<C>> + 'static>(
    callers: Vec<C>,
    each: impl Fn(usize, C) -> F,
) -> Done<C> {
    let mut tasks = JoinSet::new();
    for (index, caller) in callers.into_iter().enumerate() {
        tasks.spawn_local(each(index, caller));
    }
    let mut all = Done::nothing();
    while let Some(done) = tasks.join_next().await {
        all.add(done.unwrap());
    }
    all
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
