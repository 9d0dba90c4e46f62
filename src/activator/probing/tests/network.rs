//! A network in virtual time, in which the schedule's probes are carried out.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::super::super::throttle::{Pace, ProbeKey};
use super::super::schedule::{AttemptId, Do, Key, Limits, Schedule};

/// How an address behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    pub(super) round_trip: Duration,
    /// From when on it answers; before, it refuses, or swallows everything.
    pub(super) opens: Duration,
    pub(super) swallows: bool,
    /// How long it holds its answer.
    pub(super) holds: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Connected(Key, AttemptId, Duration),
    Ends(Key, AttemptId, bool),
}

pub(super) struct Network {
    pub(super) schedule: Schedule,
    start: Instant,
    now: Instant,
    pods: HashMap<Key, Behaviour>,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    /// Times since the start at which probes began, by address.
    pub(super) started: HashMap<Key, Vec<Duration>>,
    pub(super) passed: HashMap<Key, Duration>,
    pub(super) late: usize,
    pub(super) running: std::collections::HashSet<AttemptId>,
    pub(super) most_running: usize,
    pub(super) is_waited_for: bool,
}

pub(super) const LIMITS: Limits =
    Limits { limit: Duration::from_millis(300), frequency: Duration::from_millis(200), attempts: 1024 };

pub(super) fn key(revision: u64, pod: u32) -> Key {
    Key { revision, probe: ProbeKey::of(pod) }
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Network {
    pub(super) fn new(limits: Limits, is_waited_for: bool) -> Self {
        let now = Instant::now();
        Self {
            schedule: Schedule::new(limits),
            start: now,
            now,
            pods: HashMap::new(),
            events: BTreeMap::new(),
            count: 0,
            started: HashMap::new(),
            passed: HashMap::new(),
            late: 0,
            running: Default::default(),
            most_running: 0,
            is_waited_for,
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn want(&mut self, key: Key, pace: Pace, pod: Behaviour) {
        self.pods.insert(key, pod);
        self.schedule.want(key, pace, self.now);
    }

    pub(super) fn hurry(&mut self, revision: u64) {
        self.schedule.hurry(revision, self.now);
    }

    pub(super) fn stop(&mut self, key: Key) {
        for attempt in self.schedule.stop(key) {
            assert!(self.running.remove(&attempt));
        }
    }

    /// Lets time pass until `until` after the start.
    pub(super) fn run(&mut self, until: Duration) {
        loop {
            let waited = self.is_waited_for;
            while let Some(todo) = self.schedule.next(self.now, |_| waited) {
                match todo {
                    Do::Start { key, attempt } => self.begin(key, attempt),
                    Do::Late { .. } => self.late += 1,
                    Do::Abandon { attempt } => assert!(self.running.remove(&attempt), "it does not run"),
                }
            }
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let next = event.into_iter().chain(self.schedule.wake_at()).min();
            let Some(next) = next.filter(|next| *next <= self.start + until) else {
                self.now = self.start + until;
                return;
            };
            assert!(next >= self.now, "time runs backwards, or stands still");
            self.now = next;
            if event == Some(next) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happen(event);
            }
        }
    }

    fn begin(&mut self, key: Key, attempt: AttemptId) {
        let now = self.now();
        self.started.entry(key).or_default().push(now);
        assert!(self.running.insert(attempt));
        self.most_running = self.most_running.max(self.running.len());
        let Behaviour { round_trip, opens, swallows, holds } = self.pods[&key];
        let arrives = self.now + round_trip / 2;
        if arrives >= self.start + opens {
            self.at(self.now + round_trip, Event::Connected(key, attempt, round_trip));
            self.at(self.now + round_trip * 2 + holds, Event::Ends(key, attempt, true));
        } else if !swallows {
            self.at(self.now + round_trip, Event::Ends(key, attempt, false));
        }
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Connected(key, attempt, took) if self.running.contains(&attempt) => {
                self.schedule.connected(key, attempt, took);
            }
            Event::Ends(key, attempt, passed) if self.running.remove(&attempt) => {
                if passed {
                    self.passed.insert(key, self.now());
                    self.running.insert(attempt);
                    self.stop(key);
                } else {
                    self.schedule.failed(key, attempt, false, self.is_waited_for, self.now);
                }
            }
            _ => {}
        }
    }
}
