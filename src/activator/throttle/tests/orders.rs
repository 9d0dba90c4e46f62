//! 100,000 random orders of endpoint events, probe results, arrivals, ends, failures and departures.
//!
//! Each order has a seed of its own, which a failure prints; `LOCKKEEPER_SEED=<seed>` plays that order alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::super::*;
use super::model::{Model, Where};
use super::pod;

const ORDERS: u64 = 100_000;

#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The throttle, the model beside it, and what a handle would hold.
struct World {
    random: Random,
    throttle: Throttle,
    model: Model,
    /// Requests that run.
    slots: Vec<(SlotKey, Where)>,
    /// Granted, and not yet seen by their owners.
    unseen: Vec<(Ticket, SlotKey, Where)>,
    wakers: HashMap<Ticket, Arc<Woken>>,
    /// What the prober would be doing, and what it once did.
    probing: HashMap<ProbeKey, std::net::SocketAddr>,
    past: Vec<ProbeKey>,
    arrived: usize,
    ended: usize,
    /// What happened, if it is to be told.
    story: Option<String>,
}

impl World {
    fn new(seed: u64, told: bool) -> Self {
        let mut random = Random(seed);
        let policy = Policy {
            mesh: [MeshMode::Auto, MeshMode::Auto, MeshMode::Auto, MeshMode::Enabled, MeshMode::Disabled]
                [random.below(5)],
            pod_addressability: random.chance(6),
            choice: if random.chance(4) { Choice::Original } else { Choice::LeastLoaded },
            slicing: if random.chance(4) { Slicing::Original } else { Slicing::Rendezvous },
            borrow: !random.chance(3),
            queue_depth: 2 + random.below(6),
        };
        let concurrency = [0, 1, 1, 2, 3, 5][random.below(6)];
        let rules = Rules { policy: Arc::new(policy), concurrency, probe_optimisation: !random.chance(3) };
        Self {
            throttle: Throttle::new(rules.clone(), random.next()),
            story: told.then(|| format!("{rules:?}\n")),
            model: Model::new(rules),
            random,
            slots: Vec::new(),
            unseen: Vec::new(),
            wakers: HashMap::new(),
            probing: HashMap::new(),
            past: Vec::new(),
            arrived: 0,
            ended: 0,
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if let Some(story) = &mut self.story {
            story.push_str(&format!("{what}\n"));
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..=3 => self.endpoints(),
            4..=11 => self.probe(),
            12..=22 => self.arrive(),
            23..=28 => self.complete(),
            29..=30 => self.fail(),
            31..=32 => self.leave(),
            33..=36 => self.see(),
            37 => {
                let address = (!self.random.chance(3)).then(|| pod(200 + u8::from(self.random.chance(4))));
                self.note(format_args!("cluster IP {address:?}"));
                if self.model.cluster != address {
                    self.model.cluster = address;
                    (self.model.cluster_passed, self.model.cluster_aside) = (false, None);
                }
                self.throttle.cluster_ip(address);
            }
            38 => {
                let names: Vec<String> = (0..1 + self.random.below(4)).map(|i| format!("10.1.0.{i}")).collect();
                let own = &names[self.random.below(names.len())];
                let activators = Arc::new(Activators::new(names.iter().map(String::as_str), own).unwrap());
                self.note(format_args!("activators {own} of {names:?}"));
                self.model.activators = Some(activators.clone());
                self.throttle.activators(activators);
            }
            _ => {}
        }
        self.check();
    }

    fn endpoints(&mut self) {
        let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
        if !self.random.chance(6) {
            for n in 0..1 + self.random.below(5) {
                let n = u8::try_from(n).unwrap();
                match self.random.below(5) {
                    0..=2 => ready.push(pod(n)),
                    3 => not_ready.push(pod(n)),
                    _ => {}
                }
            }
        }
        self.note(format_args!("endpoints {ready:?} {not_ready:?}"));
        self.model.endpoints(&ready, &not_ready);
        self.throttle.endpoints(&ready, &not_ready);
    }

    fn probe(&mut self) {
        let outcome = [Outcome::Passed, Outcome::Passed, Outcome::Silent, Outcome::Silent, Outcome::Answered];
        let outcome = outcome[self.random.below(5)];
        if !self.past.is_empty() && self.random.chance(8) {
            let key = self.past[self.random.below(self.past.len())];
            self.note(format_args!("old probe {key:?} {outcome:?}"));
            assert!(!self.throttle.probed(key, outcome), "a result that no longer counts");
            return;
        }
        let mut keys: Vec<_> = self.probing.iter().map(|(key, address)| (*key, *address)).collect();
        keys.sort();
        if keys.is_empty() {
            return;
        }
        let (key, address) = keys[self.random.below(keys.len())];
        self.note(format_args!("probe {address} {outcome:?}"));
        let passed = outcome == Outcome::Passed;
        if Some(address) == self.model.cluster {
            if passed {
                (self.model.cluster_passed, self.model.cluster_aside) = (true, None);
            }
        } else {
            let known = self.model.listed.get_mut(&address).unwrap();
            known.failed = (!passed).then_some(outcome);
            if passed {
                (known.passed, known.aside) = (true, None);
            }
        }
        assert!(self.throttle.probed(key, outcome));
    }

    fn arrive(&mut self) {
        let again = self.random.chance(10);
        let free = self.model.free();
        let arrived = self.throttle.arrived(again);
        self.note(format_args!("arrival, again {again}: {arrived:?}"));
        match arrived {
            Arrived::Go(slot) => {
                assert!(self.model.queue.is_empty(), "it overtook one that waits");
                let at = self.throttle.address(slot).unwrap();
                assert!(free.contains(&at), "{at:?} is not among {free:?}");
                self.model.start(at);
                self.slots.push((slot, at));
                self.arrived += 1;
            }
            Arrived::Wait(ticket) => {
                assert!(free.is_empty() || !self.model.queue.is_empty());
                assert!(again || self.model.queue.len() < self.model.rules.policy.queue_depth);
                if again {
                    self.model.queue.push_front(ticket);
                } else {
                    self.model.queue.push_back(ticket);
                }
                let woken = Arc::new(Woken::default());
                assert_eq!(self.throttle.poll(ticket, &Waker::from(woken.clone())), None);
                assert!(self.wakers.insert(ticket, woken).is_none());
                self.arrived += 1;
            }
            Arrived::Full => assert!(!again && self.model.queue.len() >= self.model.rules.policy.queue_depth),
            Arrived::Gone => panic!("nobody closed it"),
        }
    }

    fn running(&mut self) -> Option<(SlotKey, Where)> {
        if self.slots.is_empty() {
            return None;
        }
        let at = self.random.below(self.slots.len());
        self.ended += 1;
        Some(self.slots.swap_remove(at))
    }

    fn complete(&mut self) {
        let Some((slot, at)) = self.running() else { return };
        let reached = self.random.chance(2);
        self.note(format_args!("end on {at:?}, reached {reached}"));
        self.model.end(at);
        if reached && self.throttle.is_current(slot) {
            self.model.reached(at);
        }
        self.throttle.completed(slot, reached);
    }

    fn fail(&mut self) {
        let Some((slot, at)) = self.running() else { return };
        let why = if self.random.chance(2) { Failure::Tls } else { Failure::Unreachable };
        self.note(format_args!("failure on {at:?}: {why:?}"));
        self.model.end(at);
        if self.throttle.is_current(slot) {
            self.model.failed(at, why);
        }
        self.throttle.failed(slot, why);
    }

    fn leave(&mut self) {
        let waiting: Vec<Ticket> = self.model.queue.iter().copied().chain(self.unseen.iter().map(|u| u.0)).collect();
        if waiting.is_empty() {
            return;
        }
        let ticket = waiting[self.random.below(waiting.len())];
        self.note(format_args!("{ticket:?} leaves"));
        self.model.queue.retain(|waiting| *waiting != ticket);
        if let Some(at) = self.unseen.iter().position(|(unseen, ..)| *unseen == ticket) {
            self.model.end(self.unseen.remove(at).2);
        }
        self.wakers.remove(&ticket);
        self.ended += 1;
        self.throttle.cancelled(ticket);
    }

    fn see(&mut self) {
        if self.unseen.is_empty() {
            return;
        }
        let (ticket, slot, at) = self.unseen.swap_remove(self.random.below(self.unseen.len()));
        self.note(format_args!("{ticket:?} sees {at:?}"));
        assert!(self.wakers.remove(&ticket).unwrap().0.load(Ordering::Relaxed), "granted, and nobody was woken");
        assert_eq!(self.throttle.poll(ticket, Waker::noop()), Some(Ok(slot)));
        self.slots.push((slot, at));
    }

    /// Follows what the throttle did, and holds it to the rules.
    fn check(&mut self) {
        self.model.settle();
        for waker in self.throttle.take_wakers() {
            waker.wake();
        }
        for wanted in self.throttle.take_wanted() {
            match wanted {
                Wanted::Probe { key, address, .. } => {
                    self.past.retain(|past| *past != key);
                    self.probing.insert(key, address);
                }
                Wanted::Stop { key } => {
                    assert!(self.probing.remove(&key).is_some(), "{key:?} was not probed");
                    self.past.push(key);
                }
                Wanted::Hurry => {}
            }
        }
        // First come, first served: those that may go are the first of the queue.
        while let Some(slot) = self.model.queue.front().and_then(|first| self.throttle.peek(*first)) {
            let ticket = self.model.queue.pop_front().unwrap();
            let (at, free) = (self.throttle.address(slot).unwrap(), self.model.free());
            assert!(free.contains(&at), "{at:?} is not among {free:?}");
            self.model.start(at);
            self.unseen.push((ticket, slot, at));
        }
        assert!(self.model.queue.iter().all(|ticket| self.throttle.peek(*ticket).is_none()), "one was overtaken");
        let free = self.model.free();
        assert!(self.model.queue.is_empty() || free.is_empty(), "{:?} wait beside {free:?}", self.model.queue);
        // Nobody is lost, nobody is twice.
        let counts = self.throttle.counts();
        assert_eq!(counts.waiting, self.model.queue.len());
        assert_eq!(counts.running, self.slots.len() + self.unseen.len());
        assert_eq!(self.arrived, self.ended + counts.waiting + counts.running);
        assert_eq!(counts.listed, self.model.listed.len());
        let mut usable = self.model.usable().len();
        if self.model.rules.policy.mesh == MeshMode::Enabled {
            usable = 0;
        }
        assert_eq!(counts.usable, usable);
        if self.random.chance(2) {
            // Healthy pods are left alone, all others are asked.
            let mut probing: Vec<_> = self.probing.values().copied().collect();
            let mut expected = self.model.probes();
            probing.sort();
            expected.sort();
            assert_eq!(probing, expected, "what is probed");
        } else {
            assert_eq!(self.throttle.resync(), []);
            assert_eq!(self.throttle.take_wanted(), []);
        }
    }
}

fn play(seed: u64, told: bool) -> Result<(), String> {
    let mut world = World::new(seed, told);
    let steps = 5 + world.random.below(40);
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..steps {
            world.step();
        }
        // All who still wait can leave, all that runs can end, and nothing remains.
        while let Some(ticket) = world.model.queue.pop_front() {
            world.throttle.cancelled(ticket);
            world.ended += 1;
            world.check();
        }
        while !world.unseen.is_empty() {
            world.see();
        }
        while !world.slots.is_empty() {
            world.complete();
            world.check();
        }
        assert_eq!(world.throttle.counts().running, 0);
    }));
    played.map_err(|_| format!("LOCKKEEPER_SEED={seed}\n{}", world.story.unwrap_or_default()))
}

#[test]
fn given_any_order_of_events_then_the_throttle_agrees_with_a_plain_model() {
    if let Some(seed) = std::env::var("LOCKKEEPER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return play(seed, true).unwrap_or_else(|story| panic!("{story}"));
    }
    let base = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
    println!("{ORDERS} orders from seed {base}");
    let seeds = |first| (first..ORDERS).step_by(2).map(move |n| base.wrapping_add(n));
    std::thread::scope(|scope| {
        let halves: Vec<_> =
            [0, 1].map(|first| scope.spawn(move || seeds(first).try_for_each(|seed| play(seed, false)))).into();
        for half in halves {
            if let Err(story) = half.join().unwrap() {
                panic!("play it again, told step by step, with {story}");
            }
        }
    });
}
