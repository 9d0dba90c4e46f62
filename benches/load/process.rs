//! CPUs, and what a process used: CPU time and memory, its children included, as `/proc` has them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Who runs where.
pub(crate) struct Cpus {
    /// The proxy's CPU and ours; nothing on a machine with one.
    pair: Option<(usize, usize)>,
}

impl Cpus {
    /// Takes a CPU for this process and leaves another to the proxy.
    pub(crate) fn split() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let pair = cpus.next().zip(cpus.next());
        let cpus = Self { pair };
        cpus.take_ours()?;
        Ok(cpus)
    }

    pub(crate) fn in_words(&self) -> String {
        match self.pair {
            Some((proxy, ours)) => format!("proxy on CPU {proxy}, load and application on CPU {ours}"),
            None => "one CPU for proxy, load and application: latencies and rates say little".to_owned(),
        }
    }

    /// Runs `start` so that what it starts has the proxy's CPU.
    pub(crate) fn on_the_proxys<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        if let Some((proxy, _)) = self.pair {
            pin(proxy)?;
        }
        let started = start();
        self.take_ours()?;
        Ok(started)
    }

    fn take_ours(&self) -> io::Result<()> {
        self.pair.map_or(Ok(()), |(_, ours)| pin(ours))
    }
}

/// Pins the calling thread and what it starts from now on.
fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// A thousand connections take two descriptors each here.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// `pid`, and the processes that it started.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        for thread in threads(parent) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{thread}/children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

fn threads(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// CPU time by thread, at one moment.
pub(crate) struct CpuTime(BTreeMap<u32, u64>);

impl CpuTime {
    /// Of `pid` and what it started. `schedstat` counts nanoseconds, `stat` ticks of 10 ms.
    pub(crate) fn of(pid: u32) -> Self {
        let mut times = BTreeMap::new();
        for process in family(pid) {
            for thread in threads(process) {
                let path = format!("/proc/{process}/task/{thread}");
                let exact = fs::read_to_string(format!("{path}/schedstat")).ok();
                let exact = exact.and_then(|text| text.split_whitespace().next()?.parse().ok());
                let ticks = || {
                    let text = fs::read_to_string(format!("{path}/stat")).ok()?;
                    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
                    let user: u64 = fields.next()?.parse().ok()?;
                    let system: u64 = fields.next()?.parse().ok()?;
                    Some((user + system) * 10_000_000)
                };
                if let Some(nanos) = exact.or_else(ticks) {
                    times.insert(thread, nanos);
                }
            }
        }
        Self(times)
    }

    /// What was used since `before`. A thread that ended in between is not counted.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let nanos = |(thread, now): (&u32, &u64)| now.saturating_sub(before.0.get(thread).copied().unwrap_or(0));
        Duration::from_nanos(self.0.iter().map(nanos).sum())
    }
}

/// Memory of `pid` and what it started, KiB: its share of shared pages included (PSS), or what is resident.
pub(crate) fn memory_kib(pid: u32) -> f64 {
    let value = |path: String, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let of = |pid: u32| {
        value(format!("/proc/{pid}/smaps_rollup"), "Pss:")
            .or_else(|| value(format!("/proc/{pid}/status"), "VmRSS:"))
            .unwrap_or(0.0)
    };
    family(pid).into_iter().map(of).sum()
}
