//! How load spreads when several activators share pods that run one request each: a simulation in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use super::super::*;
use super::orders::Random;
use super::pod;

/// What a run showed; times in microseconds.
#[derive(Debug)]
struct Seen {
    /// Requests by pod.
    shares: Vec<u32>,
    /// From arrival to the begin of service: mean and 99th percentile.
    wait: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Ends { pod: usize, request: usize },
}

#[derive(Clone, Copy)]
struct Sent {
    activator: usize,
    slot: Option<SlotKey>,
    arrived: u64,
    service: u64,
}

/// A queue that runs one request and holds the rest, as each pod has.
#[derive(Default)]
struct Pod {
    running: bool,
    queue: VecDeque<usize>,
    served: u32,
}

struct Run {
    random: Random,
    throttles: Vec<Throttle>,
    pods: Vec<Pod>,
    requests: Vec<Sent>,
    waiting: Vec<VecDeque<(Ticket, usize)>>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    waits: Vec<u64>,
}

impl Run {
    fn new(policy: Policy, activators: usize, pods: usize, seed: u64) -> Self {
        let names: Vec<String> = (0..activators).map(|i| format!("10.1.0.{i}")).collect();
        let addresses: Vec<_> = (0..pods).map(|n| pod(u8::try_from(n).unwrap())).collect();
        let throttle = |name: &String| {
            let rules = Rules { policy: Arc::new(policy), concurrency: 1, probe_optimisation: true };
            let mut throttle = Throttle::new(rules, seed);
            let all = names.iter().map(String::as_str);
            throttle.activators(Arc::new(Activators::new(all, name).unwrap()));
            throttle.endpoints(&addresses, &[]);
            for (key, ..) in throttle.probes() {
                throttle.probed(key, Outcome::Passed);
            }
            throttle
        };
        Self {
            random: Random(seed),
            throttles: names.iter().map(throttle).collect(),
            pods: (0..pods).map(|_| Pod::default()).collect(),
            requests: Vec::new(),
            waiting: vec![VecDeque::new(); activators],
            events: BinaryHeap::new(),
            waits: Vec::new(),
        }
    }

    fn uniform(&mut self) -> f64 {
        (self.random.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// 10 ms to 1 s, the short ones more often.
    fn service(&mut self) -> u64 {
        (10_000.0 * 100_f64.powf(self.uniform())) as u64
    }

    fn run(mut self, requests: usize, load: f64) -> Seen {
        let mean = 10_000.0 * 99.0 / 100_f64.ln();
        let pause = mean / load / self.pods.len() as f64;
        self.events.push(Reverse((0, Event::Arrives)));
        while let Some(Reverse((now, event))) = self.events.pop() {
            match event {
                Event::Arrives => {
                    let activator = self.random.below(self.throttles.len());
                    let service = self.service();
                    let request = self.requests.len();
                    self.requests.push(Sent { activator, slot: None, arrived: now, service });
                    match self.throttles[activator].arrived(false) {
                        Arrived::Go(slot) => self.send(request, slot, now),
                        Arrived::Wait(ticket) => self.waiting[activator].push_back((ticket, request)),
                        other => panic!("{other:?}"),
                    }
                    if self.requests.len() < requests {
                        let next = now + (-pause * (1.0 - self.uniform()).ln()) as u64;
                        self.events.push(Reverse((next, Event::Arrives)));
                    }
                }
                Event::Ends { pod, request } => {
                    self.pods[pod].running = false;
                    if let Some(next) = self.pods[pod].queue.pop_front() {
                        self.serve(pod, next, now);
                    }
                    let Sent { activator, slot, .. } = self.requests[request];
                    self.throttles[activator].completed(slot.unwrap(), true);
                    while let Some((ticket, request)) = self.waiting[activator].front().copied()
                        && let Some(slot) = self.throttles[activator].peek(ticket)
                    {
                        self.throttles[activator].poll(ticket, std::task::Waker::noop());
                        self.waiting[activator].pop_front();
                        self.send(request, slot, now);
                    }
                }
            }
        }
        assert_eq!(self.waits.len(), requests, "some were never served");
        self.waits.sort_unstable();
        let mean = self.waits.iter().sum::<u64>() / self.waits.len() as u64;
        let shares = self.pods.iter().map(|pod| pod.served).collect();
        Seen { shares, wait: (mean, self.waits[self.waits.len() * 99 / 100]) }
    }

    fn send(&mut self, request: usize, slot: SlotKey, now: u64) {
        let activator = self.requests[request].activator;
        let address = self.throttles[activator].address(slot).unwrap().0;
        self.requests[request].slot = Some(slot);
        let pod = (0..self.pods.len()).find(|n| pod(u8::try_from(*n).unwrap()) == address).unwrap();
        if self.pods[pod].running {
            self.pods[pod].queue.push_back(request);
        } else {
            self.serve(pod, request, now);
        }
    }

    fn serve(&mut self, pod: usize, request: usize, now: u64) {
        let Sent { arrived, service, .. } = self.requests[request];
        self.waits.push(now - arrived);
        self.pods[pod].running = true;
        self.pods[pod].served += 1;
        self.events.push(Reverse((now + service, Event::Ends { pod, request })));
    }
}

/// A5 of the issue: every pod gets its share, within 10 per cent over 20,000 requests, at 70 per cent load.
#[test]
fn given_several_activators_then_every_pod_gets_its_share() {
    for (activators, pods) in [(1, 10), (2, 2), (2, 10), (3, 10), (4, 20)] {
        let policy = Policy { queue_depth: 1_000_000, ..Policy::default() };
        let Seen { shares, .. } = Run::new(policy, activators, pods, 5).run(20_000, 0.7);
        let fair = 20_000 / u32::try_from(pods).unwrap();
        assert!(shares.iter().all(|share| share.abs_diff(fair) * 10 <= fair), "{activators} on {pods}: {shares:?}");
    }
}

/// A5: a request does not wait in an activator whose only pod is busy, while another's is idle.
#[test]
fn given_slices_of_one_pod_then_borrowing_halves_the_wait() {
    for (activators, pods) in [(2, 2), (5, 3)] {
        let run = |borrow| {
            let policy = Policy { queue_depth: 1_000_000, borrow, ..Policy::default() };
            Run::new(policy, activators, pods, 5).run(20_000, 0.7).wait
        };
        let (with, without) = (run(true), run(false));
        assert!(with.0 * 2 < without.0 && with.1 < without.1, "{with:?} with, {without:?} without");
    }
}
