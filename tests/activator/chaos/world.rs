//! What happens: one thing after the other, as the seed says.
use std::time::{Duration, Instant};

use lockkeeper::local::pki::Authority;

use super::super::world::{Activator, NAMESPACE, Pod, SYSTEM, World};
use super::fleet::{Fleet, SERVICE};
use super::load::{Load, Outcome};
use crate::support::apiserver::Cut;
use crate::support::app::{App, ok};
use crate::support::objects::{private_service, revision, trust_bundle};
use crate::support::wait::{eventually, patience};

/// Things that happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A pod is killed; another takes its place.
    Kill,
    /// New pods come, then the old ones leave.
    Roll,
    /// All pods leave, and one comes when requests wait.
    Wake,
    /// The autoscaler goes away for a while.
    Autoscaler,
    /// The API server goes away for a while, and a pod is killed meanwhile.
    ApiServer,
    /// Watches end in one way or another, while pods change.
    Cut,
    /// Events about pods come late, while a pod is killed and others come.
    Hold,
    /// The activator's certificate is replaced.
    Certificate,
    /// The authority is replaced, and all certificates with it.
    Authority,
}

const STEPS: [Step; 9] = [
    Step::Kill,
    Step::Roll,
    Step::Wake,
    Step::Autoscaler,
    Step::ApiServer,
    Step::Cut,
    Step::Hold,
    Step::Certificate,
    Step::Authority,
];

/// Numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(most).unwrap()).unwrap()
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

pub struct Chaos {
    world: World,
    activator: Activator,
    fleets: Vec<Fleet>,
    load: Load,
    random: Random,
    start: Instant,
    diary: Vec<String>,
    /// Serves the clients that go straight to it.
    _control: Pod,
}

impl Chaos {
    /// A cluster with two revisions that are served, one of them with a limit, and load on both.
    pub fn start(seed: u64) -> Self {
        let world = World::new(true);
        let mut fleets = vec![Fleet::new("free-00001", 0), Fleet::new("limited-00001", 4)];
        for (fleet, limit) in fleets.iter_mut().zip([0, 4]) {
            world.api.apply(revision(NAMESPACE, fleet.name).concurrency(limit));
            world.api.apply(private_service(NAMESPACE, fleet.name, "None"));
        }
        let activator = world.start();
        for fleet in &mut fleets {
            for _ in 0..2 {
                fleet.grow(&world, super::super::world::free_ip());
            }
            fleet.list(&world, true);
        }
        let slow = App::each(|_, _| {
            std::thread::sleep(SERVICE);
            ok("ok")
        });
        let control = world.pod_with(slow, |builder| builder);
        let mut load = Load::new();
        load.straight(control.ip);
        for fleet in &fleets {
            // Never more than one pod may serve at once: where there is a pod, there is capacity.
            load.http1(activator.http1, fleet.name);
            load.http1(activator.http1, fleet.name);
            load.http2(activator.h2c, fleet.name, 2);
        }
        let random = Random(seed);
        Self { world, activator, fleets, load, random, start: Instant::now(), diary: Vec::new(), _control: control }
    }

    /// Goes on for so long, and until everything has happened once.
    pub fn run(&mut self, time: Duration) {
        let mut deck = Vec::new();
        let mut rounds = 0;
        // What the first step cuts off must have been told.
        self.settle();
        while rounds == 0 || self.start.elapsed() < time || !deck.is_empty() && rounds == 1 {
            if deck.is_empty() {
                deck = STEPS.to_vec();
                rounds += 1;
            }
            let step = deck.swap_remove(self.random.below(deck.len()));
            let fleet = self.random.below(self.fleets.len());
            self.diary.push(format!("{:?} {step:?} {}", self.start.elapsed(), self.fleets[fleet].name));
            self.take(step, fleet);
            self.settle();
        }
    }

    /// Stops the load: what happened, and what came of it.
    pub fn end(mut self) -> (Vec<String>, Outcome) {
        let differences = self.activator.process.log.lines(|line| line.contains("State that differed"));
        assert!(differences.is_empty(), "{differences:?}");
        let said = self.activator.process.log.lines(|line| line.contains("\"WARNING\"") || line.contains("\"ERROR\""));
        self.diary.extend(said);
        let fleets = std::mem::take(&mut self.fleets);
        let beside = |name: &str, done: &super::load::Done| {
            let fleet = fleets.iter().find(|fleet| fleet.name == name).unwrap();
            fleet.timeline.beside(done.from, done.to)
        };
        let outcome = Outcome::new(self.load.end(), self.start, beside);
        (self.diary, outcome)
    }

    fn pause(&mut self, most_millis: usize) {
        let pause = self.random.below(most_millis);
        std::thread::sleep(Duration::from_millis(pause as u64));
    }

    /// Until the activator knows all pods and each was given a request.
    fn settle(&mut self) {
        for fleet in &mut self.fleets {
            eventually("the pods are in use", || {
                fleet.reckon(&self.world);
                fleet.is_in_use()
            });
        }
    }

    fn take(&mut self, step: Step, at: usize) {
        match step {
            Step::Kill => self.kill(at),
            Step::Roll => self.roll(at),
            Step::Wake => self.wake(at),
            Step::Autoscaler => {
                self.world.autoscaler.stop();
                self.pause(1000);
                self.world.autoscaler.restart();
            }
            Step::ApiServer => {
                self.world.api.stop();
                self.pause(500);
                self.kill_only(at);
                self.pause(500);
                self.world.api.restart();
                self.fleets[at].list(&self.world, true);
                self.grow(at);
            }
            Step::Cut => self.cut(at),
            Step::Hold => {
                self.world.api.hold("endpoints");
                self.kill_only(at);
                self.fleets[at].list(&self.world, true);
                self.grow(at);
                self.pause(500);
                self.world.api.release("endpoints");
            }
            Step::Certificate => {
                self.world.issue_routing_certs();
            }
            Step::Authority => self.authority(),
        }
    }

    fn kill_only(&mut self, at: usize) {
        let victim = self.random.below(self.fleets[at].pods.len());
        self.fleets[at].kill(&self.world, victim);
    }

    /// One more pod, listed before or after it starts, as ready or not.
    fn grow(&mut self, at: usize) {
        let (early, ready) = (self.random.coin(), self.random.coin());
        let fleet = &mut self.fleets[at];
        let ip = if early { fleet.announce(&self.world) } else { super::super::world::free_ip() };
        fleet.grow(&self.world, ip);
        fleet.list(&self.world, ready);
    }

    fn kill(&mut self, at: usize) {
        self.kill_only(at);
        self.pause(300);
        self.grow(at);
    }

    fn roll(&mut self, at: usize) {
        let old = self.fleets[at].pods.len();
        for _ in 0..2 {
            self.grow(at);
        }
        self.settle();
        // Kubernetes tells the pods and the activator at about the same time, in either order.
        let fleet = &mut self.fleets[at];
        if self.random.coin() {
            fleet.leave(&self.world, old);
            fleet.list(&self.world, true);
        } else {
            let leaving: Vec<Pod> = fleet.pods.drain(..old).collect();
            fleet.list(&self.world, true);
            fleet.pods.splice(0..0, leaving);
            fleet.leave(&self.world, old);
        }
    }

    fn wake(&mut self, at: usize) {
        let fleet = &mut self.fleets[at];
        let leaving: Vec<Pod> = fleet.pods.drain(..).collect();
        fleet.list(&self.world, true);
        fleet.pods = leaving;
        // A pod serves for a while after its end was decided; here until its revision has none.
        let (mut before, mut since) = (fleet.served(), Instant::now());
        let limit = Instant::now();
        while since.elapsed() < Duration::from_millis(100) {
            assert!(limit.elapsed() < patience(), "requests come to pods that are listed nowhere");
            if fleet.served() != before {
                (before, since) = (fleet.served(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let count = fleet.pods.len();
        fleet.leave(&self.world, count);
        self.pause(500);
        self.grow(at);
        self.settle();
        self.grow(at);
    }

    fn cut(&mut self, at: usize) {
        let kinds = ["endpoints", "revisions", "services", "configmaps", "secrets"];
        let how = [Cut::Clean, Cut::MidEvent, Cut::Expired][self.random.below(3)];
        let other = kinds[self.random.below(kinds.len())];
        if self.random.coin() {
            self.world.api.compact();
        }
        self.world.api.cut("endpoints", how);
        self.world.api.cut(other, how);
        self.kill(at);
    }

    /// The new authority is trusted first, then pods and activator move over, then the old one goes.
    fn authority(&mut self) {
        let changes =
            |activator: &Activator| activator.process.log.lines(|line| line.contains("authorities changed")).len();
        let before = changes(&self.activator);
        let next = Authority::mint(&format!("authority {}", self.start.elapsed().as_nanos())).unwrap();
        self.world.api.apply(trust_bundle(SYSTEM, "bundle", next.pem()));
        eventually("it is trusted", || changes(&self.activator) > before);
        self.world.authority = next;
        for at in 0..self.fleets.len() {
            self.roll(at);
            self.settle();
        }
        // Who takes an authority away first ends what it vouched for.
        for fleet in &mut self.fleets {
            eventually("the old pods have ended", || {
                fleet.reckon(&self.world);
                fleet.has_left()
            });
        }
        self.world.issue_routing_certs();
        eventually("the old one has gone", || changes(&self.activator) > before + 1);
    }
}
