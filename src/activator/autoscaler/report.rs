//! What is said of each revision, and when an entry begins and ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use prost::Message;

use crate::activator::statistics::Load;
use crate::knative::revision::RevisionKey;
use crate::knative::stat::{Stat, WireStatMessage, WireStatMessages};

/// The first request of a revision that has no entry.
#[derive(Debug)]
pub struct Poke {
    /// The revision's requests.
    pub load: Arc<Load>,
    /// When the request came.
    pub at: Instant,
}

/// Makes the messages.
#[derive(Debug)]
pub struct Reporter {
    pod_name: String,
    entries: HashMap<RevisionKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    load: Arc<Load>,
    since: Instant,
    /// No report since the poke: the poke's request is not counted twice.
    fresh: bool,
    last: Stat,
}

impl Reporter {
    /// A reporter that speaks for the activator `pod_name`.
    #[must_use]
    pub fn new(pod_name: String) -> Self {
        Self { pod_name, entries: HashMap::new() }
    }

    /// Makes an entry; what has to be said of it at once.
    #[must_use]
    pub fn poke(&mut self, poke: Poke) -> WireStatMessage {
        let stat = self.stat(1.0, 1.0);
        let key = poke.load.key().clone();
        let message = message(&key, stat.clone());
        self.entries.insert(key, Entry { load: poke.load, since: poke.at, fresh: true, last: stat });
        message
    }

    /// Ends a period at `now`; what has to be said of all entries.
    #[must_use]
    pub fn report(&mut self, now: Instant) -> Vec<WireStatMessage> {
        let mut messages = Vec::with_capacity(self.entries.len());
        let pod_name = &self.pod_name;
        self.entries.retain(|key, entry| {
            let period = entry.load.take(now);
            let length = now.saturating_duration_since(entry.since).as_secs_f64();
            let mean = if length > 0.0 { period.weighted / length } else { f64::from(period.in_flight) };
            let poked = if std::mem::take(&mut entry.fresh) { 1.0 } else { 0.0 };
            entry.since = now;
            entry.last = Stat {
                pod_name: pod_name.clone(),
                average_concurrent_requests: (mean - poked).max(0.0),
                request_count: (f64::from(period.arrivals) - poked).max(0.0),
                ..Stat::default()
            };
            entry.load.set_reported(entry.last.average_concurrent_requests);
            messages.push(message(key, entry.last.clone()));
            !(mean == 0.0 && entry.load.drop_entry())
        });
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        messages
    }

    /// What was last said of each entry, for an autoscaler that may not have heard it.
    #[must_use]
    pub fn last(&self) -> Vec<WireStatMessage> {
        self.entries.iter().map(|(key, entry)| message(key, entry.last.clone())).collect()
    }

    fn stat(&self, concurrency: f64, count: f64) -> Stat {
        Stat {
            pod_name: self.pod_name.clone(),
            average_concurrent_requests: concurrency,
            request_count: count,
            ..Stat::default()
        }
    }
}

/// One message as it goes over the wire.
#[must_use]
pub fn encode(messages: Vec<WireStatMessage>) -> Vec<u8> {
    WireStatMessages { messages }.encode_to_vec()
}

fn message(key: &RevisionKey, stat: Stat) -> WireStatMessage {
    WireStatMessage { namespace: key.namespace().to_owned(), name: key.name().to_owned(), stat: Some(stat) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(messages: &[WireStatMessage]) -> Vec<(f64, f64)> {
        let stats = messages.iter().filter_map(|message| message.stat.as_ref());
        stats.map(|stat| (stat.average_concurrent_requests, stat.request_count)).collect()
    }

    /// Contract 8: the poke's request is subtracted once, an idle period is said once, and then the entry is gone.
    #[test]
    fn given_one_request_when_periods_pass_then_they_are_reported_as_by_the_original() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let load = Load::new(RevisionKey::new("demo", "hello"), 1, start);
        let mut reporter = Reporter::new("activator-0".to_owned());

        let (request, made) = load.arrive(0, start);
        assert!(made);
        let poke = reporter.poke(Poke { load: load.clone(), at: start });
        assert_eq!((poke.namespace.as_str(), poke.name.as_str()), ("demo", "hello"));
        assert_eq!(of(&[poke]), [(1.0, 1.0)]);

        assert_eq!(of(&reporter.report(at(1))), [(0.0, 0.0)]);
        assert_eq!(of(&reporter.report(at(2))), [(1.0, 0.0)]);
        assert_eq!(load.reported(), Some(1.0));
        assert_eq!(of(&reporter.last()), [(1.0, 0.0)]);

        drop(request);
        let _ = load.take(at(2));
        assert_eq!(of(&reporter.report(at(3))), [(0.0, 0.0)]);
        assert!(reporter.report(at(4)).is_empty());
        assert!(load.arrive(0, at(4)).1, "the next request pokes again");
    }
}
