//! How busy this pod is, for the autoscaler.
//!
//! Workers count requests into a shard of their own (data side; the shard's lock is contended only once a second, for
//! the time of a few additions). The control side closes a period each second, adds the shards up and replaces the
//! encoded message that `GET :9090/metrics` serves. Rules: the concurrency of a period is the time-weighted mean of
//! the requests in flight, waiting included, so a request that spans periods counts in each for its share; counts are
//! arrivals in the period; the message before the first period has only the pod's name.
//! Source: `knative.dev/networking/pkg/http/stats/request.go`, `knative.dev/serving/pkg/queue/protobuf_stats_reporter.go`.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tokio::time::MissedTickBehavior;

use crate::knative::stat::Stat;
use crate::worker::clock;

/// Length of a period; the autoscaler takes the counts as per second because it is one second.
pub const PERIOD: Duration = Duration::from_secs(1);

/// The statistics of one process.
#[derive(Debug)]
pub struct Statistics {
    pod_name: String,
    started: Instant,
    shards: Vec<Arc<Mutex<Shard>>>,
    published: Mutex<Published>,
}

#[derive(Debug)]
struct Published {
    period_started: Instant,
    message: Bytes,
}

impl Statistics {
    /// Statistics of `pod_name` with a shard for each of `workers`, started now.
    pub fn new(pod_name: impl Into<String>, workers: usize) -> Arc<Self> {
        Self::started_at(pod_name, workers, Instant::now())
    }

    /// As [`Statistics::new`], at a time of the caller's choice.
    pub fn started_at(pod_name: impl Into<String>, workers: usize, started: Instant) -> Arc<Self> {
        let pod_name = pod_name.into();
        let message = Stat { pod_name: pod_name.clone(), ..Stat::default() }.encode_to_vec().into();
        let shards = (0..workers.max(1)).map(|_| Arc::new(Mutex::new(Shard::new(started)))).collect();
        let published = Mutex::new(Published { period_started: started, message });
        Arc::new(Self { pod_name, started, shards, published })
    }

    /// The counter of worker `index`; an index out of range shares a shard, which is correct but may contend.
    pub fn worker(&self, index: usize) -> WorkerStats {
        let shard = self.shards.iter().cycle().nth(index % self.shards.len().max(1));
        WorkerStats { shard: shard.cloned().unwrap_or_else(|| Arc::new(Mutex::new(Shard::new(self.started)))) }
    }

    /// Closes a period each second, for ever. To be spawned on the control side.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + PERIOD, PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.close_period(Instant::now());
        }
    }

    /// Ends the running period at `now` and replaces the message.
    pub fn close_period(&self, now: Instant) {
        let total = self.shards.iter().fold(Period::default(), |total, shard| total + lock(shard).take_period(now));
        let mut published = lock(&self.published);
        let length = now.saturating_duration_since(published.period_started).as_secs_f64();
        let mean = |weighted: f64| if length > 0.0 { weighted / length } else { 0.0 };
        let stat = Stat {
            pod_name: self.pod_name.clone(),
            average_concurrent_requests: mean(total.weighted),
            average_proxied_concurrent_requests: mean(total.weighted_proxied),
            request_count: total.arrivals as f64 / PERIOD.as_secs_f64(),
            proxied_request_count: total.arrivals_proxied as f64 / PERIOD.as_secs_f64(),
            process_uptime: now.saturating_duration_since(self.started).as_secs_f64(),
            timestamp: 0,
        };
        published.period_started = now;
        published.message = stat.encode_to_vec().into();
    }

    /// The body of `GET :9090/metrics`: the last closed period.
    pub fn message(&self) -> Bytes {
        lock(&self.published).message.clone()
    }
}

/// The counter of one worker.
#[derive(Clone, Debug)]
pub struct WorkerStats {
    shard: Arc<Mutex<Shard>>,
}

impl WorkerStats {
    /// Counts a request that arrived at `now`; `proxied`: it came through the activator.
    ///
    /// The request is in flight until [`InFlight::end`], or until the guard is dropped.
    #[must_use]
    pub fn arrive(&self, now: Instant, proxied: bool) -> InFlight {
        lock(&self.shard).arrive(now, proxied);
        InFlight { shard: Some(self.shard.clone()), proxied }
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight {
    shard: Option<Arc<Mutex<Shard>>>,
    proxied: bool,
}

impl InFlight {
    /// Ends it at `now`; a drop ends it at the time of the drop.
    pub fn end(mut self, now: Instant) {
        self.leave(now);
    }

    fn leave(&mut self, now: Instant) {
        if let Some(shard) = self.shard.take() {
            lock(&shard).leave(now, self.proxied);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.shard.is_some() {
            self.leave(clock::now());
        }
    }
}

#[derive(Debug)]
struct Shard {
    in_flight: u32,
    in_flight_proxied: u32,
    last_change: Instant,
    period: Period,
}

/// What one period gathered; `weighted` is in request-seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    weighted: f64,
    weighted_proxied: f64,
    arrivals: u64,
    arrivals_proxied: u64,
}

impl std::ops::Add for Period {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weighted: self.weighted + other.weighted,
            weighted_proxied: self.weighted_proxied + other.weighted_proxied,
            arrivals: self.arrivals + other.arrivals,
            arrivals_proxied: self.arrivals_proxied + other.arrivals_proxied,
        }
    }
}

impl Shard {
    fn new(now: Instant) -> Self {
        Self { in_flight: 0, in_flight_proxied: 0, last_change: now, period: Period::default() }
    }

    /// Weighs the time since the last change. A worker's clock reading may be older than that change by the time it
    /// holds the lock; such a step back counts as no time, as in Go.
    fn weigh(&mut self, now: Instant) {
        if let Some(elapsed) = now.checked_duration_since(self.last_change) {
            let seconds = elapsed.as_secs_f64();
            self.period.weighted += f64::from(self.in_flight) * seconds;
            self.period.weighted_proxied += f64::from(self.in_flight_proxied) * seconds;
            self.last_change = now;
        }
    }

    fn arrive(&mut self, now: Instant, proxied: bool) {
        self.weigh(now);
        self.in_flight += 1;
        self.period.arrivals += 1;
        if proxied {
            self.in_flight_proxied += 1;
            self.period.arrivals_proxied += 1;
        }
    }

    fn leave(&mut self, now: Instant, proxied: bool) {
        self.weigh(now);
        self.in_flight = self.in_flight.saturating_sub(1);
        if proxied {
            self.in_flight_proxied = self.in_flight_proxied.saturating_sub(1);
        }
    }

    fn take_period(&mut self, now: Instant) -> Period {
        self.weigh(now);
        std::mem::take(&mut self.period)
    }
}

/// Numbers stay consistent whatever panicked elsewhere, so a poisoned lock is used as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(statistics: &Statistics) -> Stat {
        Stat::decode(statistics.message()).unwrap()
    }

    fn at(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    /// Contract 8.1: the example, byte by byte.
    #[test]
    fn given_no_request_then_the_message_is_the_name_and_later_the_uptime() {
        let start = Instant::now();
        let statistics = Statistics::started_at("hello-00001-deployment-0", 2, start);
        assert_eq!(statistics.message(), Bytes::from_static(b"\x0a\x18hello-00001-deployment-0"));
        statistics.close_period(at(start, 1000));
        assert_eq!(
            statistics.message(),
            Bytes::from_static(b"\x0a\x18hello-00001-deployment-0\x31\x00\x00\x00\x00\x00\x00\xf0\x3f")
        );
    }

    #[test]
    fn given_a_request_that_spans_periods_then_each_has_its_share_and_only_the_first_its_arrival() {
        let start = Instant::now();
        let statistics = Statistics::started_at("pod", 1, start);
        let request = statistics.worker(0).arrive(at(start, 750), true);
        statistics.close_period(at(start, 1000));
        let first = read(&statistics);
        assert!(close(first.average_concurrent_requests, 0.25));
        assert!(close(first.average_proxied_concurrent_requests, 0.25));
        assert!(close(first.request_count, 1.0) && close(first.proxied_request_count, 1.0));

        statistics.close_period(at(start, 2000));
        let second = read(&statistics);
        assert!(close(second.average_concurrent_requests, 1.0) && close(second.request_count, 0.0));

        request.end(at(start, 2500));
        statistics.close_period(at(start, 3000));
        let third = read(&statistics);
        assert!(close(third.average_concurrent_requests, 0.5) && close(third.process_uptime, 3.0));
        statistics.close_period(at(start, 4000));
        assert!(close(read(&statistics).average_concurrent_requests, 0.0));
    }

    /// Contract 8.1: three held requests, one of them proxied.
    #[test]
    fn given_requests_on_several_workers_then_they_add_up() {
        let start = Instant::now();
        let statistics = Statistics::started_at("pod", 3, start);
        let held: Vec<_> = (0..3).map(|i| statistics.worker(i).arrive(start, i == 1)).collect();
        // A late period: the mean is over its true length.
        statistics.close_period(at(start, 1250));
        let stat = read(&statistics);
        assert!(close(stat.average_concurrent_requests, 3.0));
        assert!(close(stat.average_proxied_concurrent_requests, 1.0));
        assert!(close(stat.request_count, 3.0) && close(stat.proxied_request_count, 1.0));
        drop(held);
    }

    #[test]
    fn given_an_event_older_than_the_end_of_the_period_then_no_time_is_counted_twice() {
        let start = Instant::now();
        let statistics = Statistics::started_at("pod", 1, start);
        let worker = statistics.worker(0);
        let request = worker.arrive(start, false);
        statistics.close_period(at(start, 1000));
        request.end(at(start, 999));
        statistics.close_period(at(start, 2000));
        assert!(close(read(&statistics).average_concurrent_requests, 0.0));
    }

    #[test]
    fn given_a_dropped_guard_then_the_request_is_over() {
        let start = Instant::now();
        let statistics = Statistics::started_at("pod", 1, start);
        drop(statistics.worker(0).arrive(start, true));
        statistics.close_period(at(start, 600_000));
        statistics.close_period(at(start, 601_000));
        assert!(close(read(&statistics).average_concurrent_requests, 0.0));
    }

    /// The autoscaler reads at most 336 bytes; names of pods have at most 253.
    #[test]
    fn given_the_longest_pod_name_and_every_field_then_the_message_fits() {
        let start = Instant::now();
        let statistics = Statistics::started_at("p".repeat(253), 1, start);
        let held = statistics.worker(0).arrive(start, true);
        statistics.close_period(at(start, 1000));
        assert!(statistics.message().len() <= 336);
        drop(held);
    }
}
