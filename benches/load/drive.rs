//! How proxies are driven, and what is taken down meanwhile.
//!
//! *Flat out*: each connection sends its next request when the last was answered; gives CPU time and rate. *Paced*: at
//! a fixed rate, well below what any of them can do; gives latency, counted from the moment at which a request was due,
//! so that one slow answer is not hidden by the requests that had to wait for it.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Ask, H1, H2, Tls};
use crate::histogram::Histogram;
use crate::process::CpuTime;
use crate::results::{Measure, Results};
use crate::{Failure, Pace};

/// Handshakes under way.
const HANDSHAKES: usize = 8;
/// What is not measured at the beginning.
const WARM_UP: Duration = Duration::from_millis(150);

/// Where figures go: the work and the contender's place in the results.
pub(crate) struct Sheet<'a> {
    pub(crate) results: &'a mut Results,
    pub(crate) work: &'static str,
    pub(crate) index: usize,
}

impl Sheet<'_> {
    pub(crate) fn put(&mut self, measure: Measure, value: f64) {
        self.results.put(self.work, measure, self.index, value);
    }
}

/// Something that can be done again and again on one connection.
pub(crate) trait Call: Sized + 'static {
    async fn call(&mut self) -> io::Result<()>;
}

/// The request of a role, over HTTP/1.1.
pub(crate) struct Get(pub(crate) H1, pub(crate) Ask);

impl Call for Get {
    async fn call(&mut self) -> io::Result<()> {
        self.0.fetch(self.1.http1()).await.map(drop)
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

/// CPU time and rate of process `pid`; the callers that are left.
pub(crate) async fn measure_flat_out<C: Call>(
    callers: Vec<C>,
    pid: u32,
    pace: Pace,
    sheet: &mut Sheet<'_>,
) -> Result<Vec<C>, Failure> {
    let warm = flat_out(callers, WARM_UP).await;
    sheet.results.failed(sheet.index, &warm.failed);
    let (before, begun) = (CpuTime::of(pid), Instant::now());
    let done = flat_out(warm.callers, pace.flat_out).await;
    let (elapsed, used) = (begun.elapsed(), CpuTime::of(pid).since(&before));
    sheet.results.failed(sheet.index, &done.failed);
    if done.answered == 0 {
        return Err("no request was answered".into());
    }
    let count = done.answered as f64;
    sheet.put(Measure::Cpu, used.as_secs_f64() * 1e6 / count);
    sheet.put(Measure::Rate, count / elapsed.as_secs_f64());
    Ok(done.callers)
}

/// The same, and then latency at `rate` requests a second.
pub(crate) async fn measure<C: Call>(
    callers: Vec<C>,
    rate: f64,
    pid: u32,
    pace: Pace,
    sheet: &mut Sheet<'_>,
) -> Result<(), Failure> {
    let callers = measure_flat_out(callers, pid, pace, sheet).await?;
    let done = paced(callers, rate, pace.paced).await;
    sheet.results.failed(sheet.index, &done.failed);
    sheet.results.latencies(sheet.work, sheet.index, &done.latencies);
    Ok(())
}

/// `count` connections to `port`, a few at a time, each with one request; CPU time of each and its latency.
pub(crate) async fn measure_handshakes(
    (tls, port, ask): (&Tls, u16, Ask),
    count: usize,
    name: impl Fn(usize) -> Option<String>,
    pid: u32,
    sheet: &mut Sheet<'_>,
) -> Result<(), Failure> {
    let left = std::cell::Cell::new(count);
    let one = async || {
        let mut latencies = Histogram::new();
        while left.get() > 0 {
            left.set(left.get() - 1);
            let name = name(left.get());
            let begun = Instant::now();
            match name {
                None => drop(H1::open(port, Some(tls)).await?.fetch(ask.http1()).await?),
                Some(host) => {
                    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n");
                    H1::open_as(port, tls, &host).await?.fetch(request.as_bytes()).await?;
                }
            }
            latencies.record(nanos(begun.elapsed()));
        }
        Ok::<_, io::Error>(latencies)
    };
    let before = CpuTime::of(pid);
    let mut latencies = Histogram::new();
    let all: [_; HANDSHAKES] = std::array::from_fn(|_| one());
    for done in join_all(all).await {
        latencies.add(&done?);
    }
    let used = CpuTime::of(pid).since(&before);
    sheet.put(Measure::Cpu, used.as_secs_f64() * 1e6 / latencies.len() as f64);
    sheet.results.latencies(sheet.work, sheet.index, &latencies);
    Ok(())
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
