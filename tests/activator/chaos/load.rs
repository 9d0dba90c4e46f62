//! Steady load on the activator, and some straight to a pod, to know how busy the machine is.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use super::super::world::{NAMESPACE, named};
use super::fleet::SERVICE;
use crate::support::client::{Raw, local, run_for};

/// A request that is over.
#[derive(Clone)]
pub struct Done {
    pub from: Instant,
    pub to: Instant,
    /// Its status and the cause, or that there was no answer.
    pub answer: Result<(), String>,
}

/// The clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<Client>,
}

/// Its thread, what it did, and the revision that it asks for; none goes straight to a pod.
type Client = (JoinHandle<()>, Arc<Mutex<Vec<Done>>>, Option<&'static str>);

/// A pause after each request.
const PAUSE: Duration = Duration::from_millis(20);

impl Load {
    pub fn new() -> Self {
        Self { stop: Arc::default(), clients: Vec::new() }
    }

    fn client(&mut self, of: Option<&'static str>, work: impl FnOnce(&AtomicBool, &Mutex<Vec<Done>>) + Send + 'static) {
        let done = Arc::new(Mutex::new(Vec::new()));
        let (stop, to) = (self.stop.clone(), done.clone());
        self.clients.push((std::thread::spawn(move || work(&stop, &to)), done, of));
    }

    /// A client that sends one request after the other for a revision over HTTP/1.1.
    pub fn http1(&mut self, port: u16, revision: &'static str) {
        let headers = named(NAMESPACE, revision);
        self.client(Some(revision), move |stop, done| over_http1(port, &headers, PAUSE, stop, done));
    }

    /// The same straight to a pod.
    pub fn straight(&mut self, ip: std::net::IpAddr) {
        self.client(None, move |stop, done| {
            let open = || Raw::plain_at((ip, 8012).into());
            one_by_one(open, "", PAUSE * 2, stop, done);
        });
    }

    /// A connection with several requests at once for a revision over HTTP/2.
    pub fn http2(&mut self, port: u16, revision: &'static str, streams: usize) {
        self.client(Some(revision), move |stop, done| {
            run_for(Duration::from_secs(100_000), async {
                // As many connections as streams: the client has one request at a time on each.
                let one = async || {
                    let mut connection = None;
                    while !stop.load(Ordering::Relaxed) {
                        let from = Instant::now();
                        let answer = async {
                            let open = match &mut connection {
                                Some(open) => open,
                                none => none.insert(Connection::open(local(port), None, Protocol::Http2).await?),
                            };
                            let request = open
                                .request("GET", "chaos", "/")
                                .header("knative-serving-namespace", NAMESPACE)
                                .header("knative-serving-revision", revision)
                                .body(Outgoing::whole(""))
                                .unwrap();
                            open.fetch(request).await
                        };
                        let answer = match answer.await {
                            Ok(answer) if answer.status == 200 => Ok(()),
                            Ok(answer) => {
                                let cause = answer.headers.get("x-lockkeeper-cause");
                                Err(format!("HTTP/2 {} {cause:?}", answer.status))
                            }
                            Err(error) => {
                                connection = None;
                                Err(format!("HTTP/2 {error}"))
                            }
                        };
                        done.lock().unwrap().push(Done { from, to: Instant::now(), answer });
                        tokio::time::sleep(PAUSE).await;
                    }
                };
                futures_all((0..streams).map(|_| one())).await;
            });
        });
    }

    /// Stops, and gives what there was, of each revision, or straight to a pod.
    pub fn end(self) -> Vec<(Option<&'static str>, Vec<Done>)> {
        self.stop.store(true, Ordering::Relaxed);
        let end = |(thread, done, of): Client| {
            thread.join().unwrap();
            let done = std::mem::take(&mut *done.lock().unwrap());
            (of, done)
        };
        self.clients.into_iter().map(end).collect()
    }
}

async fn futures_all<F: Future<Output = ()>>(all: impl Iterator<Item = F>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn over_http1(port: u16, headers: &str, pause: Duration, stop: &AtomicBool, done: &Mutex<Vec<Done>>) {
    one_by_one(|| Raw::plain(port), headers, pause, stop, done);
}

fn one_by_one(open: impl Fn() -> Raw, headers: &str, pause: Duration, stop: &AtomicBool, done: &Mutex<Vec<Done>>) {
    let mut client = open();
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now();
        client.get("/", headers);
        let reply = client.try_reply();
        let to = Instant::now();
        let answer = match &reply {
            Some(reply) if reply.status() == 200 => Ok(()),
            Some(reply) => Err(format!("HTTP/1.1 {} {:?}", reply.status(), reply.header("x-lockkeeper-cause"))),
            None => Err("HTTP/1.1 no answer".to_owned()),
        };
        let leaves = reply.is_none_or(|reply| reply.header("connection").is_some_and(|value| value == "close"));
        done.lock().unwrap().push(Done { from, to, answer });
        if leaves {
            client = open();
        }
        std::thread::sleep(pause);
    }
}

/// What came of it.
pub struct Outcome {
    /// Time beside a pod that could serve, less what the application takes.
    pub waits: Vec<Duration>,
    straight: Vec<Duration>,
    /// The request that waited longest beside a pod.
    pub slowest: String,
    /// What was not answered with 200.
    pub lost: Vec<String>,
}

impl Outcome {
    pub fn new(
        all: Vec<(Option<&'static str>, Vec<Done>)>,
        start: Instant,
        beside: impl Fn(&str, &Done) -> Duration,
    ) -> Self {
        let mut outcome = Self { waits: Vec::new(), straight: Vec::new(), slowest: String::new(), lost: Vec::new() };
        let mut most = Duration::ZERO;
        for (of, done) in all {
            for done in done {
                if let Err(answer) = &done.answer {
                    let at = done.from - start;
                    outcome.lost.push(format!(
                        "{at:?} for {:?}: {} {answer}",
                        done.to - done.from,
                        of.unwrap_or("a pod")
                    ));
                }
                match of {
                    Some(of) => {
                        let wait = beside(of, &done).saturating_sub(SERVICE);
                        outcome.waits.push(wait);
                        if wait > most {
                            most = wait;
                            let (at, took) = (done.from - start, done.to - done.from);
                            outcome.slowest = format!("{at:?} {of} took {took:?}, {wait:?} of it beside a pod");
                        }
                    }
                    None => outcome.straight.push((done.to - done.from).saturating_sub(SERVICE)),
                }
            }
        }
        outcome.waits.sort();
        outcome.straight.sort();
        outcome
    }

    pub fn wait(&self, share: f64) -> Duration {
        quantile(&self.waits, share)
    }

    pub fn straight(&self, share: f64) -> Duration {
        quantile(&self.straight, share)
    }
}

fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}
