//! The task that probes: it follows the schedule and hands what it finds to the throttles.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinSet};

use super::super::throttle::{Command, Outcome, Wanted, WeakRevision};
use super::attempt::attempt;
use super::schedule::{AttemptId, Do, Key, Limits, Schedule};

/// How the prober behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `PROBE_TIMEOUT`: how long a probe may take before another one follows it; six times what connecting took, if
    /// that is longer. Default: 300 ms.
    pub limit: Duration,
    /// `PROBE_FREQUENCY`: the longest pause between probes while no request waits. Default: 200 ms.
    pub frequency: Duration,
    /// Probes at once, over all revisions. Default: 1,024.
    pub attempts: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: Duration::from_millis(300), frequency: Duration::from_millis(200), attempts: 1024 }
    }
}

/// What the prober has done, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Probes that were begun.
    pub started: AtomicU64,
    /// Probes that passed.
    pub passed: AtomicU64,
    /// Probes that took longer than their limit.
    pub late: AtomicU64,
    /// Addresses that are being probed now.
    pub probing: AtomicU64,
}

/// How long a probe's connection is kept for a request that was waiting for it.
const PARKED: Duration = Duration::from_secs(5);

/// Probes that are begun before those that run are looked at: of many pods, the first are usable soon.
const BATCH: usize = 32;

/// Starts the prober on a thread of its own. It ends when the last sender is dropped.
///
/// # Errors
/// The thread or its runtime could not be made.
pub fn start(settings: Settings) -> io::Result<(UnboundedSender<Command>, Arc<Counters>)> {
    let (send, commands) = unbounded_channel();
    let counters = Arc::new(Counters::default());
    let counted = counters.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new()
        .name("prober".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || runtime.block_on(run(settings, commands, counted)))?;
    Ok((send, counters))
}

/// Probes what it is told to, until the last sender is dropped.
pub async fn run(settings: Settings, mut commands: UnboundedReceiver<Command>, counters: Arc<Counters>) {
    let Settings { limit, frequency, attempts } = settings;
    let mut prober = Prober {
        schedule: Schedule::new(Limits { limit, frequency, attempts }),
        targets: HashMap::new(),
        revisions: HashMap::new(),
        attempts: JoinSet::new(),
        running: HashMap::new(),
        connected: unbounded_channel(),
        parked: Vec::new(),
        counters,
    };
    loop {
        // What has come in is looked at before time is, so that a busy machine does not make answers late.
        tokio::task::yield_now().await;
        while let Some(done) = prober.attempts.try_join_next() {
            if let Ok(done) = done {
                prober.done(done);
            }
        }
        while let Ok((key, attempt, took)) = prober.connected.1.try_recv() {
            prober.schedule.connected(key, attempt, took);
        }
        if prober.act() == BATCH {
            continue;
        }
        let wake_at = prober.wake_at();
        let wake = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(done) = prober.attempts.join_next() => if let Ok(done) = done { prober.done(done) },
            command = commands.recv() => match command {
                Some(command) => prober.obey(&command),
                None => return,
            },
            Some((key, attempt, took)) = prober.connected.1.recv() => prober.schedule.connected(key, attempt, took),
            () = wake => {}
        }
    }
}

/// The end of a probe.
struct Done {
    key: Key,
    attempt: AttemptId,
    outcome: Outcome,
    connection: Option<TcpStream>,
}

type Connected = (Key, AttemptId, Duration);

struct Prober {
    schedule: Schedule,
    targets: HashMap<Key, SocketAddr>,
    /// The revisions of these, with the number of each one's.
    revisions: HashMap<u64, (WeakRevision, usize)>,
    attempts: JoinSet<Done>,
    running: HashMap<AttemptId, AbortHandle>,
    connected: (UnboundedSender<Connected>, UnboundedReceiver<Connected>),
    /// Revisions to which a connection was handed, and when.
    parked: Vec<(Instant, WeakRevision)>,
    counters: Arc<Counters>,
}

impl Prober {
    fn wake_at(&self) -> Option<Instant> {
        let parked = self.parked.first().map(|(since, _)| *since + PARKED);
        self.schedule.wake_at().into_iter().chain(parked).min()
    }

    fn obey(&mut self, Command { revision, wanted }: &Command) {
        let (now, key) = (Instant::now(), |probe| Key { revision: revision.id(), probe });
        match *wanted {
            Wanted::Probe { key: probe, address, pace } => {
                let key = key(probe);
                if self.targets.insert(key, address).is_none() {
                    self.revisions.entry(key.revision).or_insert_with(|| (revision.downgrade(), 0)).1 += 1;
                }
                self.schedule.want(key, pace, now);
            }
            Wanted::Stop { key: probe } => self.stop(key(probe)),
            Wanted::Hurry => self.schedule.hurry(revision.id(), now),
        }
    }

    fn stop(&mut self, key: Key) {
        for attempt in self.schedule.stop(key) {
            self.abandon(attempt);
        }
        if self.targets.remove(&key).is_some()
            && let Some((_, count)) = self.revisions.get_mut(&key.revision)
        {
            *count -= 1;
            if *count == 0 {
                self.revisions.remove(&key.revision);
            }
        }
    }

    fn abandon(&mut self, attempt: AttemptId) {
        if let Some(running) = self.running.remove(&attempt) {
            running.abort();
        }
    }

    fn done(&mut self, Done { key, attempt, outcome, connection }: Done) {
        self.running.remove(&attempt);
        let Some(revision) = self.revisions.get(&key.revision).and_then(|(revision, _)| revision.upgrade()) else {
            return self.stop(key);
        };
        if outcome == Outcome::Passed {
            self.counters.passed.fetch_add(1, Ordering::Relaxed);
            if connection.is_some() {
                self.parked.push((Instant::now(), revision.downgrade()));
            }
            // First the requests, then the books.
            revision.probed(key.probe, outcome, connection);
            self.stop(key);
        } else {
            let (answered, now) = (outcome == Outcome::Answered, Instant::now());
            self.schedule.failed(key, attempt, answered, revision.is_waited_for(), now);
            revision.probed(key.probe, outcome, None);
        }
    }

    /// Does what is due, up to a batch; says how much it was.
    fn act(&mut self) -> usize {
        let now = Instant::now();
        while let Some((since, _)) = self.parked.first()
            && *since + PARKED <= now
        {
            if let Some(revision) = self.parked.remove(0).1.upgrade() {
                revision.drop_parked();
            }
        }
        let revisions = &self.revisions;
        let upgrade = |id: u64| revisions.get(&id).and_then(|(revision, _)| revision.upgrade());
        let mut gone = Vec::new();
        let is_waited_for = |id| upgrade(id).is_some_and(|revision| revision.is_waited_for());
        let mut count = 0;
        while count < BATCH
            && let Some(todo) = self.schedule.next(now, is_waited_for)
        {
            count += 1;
            match todo {
                Do::Start { key, attempt: id } => {
                    let Some((revision, address)) = upgrade(key.revision).zip(self.targets.get(&key).copied()) else {
                        gone.push(key);
                        continue;
                    };
                    self.counters.started.fetch_add(1, Ordering::Relaxed);
                    let host = revision.probe_host().map(str::to_owned);
                    let connected = self.connected.0.clone();
                    let handle = self.attempts.spawn(async move {
                        let told = |took| {
                            let _ = connected.send((key, id, took));
                        };
                        let (outcome, connection) = attempt(address, host, told).await;
                        Done { key, attempt: id, outcome, connection }
                    });
                    self.running.insert(id, handle);
                }
                Do::Late { key } => {
                    self.counters.late.fetch_add(1, Ordering::Relaxed);
                    if let Some(revision) = upgrade(key.revision) {
                        revision.probed(key.probe, Outcome::Silent, None);
                    }
                }
                Do::Abandon { attempt } => {
                    if let Some(running) = self.running.remove(&attempt) {
                        running.abort();
                    }
                }
            }
        }
        for key in gone {
            self.stop(key);
        }
        self.counters.probing.store(self.schedule.len() as u64, Ordering::Relaxed);
        count
    }
}
