//! Which address is probed when: no I/O, no clock of its own.
//!
//! Rules: an address is probed at once, then after the pauses of `pace`. A probe that takes longer than its limit
//! counts as failed and another one starts, but it is not cut off: on a slow path its answer still comes, and a queue
//! that holds its answer until the application is ready gives it at that moment. The limit follows the time that
//! connecting took. The number of probes at once is bounded: late ones give way to new ones, and then revisions take
//! turns, so that unreachable pods of one do not hold up another.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::super::throttle::{Pace, ProbeKey};
use super::pace::{Situation, WAITED_FOR, aside};

/// An address of a revision, in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) revision: u64,
    pub(super) probe: ProbeKey,
}

/// One probe.
pub(super) type AttemptId = u64;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Do {
    /// Begin a probe.
    Start { key: Key, attempt: AttemptId },
    /// A probe has taken too long; it goes on, but the address counts as silent.
    Late { key: Key },
    /// Cut a probe off.
    Abandon { attempt: AttemptId },
}

/// Bounds of the schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a probe may take before it counts as failed, at least: `PROBE_TIMEOUT`.
    pub(super) limit: Duration,
    /// The longest pause while nobody waits: `PROBE_FREQUENCY`.
    pub(super) frequency: Duration,
    /// Probes at once.
    pub(super) attempts: usize,
}

/// The limit in round trips: one to connect, one to ask, and room for their spread.
const ROUND_TRIPS: u32 = 6;
/// How long after the start of a probe that is connected another one follows: its packets are not lost, so the answer
/// will come as soon on this connection as on another, and on a busy machine more probes only make it busier.
const CONNECTED: Duration = Duration::from_secs(2);
/// Probes of one address at once, late ones included.
const AT_ONCE: usize = 6;
/// When a late probe is given up.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Attempt {
    id: AttemptId,
    started: Instant,
    limit: Duration,
    connected: bool,
    late: bool,
}

impl Attempt {
    /// When this probe counts as late, or when it is given up.
    fn ends(&self) -> Instant {
        self.started + if self.late { LONGEST.max(self.limit * 2) } else { self.limit }
    }
}

#[derive(Debug)]
struct Entry {
    pace: Pace,
    /// How long a probe of it may take; follows the time that connecting took.
    limit: Duration,
    failures: u32,
    since: Instant,
    /// When the last probe started.
    last: Option<Instant>,
    /// When the next probe starts; `None` while one runs that is not late, or while this waits for its turn.
    next: Option<Instant>,
    attempts: SmallVec<[Attempt; 1]>,
    /// Where this stands in `due`.
    due: Option<Instant>,
    queued: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Schedule {
    limits: Limits,
    entries: HashMap<Key, Entry>,
    due: BTreeSet<(Instant, Key)>,
    /// Addresses whose probe is due and finds no room, by revision; and the revisions in turn.
    queues: HashMap<u64, VecDeque<Key>>,
    turns: VecDeque<u64>,
    /// Late probes, the oldest first; some may have ended.
    late: VecDeque<(Key, AttemptId)>,
    running: usize,
    attempts: AttemptId,
}

impl Schedule {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            due: BTreeSet::new(),
            queues: HashMap::new(),
            turns: VecDeque::new(),
            late: VecDeque::new(),
            running: 0,
            attempts: 0,
        }
    }

    /// When to ask for what is to be done, if nothing happens before.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Addresses that are being probed.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Begins to probe an address, or changes its pace.
    pub(super) fn want(&mut self, key: Key, pace: Pace, now: Instant) {
        let first = match pace {
            Pace::Usual | Pace::Fallback => now,
            Pace::Aside { strikes } => now + aside(strikes, 0),
        };
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.pace = pace;
            if pace == Pace::Usual {
                entry.failures = 0;
                entry.next = entry.next.map(|_| now);
            }
        } else {
            let entry = Entry {
                pace,
                limit: self.limits.limit,
                failures: 0,
                since: now,
                last: None,
                next: Some(first),
                attempts: SmallVec::new(),
                due: None,
                queued: false,
            };
            self.entries.insert(key, entry);
        }
        self.settle(key);
    }

    /// No longer probes an address; gives what is to be cut off.
    pub(super) fn stop(&mut self, key: Key) -> SmallVec<[AttemptId; 1]> {
        let Some(entry) = self.entries.remove(&key) else { return SmallVec::new() };
        if let Some(due) = entry.due {
            self.due.remove(&(due, key));
        }
        self.running -= entry.attempts.len();
        entry.attempts.into_iter().map(|attempt| attempt.id).collect()
    }

    /// A request has begun to wait: probe all addresses of its revision now, but those that were put aside, and those
    /// that were probed a moment ago.
    pub(super) fn hurry(&mut self, revision: u64, now: Instant) {
        let ours = |key: &Key| key.revision == revision;
        let keys: Vec<_> = self.entries.keys().filter(|key| ours(key)).copied().collect();
        for key in keys {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if !matches!(entry.pace, Pace::Aside { .. }) {
                let soon = entry.last.map_or(now, |last| now.max(last + WAITED_FOR));
                entry.next = entry.next.map(|next| next.min(soon));
            }
            self.settle(key);
        }
    }

    /// A probe is connected, after `took`.
    pub(super) fn connected(&mut self, key: Key, id: AttemptId, took: Duration) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.limit = entry.limit.max(took.saturating_mul(ROUND_TRIPS));
        if let Some(attempt) = entry.attempts.iter_mut().find(|attempt| attempt.id == id) {
            attempt.limit = entry.limit;
            attempt.connected = true;
        }
        self.settle(key);
    }

    /// A probe has failed; `answered`: something was there.
    pub(super) fn failed(&mut self, key: Key, id: AttemptId, answered: bool, is_waited_for: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let Some(at) = entry.attempts.iter().position(|attempt| attempt.id == id) else { return };
        let was_late = entry.attempts.remove(at).late;
        self.running -= 1;
        if !was_late {
            self.pause(key, answered, is_waited_for, now);
        }
        self.settle(key);
    }

    /// What is to be done now; ask until it is nothing. `is_waited_for` tells whether requests wait for a revision.
    pub(super) fn next(&mut self, now: Instant, is_waited_for: impl Fn(u64) -> bool) -> Option<Do> {
        if let Some(todo) = self.take_turn(now) {
            return Some(todo);
        }
        while let Some((at, key)) = self.due.first().copied() {
            if at > now {
                break;
            }
            let Some(entry) = self.entries.get_mut(&key) else {
                self.due.remove(&(at, key));
                continue;
            };
            let crowded = entry.attempts.len() >= AT_ONCE;
            if let Some(at) =
                entry.attempts.iter().position(|attempt| attempt.late && (crowded || attempt.ends() <= now))
            {
                let attempt = entry.attempts.remove(at).id;
                self.running -= 1;
                self.settle(key);
                return Some(Do::Abandon { attempt });
            }
            if let Some(fresh) = entry.attempts.iter_mut().find(|attempt| !attempt.late)
                && fresh.ends() <= now
            {
                fresh.late = true;
                let patient = fresh.connected.then_some(fresh.started + CONNECTED);
                self.late.push_back((key, fresh.id));
                self.forget_ended();
                self.pause(key, false, is_waited_for(key.revision), now);
                if let Some((entry, patient)) = self.entries.get_mut(&key).zip(patient) {
                    entry.next = entry.next.map(|next| next.max(patient));
                }
                self.settle(key);
                return Some(Do::Late { key });
            }
            if entry.next.is_some_and(|next| next <= now) {
                entry.next = None;
                entry.queued = true;
                let queue = self.queues.entry(key.revision).or_default();
                if queue.is_empty() {
                    self.turns.push_back(key.revision);
                }
                queue.push_back(key);
                self.settle(key);
                if let Some(todo) = self.take_turn(now) {
                    return Some(todo);
                }
                continue;
            }
            self.settle(key);
        }
        None
    }

    /// Starts the probe whose turn it is, if there is room for it or room can be made.
    fn take_turn(&mut self, now: Instant) -> Option<Do> {
        while let Some(revision) = self.turns.front().copied() {
            if self.running >= self.limits.attempts {
                let (key, id) = self.late.pop_front()?;
                let Some(entry) = self.entries.get_mut(&key) else { continue };
                let Some(at) = entry.attempts.iter().position(|attempt| attempt.id == id) else { continue };
                entry.attempts.remove(at);
                self.running -= 1;
                self.settle(key);
                return Some(Do::Abandon { attempt: id });
            }
            self.turns.pop_front();
            let Some(queue) = self.queues.get_mut(&revision) else { continue };
            let key = queue.pop_front();
            if queue.is_empty() {
                self.queues.remove(&revision);
            } else {
                self.turns.push_back(revision);
            }
            let Some((key, entry)) = key.and_then(|key| Some((key, self.entries.get_mut(&key)?))) else { continue };
            if !std::mem::take(&mut entry.queued) {
                continue;
            }
            entry.last = Some(now);
            self.attempts += 1;
            let attempt = self.attempts;
            entry.attempts.push(Attempt {
                id: attempt,
                started: now,
                limit: entry.limit,
                connected: false,
                late: false,
            });
            self.running += 1;
            self.settle(key);
            return Some(Do::Start { key, attempt });
        }
        None
    }

    /// Keeps the list of late probes about as long as there are any.
    fn forget_ended(&mut self) {
        if self.late.len() > 2 * self.running + 64 {
            let runs = |key: &Key, id: &AttemptId| {
                self.entries.get(key).is_some_and(|entry| entry.attempts.iter().any(|attempt| attempt.id == *id))
            };
            self.late.retain(|(key, id)| runs(key, id));
        }
    }

    /// Counts a failure and sets the time of the next probe.
    fn pause(&mut self, key: Key, answered: bool, is_waited_for: bool, now: Instant) {
        let (crowd, frequency) = (self.entries.len(), self.limits.frequency);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.failures = entry.failures.saturating_add(1);
        let (pace, failures, age) = (entry.pace, entry.failures, now.saturating_duration_since(entry.since));
        let situation = Situation { pace, failures, age, is_waited_for, answered, crowd, frequency };
        entry.next = Some(now + situation.pause());
    }

    /// Puts an address where it belongs in `due`.
    fn settle(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let due = entry.attempts.iter().map(Attempt::ends).chain(entry.next).min();
        if due != entry.due {
            if let Some(before) = std::mem::replace(&mut entry.due, due) {
                self.due.remove(&(before, key));
            }
            if let Some(due) = due {
                self.due.insert((due, key));
            }
        }
    }
}
