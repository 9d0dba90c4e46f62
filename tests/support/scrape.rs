//! What the queue says about itself: Prometheus text, and the autoscaler's `Stat` message.
use std::collections::BTreeMap;
use std::net::TcpStream;

use super::binary::{Binary, Builder};
use super::client;
use super::port::free_port;
use super::wait::eventually;

/// One line of a Prometheus page.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The name, suffixes such as `_bucket` included.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Starts a queue that Prometheus may scrape; the port for it.
pub fn observed(builder: Builder) -> (Binary, u16) {
    let port = free_port();
    let config = format!(r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":"127.0.0.1:{port}"}}}}"#);
    let queue = builder.env("OBSERVABILITY_CONFIG", config).start();
    eventually("the metrics port is open", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (queue, port)
}

/// All samples of a page.
#[track_caller]
pub fn prometheus(port: u16) -> Vec<Sample> {
    let reply = client::get(port, "/metrics", "Accept: text/plain\r\n");
    assert_eq!(reply.status(), 200);
    reply.text().lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(sample).collect()
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value after the series");
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    let mut rest = rest.trim_end_matches('}');
    while let Some((label, tail)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut chars = tail.char_indices();
        let mut end = tail.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.push(chars.next().map_or('\\', |(_, c)| if c == 'n' { '\n' } else { c })),
                '"' => {
                    end = at + 1;
                    break;
                }
                other => text.push(other),
            }
        }
        labels.insert(label.trim_start_matches(',').to_owned(), text);
        rest = &tail[end..];
    }
    Sample { name: name.to_owned(), labels, value: value.parse().unwrap_or(f64::NAN) }
}

/// The sum of the samples of `name` whose labels contain `labels`; `None` without any.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |sample: &&Sample| {
        sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
    };
    let found: Vec<f64> = samples.iter().filter(fits).map(|sample| sample.value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

/// The autoscaler's message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stat {
    /// Field 1.
    pub pod_name: String,
    /// Fields 2 to 6: average concurrency, the proxied part, requests, the proxied part, uptime.
    pub numbers: [f64; 5],
}

impl Stat {
    /// Field 2.
    pub fn concurrency(&self) -> f64 {
        self.numbers[0]
    }

    /// Field 3.
    pub fn proxied_concurrency(&self) -> f64 {
        self.numbers[1]
    }

    /// Field 4.
    pub fn requests(&self) -> f64 {
        self.numbers[2]
    }

    /// Field 5.
    pub fn proxied_requests(&self) -> f64 {
        self.numbers[3]
    }

    /// Field 6, seconds.
    pub fn uptime(&self) -> f64 {
        self.numbers[4]
    }
}

/// Asks for the autoscaler's message.
#[track_caller]
pub fn stat(port: u16) -> Stat {
    let reply = client::get(port, "/metrics", "Accept: application/protobuf\r\n");
    assert_eq!((reply.status(), reply.header("content-type")), (200, Some("application/protobuf")));
    decode(&reply.body.bytes)
}

/// Decodes a `Stat`; panics on fields that it must not have.
#[track_caller]
pub fn decode(mut bytes: &[u8]) -> Stat {
    let mut stat = Stat::default();
    while let [tag, rest @ ..] = bytes {
        match (tag >> 3, tag & 7) {
            (1, 2) => {
                let length = usize::from(rest[0]);
                stat.pod_name = String::from_utf8(rest[1..=length].to_vec()).unwrap();
                bytes = &rest[1 + length..];
            }
            (field @ 2..=6, 1) => {
                stat.numbers[usize::from(field) - 2] = f64::from_le_bytes(rest[..8].try_into().unwrap());
                bytes = &rest[8..];
            }
            other => panic!("unexpected field {other:?}"),
        }
    }
    stat
}
