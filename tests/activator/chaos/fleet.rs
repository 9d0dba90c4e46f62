//! A revision's pods, and when they could serve.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::super::world::{NAMESPACE, Pod, World, free_ip};
use crate::support::app::{App, ok};
use crate::support::objects::private_endpoints;

/// How long the application takes for a request.
pub const SERVICE: Duration = Duration::from_millis(10);

/// When at least one pod could serve.
#[derive(Default)]
pub struct Timeline(Mutex<Vec<(Instant, bool)>>);

impl Timeline {
    /// From `at` on it is so; later than all before.
    pub fn mark(&self, at: Instant, able: bool) {
        let mut marks = self.0.lock().unwrap();
        if marks.last().is_none_or(|last| last.1 != able) {
            marks.push((at, able));
        }
    }

    /// How much of the time between the two a pod could serve.
    pub fn beside(&self, from: Instant, to: Instant) -> Duration {
        let marks = self.0.lock().unwrap();
        let ends = marks.iter().skip(1).map(|mark| mark.0).chain([to.max(from)]);
        let able = marks.iter().zip(ends).filter(|(mark, _)| mark.1);
        able.map(|(mark, end)| end.min(to).saturating_duration_since(mark.0.max(from))).sum()
    }
}

/// A revision and its pods.
pub struct Fleet {
    pub name: &'static str,
    limit: u32,
    /// Those that are to serve.
    pub pods: Vec<Pod>,
    /// Those that were told to leave.
    leaving: Vec<Pod>,
    listed: BTreeSet<IpAddr>,
    /// What of the list the activator was told.
    known: BTreeSet<IpAddr>,
    pub timeline: Arc<Timeline>,
}

impl Fleet {
    pub fn new(name: &'static str, limit: u32) -> Self {
        Self {
            name,
            limit,
            pods: Vec::new(),
            leaving: Vec::new(),
            listed: BTreeSet::new(),
            known: BTreeSet::new(),
            timeline: Arc::default(),
        }
    }

    /// Starts a pod; its address may be listed before, or it is listed later.
    pub fn grow(&mut self, world: &World, ip: IpAddr) {
        let app = App::each(|_, _| {
            std::thread::sleep(SERVICE);
            ok("ok")
        });
        let limit = self.limit;
        let pod = world.pod_at(ip, NAMESPACE, app, |builder| {
            builder.env("CONTAINER_CONCURRENCY", limit).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "500ms")
        });
        self.pods.push(pod);
        self.reckon(world);
    }

    /// An address for a pod that is still to come, listed already.
    pub fn announce(&mut self, world: &World) -> IpAddr {
        let ip = free_ip();
        self.listed.insert(ip);
        self.tell(world, false);
        ip
    }

    /// Lists the pods as they are.
    pub fn list(&mut self, world: &World, ready: bool) {
        self.listed = self.pods.iter().map(|pod| pod.ip).collect();
        self.tell(world, ready);
    }

    fn tell(&mut self, world: &World, ready: bool) {
        let ips: Vec<String> = self.listed.iter().map(IpAddr::to_string).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        let (ready, not_ready) = if ready { (ips.as_slice(), &[][..]) } else { (&[][..], ips.as_slice()) };
        world.api.apply(private_endpoints(NAMESPACE, self.name).subset(ready, not_ready, "http", 8012));
        self.reckon(world);
    }

    /// Kills a pod without a word.
    pub fn kill(&mut self, world: &World, index: usize) {
        let mut pod = self.pods.remove(index);
        self.reckon(world);
        pod.queue.signal("KILL");
        pod.queue.exit();
    }

    /// Tells the first `count` pods to leave; they serve until they are idle.
    pub fn leave(&mut self, world: &World, count: usize) {
        let leaving: Vec<Pod> = self.pods.drain(..count).collect();
        self.reckon(world);
        for pod in leaving {
            pod.queue.signal("TERM");
            self.leaving.push(pod);
        }
    }

    /// Whether a pod may serve: it lives, and the activator was told of it.
    pub fn reckon(&mut self, world: &World) {
        if world.api.watches("endpoints") > 0 && !world.api.holds("endpoints") {
            self.known.clone_from(&self.listed);
        }
        let able = self.pods.iter().any(|pod| self.known.contains(&pod.ip));
        self.timeline.mark(Instant::now(), able);
        self.leaving.retain_mut(|pod| pod.queue.poll().is_none());
    }

    /// Whether each pod has had a request.
    pub fn is_in_use(&self) -> bool {
        self.pods.iter().all(|pod| self.known.contains(&pod.ip) && pod.app.count() > 0)
    }

    /// Whether those that were told to leave have ended.
    pub fn has_left(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Requests that all pods had.
    pub fn served(&self) -> usize {
        self.pods.iter().chain(&self.leaving).map(|pod| pod.app.count()).sum()
    }
}
