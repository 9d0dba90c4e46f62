//! The prober with real sockets: what goes out, what counts as passed, and how long a held request waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;

use super::super::super::throttle::{Budget, Command, Entry, Outcome, Policy, Revision, Rules};
use super::super::attempt::attempt;
use super::super::{Counters, Settings, start};
use crate::net::closed::{closed, open_async};

const QUEUE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nqueue";

/// A prober on its own thread, as in the real process.
fn prober() -> (UnboundedSender<Command>, Arc<Counters>) {
    start(Settings::default()).unwrap()
}

fn revision(commands: &UnboundedSender<Command>, policy: Policy) -> Revision {
    let rules = Rules { policy: Arc::new(policy), concurrency: 0, probe_optimisation: true };
    Revision::new("demo/hello-00001", rules, Arc::new(Budget::new(1 << 20)), commands.clone())
}

/// Polls until it is so; the machine may be slow.
async fn eventually(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

/// Answers every request with `answer`, after a pause; counts connections.
fn serve(listener: TcpListener, answer: &'static str, pause: Duration) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                while read_head(&mut stream).await.is_some() {
                    tokio::time::sleep(pause).await;
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    connections
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that swallows connections: it listens, its queue is full, and the kernel drops what comes.
fn hole() -> (Vec<socket2::Socket>, SocketAddr) {
    let (socket, address) = closed();
    socket.listen(0).unwrap();
    let mut held = vec![socket];
    for _ in 0..4 {
        let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&address.into());
        held.push(filler);
    }
    (held, address)
}

/// Contract 7.4.
#[tokio::test]
async fn when_a_pod_is_probed_then_the_request_is_the_one_that_its_queue_expects() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        stream.write_all(QUEUE.as_bytes()).await.unwrap();
        (head, stream)
    });
    let (outcome, kept) = attempt(address, None, |_| {}).await;
    assert_eq!(outcome, Outcome::Passed);

    let (head, mut far_end) = server.await.unwrap();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").map(str::to_owned).collect();
    lines[1..].sort();
    let host = format!("Host: {address}");
    let expected = ["GET /healthz HTTP/1.1", &host, "K-Network-Probe: queue", "User-Agent: Knative-Activator-Probe"];
    assert_eq!(lines, expected);

    // The connection is as good as new.
    let mut near_end = TcpStream::from_std(kept.unwrap()).unwrap();
    near_end.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    far_end.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
}

/// Contract 5.4, last line: through a mesh the probe names the service, and asks for the very pod.
#[tokio::test]
async fn given_pods_addressed_through_a_mesh_then_the_probe_names_the_private_service() {
    let (listener, address) = listen().await;
    let (commands, _) = prober();
    let revision = revision(&commands, Policy { pod_addressability: true, ..Policy::default() });
    revision.endpoints(&[], &[address]);
    let (mut stream, _) = listener.accept().await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(
        head.contains("Host: hello-00001-private.demo\r\n") && head.contains("K-Passthrough-Lb: true\r\n"),
        "{head}"
    );
}

/// Contract 7.4 and 7.8.
#[tokio::test]
async fn given_any_answer_then_only_200_with_the_exact_body_passes_and_502_and_503_may_be_a_mesh() {
    let cases = [
        (QUEUE, Outcome::Passed, true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nqueue", Outcome::Passed, false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nque\r\n2\r\nue\r\n0\r\n\r\n",
            Outcome::Passed,
            true,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nqueue\n", Outcome::Answered, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nactivator", Outcome::Answered, false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nque", Outcome::Silent, false),
        ("HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\n\r\nqueue", Outcome::Answered, false),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Outcome::Answered, false),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", Outcome::Silent, false),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nqueue", Outcome::Silent, false),
        ("\x15\x03\x03\x00\x02\x02\x46", Outcome::Silent, false),
        ("", Outcome::Silent, false),
    ];
    for (answer, outcome, kept) in cases {
        let (listener, address) = listen().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            if outcome == Outcome::Passed && kept {
                // It stays open until the other end closes.
                let _ = stream.read_u8().await;
            }
        });
        let (found, connection) = attempt(address, None, |_| {}).await;
        assert_eq!((found, connection.is_some()), (outcome, kept), "{answer:?}");
    }
    let (_socket, address) = closed();
    assert_eq!(attempt(address, None, |_| {}).await.0, Outcome::Silent);
}

/// A3: the port opens while a request is held; the connection of the probe carries it.
#[tokio::test]
async fn given_a_held_request_when_the_pods_port_opens_then_it_goes_on_the_probes_connection() {
    let (commands, _) = prober();
    let revision = revision(&commands, Policy::default());
    let Entry::Wait(wait) = revision.enter(100) else { panic!("there is no pod") };
    let (socket, address) = closed();
    revision.endpoints(&[], &[address]);
    let connections = serve(open_async(socket), QUEUE, Duration::ZERO);

    let slot = wait.await.unwrap();
    assert_eq!((slot.address(), slot.is_cluster_ip()), (address, false));
    let mut stream = TcpStream::from_std(slot.take_connection().unwrap()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = vec![0; QUEUE.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// A3: slow answers pass at the first probe, whose answer is worth waiting for.
#[tokio::test]
async fn given_a_pod_that_answers_slowly_then_it_passes_without_being_cut_off() {
    let (commands, _) = prober();
    for delay in [0, 70, 150, 300, 800] {
        let (listener, address) = listen().await;
        serve(listener, QUEUE, Duration::from_millis(delay));
        let revision = revision(&commands, Policy::default());
        let Entry::Wait(wait) = revision.enter(100) else { panic!("there is no pod") };
        revision.endpoints(&[], &[address]);
        assert_eq!(wait.await.unwrap().address(), address, "{delay} ms");
    }
}

/// A3: neither an unreachable pod of the same revision nor those of others hold a request up. The original takes the
/// whole limit of 300 ms for the first, and seconds for the second.
#[tokio::test]
async fn given_unreachable_pods_here_and_there_when_a_pod_can_answer_then_the_held_request_goes_at_once() {
    let (commands, counters) = prober();
    let holes: Vec<_> = (0..12).map(|_| hole()).collect();
    let addresses: Vec<_> = holes.iter().map(|(_, address)| *address).collect();
    let others: Vec<_> = (0..4).map(|_| revision(&commands, Policy::default())).collect();
    others.iter().for_each(|other| other.endpoints(&addresses, &[]));
    eventually("probes are swallowed", || counters.late.load(Ordering::Relaxed) > 40).await;

    let mut best = Duration::MAX;
    for _ in 0..10 {
        let (listener, address) = listen().await;
        serve(listener, QUEUE, Duration::ZERO);
        let revision = revision(&commands, Policy::default());
        let Entry::Wait(wait) = revision.enter(100) else { panic!("there is no pod") };
        // Changes of another revision, right before.
        others.iter().for_each(|other| other.endpoints(&addresses[1..], &addresses[..1]));
        others.iter().for_each(|other| other.endpoints(&addresses, &[]));
        let start = Instant::now();
        revision.endpoints(&[], &[address, addresses[0]]);
        assert_eq!(wait.await.unwrap().address(), address);
        best = best.min(start.elapsed());
        revision.close();
    }
    assert!(best < Duration::from_millis(150), "at best {best:?}");
}

/// The figure: 500 pods at once, each probed once, and no more when it is healthy.
#[tokio::test]
async fn given_five_hundred_pods_at_once_then_each_is_probed_once_and_left_alone() {
    let (commands, counters) = prober();
    // All addresses of 127/8 lead to this machine.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = serve(listener, QUEUE, Duration::ZERO);
    let revision = revision(&commands, Policy::default());
    let pods: Vec<SocketAddr> = (0..500_u16).map(|n| ([127, 7, (n >> 8) as u8, n as u8], port).into()).collect();
    revision.endpoints(&pods, &[]);
    eventually("all are usable", || revision.counts().usable == pods.len()).await;
    eventually("nothing is probed", || counters.probing.load(Ordering::Relaxed) == 0).await;
    let (started, late) = (counters.started.load(Ordering::Relaxed), counters.late.load(Ordering::Relaxed));
    // One that was late by seconds on a busy machine was probed again.
    println!("{started} probes, {late} late");
    assert!(started as usize <= pods.len() + late as usize, "{started} probes, {late} late");
    assert!(connections.load(Ordering::SeqCst) >= pods.len());
}

/// Contract 7.8 and A3: through the cluster IP while pods do not answer, and back by itself.
#[tokio::test]
async fn given_pods_out_of_reach_then_the_cluster_ip_is_used_until_they_are_reachable() {
    let (commands, _) = prober();
    let revision = revision(&commands, Policy::default());
    let (listener, cluster_ip) = listen().await;
    serve(listener, QUEUE, Duration::ZERO);
    let (socket, pod) = closed();
    revision.cluster_ip(Some(cluster_ip));
    revision.endpoints(&[pod], &[]);
    let slot = revision.acquire(100).await.unwrap();
    assert_eq!((slot.address(), slot.is_cluster_ip()), (cluster_ip, true));
    drop(slot);

    serve(open_async(socket), QUEUE, Duration::ZERO);
    eventually("pods are used again", || !revision.counts().fallback).await;
    assert_eq!(revision.acquire(100).await.unwrap().address(), pod);
}

/// A2: a pod that died is put aside, and comes back by itself.
#[tokio::test]
async fn given_a_pod_that_was_put_aside_when_it_answers_again_then_it_is_used_again() {
    let (commands, counters) = prober();
    let revision = revision(&commands, Policy::default());
    let (listener, pod) = listen().await;
    serve(listener, QUEUE, Duration::ZERO);
    revision.endpoints(&[pod], &[]);
    let slot = revision.acquire(100).await.unwrap();
    let passed = counters.passed.load(Ordering::Relaxed);
    let start = Instant::now();
    slot.failed(super::super::super::throttle::Failure::Unreachable);
    drop(revision.acquire(100).await.unwrap());
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(counters.passed.load(Ordering::Relaxed), passed + 1);
}

#[tokio::test]
async fn given_a_revision_that_is_dropped_then_its_probes_end() {
    let (commands, counters) = prober();
    let (_socket, address) = closed();
    let revision = revision(&commands, Policy::default());
    revision.endpoints(&[], &[address]);
    eventually("it is probed", || counters.probing.load(Ordering::Relaxed) == 1).await;
    drop(revision);
    eventually("it is forgotten", || counters.probing.load(Ordering::Relaxed) == 0).await;
}

/// How often the two tests below look: `LOCKKEEPER_PROBE_RUNS`, for figures (`--nocapture`); a few times by default.
fn runs() -> u64 {
    std::env::var("LOCKKEEPER_PROBE_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// The longest median of the time from a pod that can answer to the held request. On an idle machine it is below 10 ms.
const USUAL: Duration = Duration::from_millis(250);

fn judge(name: &str, mut took: Vec<Duration>, room: Duration) {
    took.sort();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    println!("{name}: least {least:?}, median {median:?}, most {most:?}");
    assert!(median <= USUAL + room, "{name}: {took:?}");
}

/// Figures of a slow path, which whoever wants them has made: `LOCKKEEPER_FAR` is an address that leads back here by it,
/// `LOCKKEEPER_FAR_ROUND_TRIP` its milliseconds, of which a probe takes two.
#[tokio::test]
async fn given_a_pod_behind_a_path_when_it_is_listed_then_the_held_request_goes_after_two_round_trips() {
    let far: std::net::IpAddr = std::env::var("LOCKKEEPER_FAR").unwrap_or("127.0.0.1".to_owned()).parse().unwrap();
    let round_trip = std::env::var("LOCKKEEPER_FAR_ROUND_TRIP").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (commands, _) = prober();
    let mut took = Vec::new();
    for _ in 0..runs() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let address = SocketAddr::new(far, listener.local_addr().unwrap().port());
        serve(listener, QUEUE, Duration::ZERO);
        let revision = revision(&commands, Policy::default());
        let Entry::Wait(wait) = revision.enter(100) else { panic!("there is no pod") };
        let start = Instant::now();
        revision.endpoints(&[], &[address]);
        assert_eq!(wait.await.unwrap().address(), address);
        took.push(start.elapsed());
    }
    judge("a listed pod", took, 2 * Duration::from_millis(round_trip));
}

/// The request goes, and on the probe's connection, as soon as the pod can answer, whoever else does not.
#[tokio::test]
async fn given_a_pod_whose_port_opens_late_when_others_are_unreachable_then_the_held_request_goes_at_once_all_the_same()
{
    let (commands, _) = prober();
    let hole = hole();
    for (name, beside) in [("a port that opens late", 0), ("the same beside an unreachable pod", 1)] {
        let mut took = Vec::new();
        for run in 0..runs() {
            let revision = revision(&commands, Policy::default());
            let Entry::Wait(wait) = revision.enter(100) else { panic!("there is no pod") };
            let (socket, address) = closed();
            let not_ready: Vec<_> = std::iter::once(address).chain(std::iter::repeat_n(hole.1, beside)).collect();
            revision.endpoints(&[], &not_ready);
            tokio::time::sleep(Duration::from_millis(200 + run * 37 % 100)).await;
            serve(open_async(socket), QUEUE, Duration::ZERO);
            let start = Instant::now();
            let slot = wait.await.unwrap();
            assert!(slot.take_connection().is_some());
            took.push(start.elapsed());
            revision.close();
        }
        judge(name, took, Duration::ZERO);
    }
}
