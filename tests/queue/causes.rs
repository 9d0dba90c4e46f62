//! Q8 and Q9: every token of the README's table, once each: in the answer's header, in the log, in the metrics; and what
//! gRPC callers are told.
use std::collections::BTreeSet;

use lockkeeper::local::client::{Answer, Connection, Outgoing, Protocol};

use crate::support::app::{App, Conn, ok};
use crate::support::binary::{Binary, queue};
use crate::support::client::{Raw, exchange, get, local, run};
use crate::support::scrape::{observed, prometheus, sum};
use crate::support::wait::{eventually, eventually_some};

/// The queue's tokens in the README's table.
fn documented() -> BTreeSet<String> {
    let readme = std::fs::read_to_string("README.md").unwrap();
    let table = readme.split("### Why an answer is not the application's").nth(1).expect("the section");
    let rows = table.split("\n##").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    // Rows of other roles begin with the role.
    let rows = rows.filter(|row| !row.contains("| activator: ") && !row.contains("| gateway: "));
    rows.flat_map(|row| {
        row.split('|').nth(1).unwrap().split(',').map(|token| token.trim().trim_matches('`').to_owned())
    })
    .collect()
}

/// A queue that logs everything and is scraped.
struct Scene {
    app: App,
    queue: Binary,
    http: u16,
    metrics: u16,
}

fn scene(app: App, change: impl FnOnce(crate::support::binary::Builder) -> crate::support::binary::Builder) -> Scene {
    let builder = change(queue(app.port()).env("SERVING_LOGGING_LEVEL", "debug"));
    let (mut queue, metrics) = observed(builder);
    let http = queue.http();
    Scene { app, queue, http, metrics }
}

fn as_is(builder: crate::support::binary::Builder) -> crate::support::binary::Builder {
    builder
}

fn silent() -> App {
    App::start(|conn| {
        conn.request();
        conn.wait_close();
    })
}

fn scripted(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> App {
    App::start(move |conn| {
        if conn.request().is_some() {
            script(conn);
        }
    })
}

impl Scene {
    /// The cause is in the log and in the metrics.
    #[track_caller]
    fn told(&mut self, token: &str) {
        self.queue.logs(&format!(r#""cause":"{token}""#));
        let port = self.metrics;
        eventually(&format!("{token} is counted"), || {
            sum(&prometheus(port), "lockkeeper_causes_total", &[("cause", token)]) >= Some(1.0)
        });
    }
}

/// Q9: one case a token. What is never sent as an answer (`caller_left`) has its own test below.
#[test]
fn given_each_documented_cause_when_it_happens_then_header_log_and_metric_name_it() {
    let nobody = crate::support::port::free_port();
    let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
    let mut tested = BTreeSet::new();
    let mut case =
        |token: &str, mut scene: Scene, status: u16, request: &dyn Fn(u16) -> crate::support::client::Reply| {
            let reply = request(scene.http);
            assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (status, Some(token)));
            scene.told(token);
            tested.insert(token.to_owned());
        };
    let plain = |http: u16| get(http, "/", "");

    case("bad_request", scene(App::ok(), as_is), 400, &|http| get(http, "/%zz", ""));
    case("expectation", scene(App::ok(), as_is), 417, &|http| get(http, "/", "Expect: tea\r\n"));
    case("transfer_coding", scene(App::ok(), as_is), 501, &|http| {
        exchange(http, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
    });
    case("connect_unsupported", scene(App::ok(), as_is), 502, &|http| {
        exchange(http, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
    });
    case("request_body", scene(silent(), as_is), 502, &|http| {
        exchange(http, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    });
    case("upstream_refused", scene(App::ok(), |b| b.env("USER_PORT", nobody)), 502, &plain);
    case("upstream_eof", scene(scripted(|_| ()), as_is), 502, &plain);
    case("upstream_reset", scene(scripted(Conn::reset), as_is), 502, &plain);
    case("upstream_malformed", scene(scripted(|conn| conn.send("SSH-2.0-x\r\n\r\n")), as_is), 502, &plain);
    let large = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(600));
    case("upstream_head_too_large", scene(scripted(move |conn| conn.send(&large)), as_is), 502, &plain);
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n";
    case("upstream_switch", scene(scripted(move |conn| conn.send(switch)), as_is), 502, &plain);
    case("timeout_total", scene(silent(), |b| b.env("REVISION_TIMEOUT_SECONDS", 1)), 504, &plain);
    case("timeout_start", scene(silent(), |b| b.env("REVISION_RESPONSE_START_TIMEOUT_SECONDS", 1)), 504, &plain);
    case("timeout_idle", scene(silent(), |b| b.env("REVISION_IDLE_TIMEOUT_SECONDS", 1)), 504, &plain);
    case("probe", scene(App::ok(), as_is), 400, &|http| get(http, "/", "K-Network-Probe: probe\r\n"));
    let never =
        r#"{"httpGet":{"path":"/","port":1,"host":"127.0.0.1","scheme":"HTTP"},"periodSeconds":1,"timeoutSeconds":1}"#;
    case("not_ready", scene(App::ok(), |b| b.env("SERVING_READINESS_PROBE", never)), 503, &|http| {
        get(http, "/", probe)
    });
    case("draining", draining(), 503, &|http| get(http, "/", "K-Network-Probe: probe\r\nK-Network-Hash: a\r\n"));
    let (full, held) = full();
    case("queue_full", full, 503, &|http| refused_when_full(http));
    drop(held);
    if let Some(address) = own_address() {
        let strict = scene(App::ok(), |b| b.env("LOCKKEEPER_STRICT", "true"));
        case("plaintext_refused", strict, 403, &|http| Raw::plain_at((address, http).into()).get("/", "").reply());
    } else {
        tested.insert("plaintext_refused".to_owned());
        eprintln!("no address but loopback here: plaintext_refused cannot be seen");
    }

    tested.insert("caller_left".to_owned());
    assert_eq!(tested, documented(), "a cause without a case, or a case without a row in the README");
}

fn draining() -> Scene {
    let scene = scene(App::ok(), |b| b.env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "60s"));
    scene.queue.signal("TERM");
    eventually("it drains", || {
        get(scene.http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n").status() == 503
    });
    scene
}

/// One slot, ten places to wait, all taken.
fn full() -> (Scene, Vec<Raw>) {
    let scene = scene(silent(), |b| b.env("CONTAINER_CONCURRENCY", 1));
    let mut held: Vec<Raw> = (0..11).map(|_| Raw::plain(scene.http)).collect();
    for client in &mut held {
        client.get("/", "");
    }
    eventually("one request runs", || scene.app.count() == 1);
    let metrics = scene.metrics;
    eventually("one runs and ten wait", || {
        sum(&prometheus(metrics), "kn_serving_queue_depth", &[]).is_some_and(|depth| depth >= 11.0)
    });
    (scene, held)
}

fn refused_when_full(http: u16) -> crate::support::client::Reply {
    get(http, "/", "")
}

/// An address of this machine that is not loopback. Nothing is sent: the kernel only picks a route.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Q9: a caller that left is 499 in the metrics and the request log, a line at debug, and no error: before the answer and
/// in its middle.
#[test]
fn given_a_caller_that_leaves_when_it_is_told_then_it_is_499_at_debug() {
    let apps: [fn() -> App; 2] = [silent, || {
        scripted(|conn| {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            conn.wait_close();
        })
    }];
    for (in_the_middle, app) in [false, true].into_iter().zip(apps) {
        let app = app();
        let mut queue = queue(app.port())
            .env("SERVING_LOGGING_LEVEL", "debug")
            .env("OBSERVABILITY_CONFIG", r#"{"enableRequestLog":true,"requestLogTemplate":"CODE {{.Response.Code}}"}"#)
            .start();
        let mut client = Raw::plain(queue.http());
        client.get("/", "");
        if in_the_middle {
            assert_eq!(client.head().unwrap().status(), 200);
            assert_eq!(client.chunk().unwrap(), b"one");
        } else {
            eventually("the request is there", || app.count() == 1);
        }
        drop(client);
        assert_eq!(queue.logs("CODE "), "CODE 499", "in the middle: {in_the_middle}");
        let line = queue.logs("caller_left");
        assert!(line.contains(r#""severity":"DEBUG""#), "{line}");
        let loud = queue.log.lines(|line| line.contains(r#""severity":"ERROR""#) || line.contains("WARN"));
        assert!(loud.is_empty(), "{loud:?}");
    }
}

fn grpc(port: u16) -> Answer {
    run(async {
        let mut client = Connection::open(local(port), None, Protocol::Http2).await.unwrap();
        let request = client
            .request("POST", "hello", "/grpc.Echo/Unary")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Outgoing::whole("x"))
            .unwrap();
        client.fetch(request).await.unwrap()
    })
}

/// Q8: errors of our own are gRPC's, with HTTP status 200, a message, and the cause still named.
#[test]
fn given_a_grpc_caller_when_the_answer_is_ours_then_it_carries_a_grpc_status() {
    let nobody = crate::support::port::free_port();
    let closing = || App::start(|conn| drop(conn.some()));
    let (full, _held) = full();
    let cases: [(&str, Scene, &str); 6] = [
        ("upstream_refused", scene(App::ok(), |b| b.env("USER_PORT", nobody)), "14"),
        ("upstream_reset", scene(closing(), as_is), "14"),
        ("timeout_total", scene(mute(), |b| b.env("REVISION_TIMEOUT_SECONDS", 1)), "4"),
        ("timeout_start", scene(mute(), |b| b.env("REVISION_RESPONSE_START_TIMEOUT_SECONDS", 1)), "4"),
        ("timeout_idle", scene(mute(), |b| b.env("REVISION_IDLE_TIMEOUT_SECONDS", 1)), "4"),
        ("queue_full", full, "8"),
    ];
    for (cause, scene, status) in cases {
        let answer = grpc(scene.http);
        let field = |name: &str| {
            let trailer = answer.trailers.as_ref().and_then(|trailers| trailers.get(name));
            answer.headers.get(name).or(trailer).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        assert_eq!((answer.status, field("grpc-status").as_deref()), (200, Some(status)), "{cause}: {answer:?}");
        assert!(field("grpc-message").is_some_and(|message| !message.is_empty()), "{cause}: {answer:?}");
        assert_eq!(field("content-type").as_deref(), Some("application/grpc"), "{cause}");
        let named = field("x-lockkeeper-cause").unwrap_or_default();
        assert!(named == cause || cause == "upstream_reset" && named.starts_with("upstream_"), "{cause}: {named}");
        assert!(answer.body.is_empty(), "{cause}: no text where messages are expected");
    }
}

/// Takes connections and says nothing, whatever the protocol.
fn mute() -> App {
    App::start(|conn| conn.wait_close())
}

/// Q8: what the application says to gRPC callers is the application's: its statuses pass untouched.
#[test]
fn given_a_grpc_error_of_the_application_when_proxied_then_it_is_not_ours() {
    let app = App::start(|conn| {
        while let Some(head) = conn.head() {
            conn.body(&head);
            conn.send(
                "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: 5\r\nContent-Length: 0\r\n\r\n",
            );
        }
    });
    let mut queue = queue(app.port()).start();
    let answer = grpc(queue.http());
    assert_eq!(answer.headers.get("grpc-status").unwrap(), "5");
    assert!(answer.headers.get("x-lockkeeper-cause").is_none());
}

/// What callers see of a fault never names the pod's addresses.
#[test]
fn given_faults_of_the_application_when_answered_then_no_address_is_told() {
    let nobody = crate::support::port::free_port();
    let mut queue = queue(nobody).start();
    let http = queue.http();
    let reply = eventually_some("an answer", || Raw::plain(http).get("/", "").try_reply());
    assert!(!reply.text().contains("127.0.0.1") && !reply.text().contains(&nobody.to_string()), "{}", reply.text());
    assert_eq!(App::each(|_, _| ok("ok")).count(), 0);
}
