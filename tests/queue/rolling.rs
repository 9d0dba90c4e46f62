//! Q1 as operators meet it: pods that are replaced under load, requests of nearly the revision's timeout, and how soon a
//! pod without work is gone.
//!
//! The strict, long versions: `cargo test --locked -- --ignored q1`.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use crate::support::app::{App, ok};
use crate::support::binary::{Binary, queue};
use crate::support::client::{Raw, get, local, run_for};
use crate::support::wait::{eventually, patience};

/// A roll of pods under load.
struct Roll {
    pods: usize,
    callers: usize,
    /// Milliseconds that the application takes for a request.
    work: u64,
    /// How many times each pod is replaced.
    rounds: usize,
    /// How long the endpoint list is stale after the signal.
    stale: Duration,
    quiet: &'static str,
}

impl Roll {
    /// Replaces pod after pod while callers of both protocols send; the number of requests, and those that failed.
    fn run(&self) -> (usize, Vec<String>) {
        let app = lockkeeper::local::app::App::start(local(0)).unwrap();
        let port = app.addr().port();
        let start = || queue(port).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", self.quiet).start();
        let mut pods: Vec<Binary> = (0..self.pods).map(|_| start()).collect();
        // What the endpoint list says: callers pick from it, and leave a pod that is no longer in it.
        let ready: Rc<RefCell<Vec<u16>>> = Rc::new(RefCell::new(pods.iter_mut().map(Binary::http).collect()));
        let (served, failed) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let stop = Rc::new(Cell::new(false));
        run_for(patience() * 60, async {
            let mut callers = Vec::new();
            for caller in 0..self.callers {
                let (ready, served, failed, stop) = (ready.clone(), served.clone(), failed.clone(), stop.clone());
                let work = self.work;
                callers.push(tokio::task::spawn_local(async move {
                    let protocol = if caller % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
                    let mut turn = caller;
                    let mut kept: Option<(u16, Connection)> = None;
                    while !stop.get() {
                        let (mut client, port) = match kept.take() {
                            Some((port, client)) if ready.borrow().contains(&port) => (client, port),
                            _ => {
                                let port = ready.borrow()[turn % ready.borrow().len()];
                                match Connection::open(local(port), None, protocol).await {
                                    Ok(client) => (client, port),
                                    Err(error) => {
                                        failed.borrow_mut().push(format!("{protocol:?}: no connection: {error}"));
                                        continue;
                                    }
                                }
                            }
                        };
                        turn += 1;
                        let path = format!("/slow?ms={work}");
                        let request = client.request("POST", "hello", &path).body(Outgoing::whole("work")).unwrap();
                        match client.fetch(request).await {
                            Ok(answer) if answer.status == 200 => {
                                served.set(served.get() + 1);
                                // As told by `Connection: close`; a few requests a connection in any case.
                                if !answer.headers.contains_key("connection") && turn % 7 != 0 {
                                    kept = Some((port, client));
                                }
                            }
                            Ok(answer) => failed.borrow_mut().push(format!("{protocol:?}: {}", answer.status)),
                            // GOAWAY came before the request went out: HTTP/2 callers open another connection.
                            Err(error) if protocol == Protocol::Http2 && unsent(&error) => {}
                            Err(error) => {
                                failed.borrow_mut().push(format!("{protocol:?}: {error}: {:?}", error.get_ref()))
                            }
                        }
                    }
                }));
            }
            for _ in 0..self.rounds {
                for place in 0..self.pods {
                    let mut next = start();
                    ready.borrow_mut()[place] = {
                        let old = ready.borrow()[place];
                        // The new pod is in the list at once, the old one still, for a while.
                        ready.borrow_mut().push(next.http());
                        pods[place].signal("TERM");
                        tokio::time::sleep(self.stale).await;
                        assert!(ready.borrow().contains(&old));
                        ready.borrow_mut().pop().unwrap()
                    };
                    let mut old = std::mem::replace(&mut pods[place], next);
                    let limit = Instant::now() + patience() * 5;
                    while old.poll().is_none() {
                        assert!(Instant::now() < limit, "the old pod leaves");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    assert_eq!(old.exit().code(), Some(0));
                }
            }
            stop.set(true);
            for caller in callers {
                caller.await.unwrap();
            }
        });
        (served.get(), failed.take())
    }
}

/// Whether a request was never taken: hyper cancels what it could not write before the connection's end, and a GOAWAY
/// without an error speaks of streams that the server has not begun with (RFC 9113 section 6.8).
fn unsent(error: &std::io::Error) -> bool {
    use std::error::Error as _;
    let Some(inner) = error.get_ref().and_then(|error| error.downcast_ref::<hyper::Error>()) else { return false };
    let goaway = inner
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR));
    inner.is_canceled() || inner.is_closed() || goaway
}

/// Q1.1, bounded: three pods replaced one by one under 60 callers.
#[test]
fn given_callers_of_both_protocols_when_pods_are_replaced_one_by_one_then_no_request_fails() {
    let roll = Roll { pods: 3, callers: 60, work: 200, rounds: 1, stale: Duration::from_millis(300), quiet: "1s" };
    let (served, failed) = roll.run();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), served + failed.len(), &failed[..failed.len().min(5)]);
    assert!(served > 60, "{served} were served: no load");
}

/// Q1.1: ten pods, 500 requests a second of two seconds each, five minutes.
#[test]
#[ignore = "takes five minutes"]
fn q1_given_500_requests_a_second_when_ten_pods_are_replaced_for_five_minutes_then_no_request_fails() {
    let roll = Roll { pods: 10, callers: 1000, work: 2000, rounds: 3, stale: Duration::from_secs(3), quiet: "5s" };
    let start = Instant::now();
    let (mut served, mut failed) = (0, Vec::new());
    while start.elapsed() < Duration::from_secs(300) {
        let (more, wrong) = roll.run();
        served += more;
        failed.extend(wrong);
    }
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), served + failed.len(), &failed[..failed.len().min(5)]);
    let rate = served as f64 / start.elapsed().as_secs_f64();
    assert!(rate > 300.0, "{rate} requests a second: not the load that was meant");
}

/// A request of `timeout - 1` seconds, begun before the signal, on each protocol; the default quiet period.
fn nearly_the_timeout(timeout: u64) {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port())
        .env("REVISION_TIMEOUT_SECONDS", timeout)
        .unset("LOCKKEEPER_DRAIN_QUIET_PERIOD")
        .start();
    let http = queue.http();
    let path = format!("/slow?ms={}", (timeout - 1) * 1000);
    run_for(patience() + Duration::from_secs(timeout), async {
        let mut calls = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut client = Connection::open(local(http), None, protocol).await.unwrap();
            let path = path.clone();
            calls.push(tokio::task::spawn_local(async move {
                let answer = client.get("hello", &path).await;
                answer.map(|answer| answer.status).map_err(|error| format!("{protocol:?}: {error}"))
            }));
        }
        // Both are in flight when the signal comes: the statistics count from a request's header on.
        let mut began = Connection::open(local(http), None, Protocol::Http1).await.unwrap();
        assert_eq!(began.get("hello", "/").await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
        queue.signal("TERM");
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(200), "timeout {timeout} s");
        }
    });
    assert_eq!(queue.exit().code(), Some(0));
}

/// Q1.2, bounded.
#[test]
fn given_a_request_of_nearly_the_timeout_when_terminated_in_its_beginning_then_it_is_answered() {
    nearly_the_timeout(4);
}

/// Q1.2 in its own numbers.
#[test]
#[ignore = "takes eleven minutes"]
fn q1_given_timeouts_of_10_60_and_600_seconds_when_terminated_then_requests_of_a_second_less_are_answered() {
    for timeout in [10, 60, 600] {
        nearly_the_timeout(timeout);
    }
}

/// Q1.5: within 100 ms of the last answer, once the quiet period is over. The shortest of several tries counts: other
/// work on the machine makes a try longer, never shorter.
#[test]
fn given_the_quiet_period_is_over_when_the_last_request_ends_then_it_is_gone_within_100_ms() {
    let mut took = Vec::new();
    for _ in 0..10 {
        let gate = Gate::default();
        let app = gate.app();
        let mut queue = queue(app.port()).start();
        let mut client = Raw::plain(queue.http());
        client.get("/", "");
        eventually("the request is there", || app.seen().len() == 1);
        queue.signal("TERM");
        queue.logs("Shutting down server: main");
        gate.open();
        assert_eq!(client.reply().status(), 200);
        let answered = Instant::now();
        assert_eq!(queue.exit().code(), Some(0));
        took.push(answered.elapsed());
        // `exit` looks every 5 ms.
        if took.last().is_some_and(|took| *took <= Duration::from_millis(105)) {
            return;
        }
    }
    panic!("never within 100 ms: {took:?}");
}

/// Q1.5: the quiet period counts from the last request, and nothing is added to it.
#[test]
fn given_a_quiet_period_when_nothing_comes_then_it_is_gone_100_ms_after_it() {
    const QUIET: Duration = Duration::from_millis(500);
    let mut took = Vec::new();
    for _ in 0..10 {
        let app = App::ok();
        let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "500ms").start();
        let http = queue.http();
        let signalled = Instant::now();
        queue.signal("TERM");
        queue.logs("attempting to gracefully shutdown servers");
        let last = Instant::now();
        assert_eq!(get(http, "/", "").status(), 200);
        assert_eq!(queue.exit().code(), Some(0));
        let (since, longest) = (last.elapsed(), signalled.elapsed());
        assert!(longest >= QUIET, "{longest:?}: the quiet period was not waited for");
        took.push(since);
        if since <= QUIET + Duration::from_millis(105) {
            return;
        }
    }
    panic!("never within 100 ms of the quiet period's end: {took:?}");
}

/// Q1.4: open streams of a connection that got GOAWAY are finished, and the GOAWAY comes before they end.
#[test]
fn given_an_open_stream_when_terminated_then_goaway_comes_first_and_the_stream_is_finished() {
    let gate = Gate::default();
    let app = gate.h2_app();
    let mut queue = queue(app.addr().port()).start();
    let mut client = crate::support::h2::Frames::connect(queue.http());
    client.headers(
        1,
        &[(":method", "GET"), (":scheme", "http"), (":path", "/sse?n=12&ms=100"), (":authority", "a")],
        true,
    );
    client.until("the response's header", |frame| (frame.kind, frame.stream) == (crate::support::h2::HEADERS, 1));
    queue.signal("TERM");
    let (mut goaway, mut ended) = (None, None);
    let mut count = 0;
    while ended.is_none() {
        let frame = client.next().expect("the stream ends before the connection");
        count += 1;
        if frame.kind == crate::support::h2::GOAWAY {
            goaway.get_or_insert(count);
        }
        assert_ne!(frame.kind, crate::support::h2::RST_STREAM, "reset");
        if frame.stream == 1 && frame.ends_stream() {
            ended = Some(count);
        }
    }
    assert!(goaway.is_some_and(|goaway| Some(goaway) < ended), "GOAWAY {goaway:?}, end {ended:?}");
    assert_eq!(queue.exit().code(), Some(0));
}

/// Q1.3: what outlives the grace period is cut before it ends, by a close frame where there is one, with status 0: also
/// after the quiet period, when only the long ones are left.
#[test]
fn given_work_that_outlives_the_grace_period_when_it_ends_then_it_is_cut_and_told_so() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port()).env("LOCKKEEPER_SHUTDOWN_GRACE", "2s").start();
    let http = queue.http();
    let mut socket = Raw::plain(http);
    socket.get(
        "/ws",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n",
    );
    assert_eq!(socket.head().unwrap().status(), 101);
    let mut events = Raw::plain(http);
    events.get("/sse?n=0&ms=100", "");
    assert_eq!(events.head().unwrap().status(), 200);
    let start = Instant::now();
    queue.signal("TERM");
    assert_eq!(socket.bytes(4), [0x88, 2, 0x03, 0xe9], "close frame 1001");
    while let Some(chunk) = events.chunk() {
        assert!(!chunk.is_empty(), "ended as if whole");
    }
    assert_eq!(queue.exit().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
    assert!(queue.log.text().contains("Hijack connection drain failed"));
}

/// Holds an application's answers back until it is opened.
#[derive(Clone, Default)]
struct Gate(std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>);

impl Gate {
    fn app(&self) -> App {
        let gate = self.0.clone();
        App::start(move |conn| {
            while conn.request().is_some() {
                let open = gate.0.lock().unwrap();
                drop(gate.1.wait_while(open, |open| !*open).unwrap());
                conn.send(ok("ok"));
            }
        })
    }

    fn h2_app(&self) -> lockkeeper::local::app::App {
        lockkeeper::local::app::App::start(local(0)).unwrap()
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}
