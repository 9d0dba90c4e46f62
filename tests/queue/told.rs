//! O3, Q9, T1, T5, T7: what operators can see that the original does not show: `lockkeeper_*` and its log lines.
use rustls::version::TLS13;

use crate::support::app::{App, ok};
use crate::support::binary::queue;
use crate::support::client::{Raw, exchange, get};
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::{Sample, observed, prometheus, sum};
use crate::support::wait::eventually;

fn causes(page: &[Sample], token: &str) -> f64 {
    sum(page, "lockkeeper_causes_total", &[("cause", token)]).unwrap_or_default()
}

/// Q9: whatever answer is ours is counted by its token: probes, refusals before the stack and hyper's own included.
#[test]
fn given_answers_of_our_own_when_scraped_then_each_is_counted_by_its_cause() {
    let app = App::start(|conn| drop(conn.request()));
    let probe = format!(r#"{{"httpGet":{{"port":{},"host":"127.0.0.1"}},"periodSeconds":1}}"#, app.port());
    let (mut queue, port) = observed(queue(app.port()).env("SERVING_READINESS_PROBE", probe));
    let http = queue.http();
    get(http, "/", "");
    get(http, "/", "K-Network-Probe: probe\r\n");
    get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n");
    get(http, "/", "Expect: something\r\n");
    assert_eq!(exchange(http, "GET / HTTP/1.1\r\n\r\n").header("x-lockkeeper-cause"), Some("bad_request"));
    // hyper answers this one.
    assert_eq!(exchange(http, "GET / HTTP/1.1\r\nHost: a\r\nBad Name: b\r\n\r\n").status(), 400);
    for (token, count) in
        [("upstream_eof", 1.0), ("probe", 1.0), ("not_ready", 1.0), ("expectation", 1.0), ("bad_request", 2.0)]
    {
        // A connection that hyper ends is counted a moment after its answer.
        eventually(&format!("{token} is counted"), || causes(&prometheus(port), token) >= count);
        assert_eq!(causes(&prometheus(port), token), count, "{token}");
    }
}

/// T7: what was negotiated, in words from a fixed set. T8: connections, and how often they are used again.
#[test]
fn given_connections_when_scraped_then_ports_handshakes_and_reuse_are_counted() {
    let (app, pki) = (App::ok(), Pki::new());
    let (mut queue, port) = observed(queue(app.port()).certs(pki.dir()));
    let (http, tls) = (queue.http(), queue.tls());
    let mut client = Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME);
    client.get("/", "").reply();
    client.get("/", "").reply();
    get(http, "/", "");
    Raw::plain(tls).send("GET / HTTP/1.1\r\n\r\n").try_reply();
    let page = prometheus(port);
    let count = |name: &str, labels: &[(&str, &str)]| sum(&page, name, labels).unwrap_or_default();
    assert_eq!(count("lockkeeper_connections_accepted_total", &[("port", "tls")]), 2.0);
    assert_eq!(count("lockkeeper_connections_accepted_total", &[("port", "main")]), 1.0);
    let negotiated = [("version", "1.3"), ("group", "X25519MLKEM768")];
    assert_eq!(count("lockkeeper_tls_handshakes_total", &negotiated), 1.0, "{page:?}");
    assert_eq!(count("lockkeeper_tls_handshake_failures_total", &[("cause", "tls_not_tls")]), 1.0);
    assert!(count("lockkeeper_upstream_connections_opened_total", &[]) >= 1.0);
    assert!(count("lockkeeper_upstream_connections_reused_total", &[]) >= 1.0);
}

/// T1.6: when the certificate and the authority expire, what was taken, and what was not and why.
#[test]
fn given_certificates_when_scraped_then_expiry_reloads_and_refusals_are_there() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let (mut queue, port) = observed(queue(app.port()).certs(pki.dir()));
    queue.tls();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let page = prometheus(port);
    for kind in ["identity", "authority"] {
        let end = sum(&page, "lockkeeper_certificate_not_after_timestamp_seconds", &[("kind", kind)]);
        assert!(end.is_some_and(|end| end > now), "{kind}: {end:?}");
    }
    assert_eq!(sum(&page, "lockkeeper_certificate_reloads_total", &[]), Some(1.0));

    let (one, two) = (pki.leaf(), pki.leaf());
    pki.mount.publish(&[("tls.crt", one.chain.as_bytes()), ("tls.key", two.key.as_bytes())]).unwrap();
    let refused = |reason| {
        sum(&prometheus(port), "lockkeeper_certificate_reload_failures_total", &[("reason", reason)]).unwrap_or(-1.0)
    };
    eventually("the mismatch is counted", || refused("key_mismatch") > 0.0);
    pki.rotate();
    let reloads = || sum(&prometheus(port), "lockkeeper_certificate_reloads_total", &[]);
    eventually("the next pair is taken", || reloads() == Some(2.0));
    assert_eq!(refused("key_mismatch"), 1.0, "once, however often it was looked at");
    assert_eq!(queue.log.lines(|line| line.contains("key_mismatch")).len(), 1, "logged once");
}

/// T1.6: a warning when less than a third of the certificate's life is left.
#[test]
fn given_a_certificate_near_its_end_when_loaded_then_the_log_warns() {
    let (app, mut pki) = (App::ok(), Pki::empty());
    pki.near_its_end();
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let line = queue.logs("less than a third of its life is left");
    assert!(line.contains(NAME) && line.contains("WARNING"), "{line}");
}

/// T5: one line for each peer a minute, not one for each handshake; all are counted.
#[test]
fn given_callers_without_a_certificate_when_refused_then_all_are_counted_and_one_line_is_written() {
    let (app, pki) = (App::ok(), Pki::new());
    let (mut queue, port) = observed(queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", "require"));
    let tls = queue.tls();
    for _ in 0..5 {
        assert!(Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME).get("/", "").try_reply().is_none());
    }
    let refused =
        || sum(&prometheus(port), "lockkeeper_tls_handshake_failures_total", &[("cause", "tls_no_certificate")]);
    eventually("all are counted", || refused() == Some(5.0));
    assert_eq!(queue.log.lines(|line| line.contains("tls_no_certificate")).len(), 1);
}

/// O4: lines that nobody takes are dropped and counted; requests go on.
#[test]
fn given_a_reader_of_the_log_that_stalls_when_requests_come_then_lines_are_dropped_and_counted() {
    let app = App::each(|_, _| ok("ok"));
    let port = crate::support::port::free_port();
    let config = format!(
        r#"{{"enableRequestLog":true,"requestMetrics":{{"protocol":"prometheus","endpoint":"127.0.0.1:{port}"}},
            "requestLogTemplate":"{}"}}"#,
        "x".repeat(32 * 1024)
    );
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).stall_stdout().start();
    let mut client = Raw::plain(queue.http());
    eventually("lines are dropped", || {
        for _ in 0..50 {
            assert_eq!(client.get("/", "").reply().status(), 200);
        }
        sum(&prometheus(port), "lockkeeper_log_lines_dropped_total", &[]).is_some_and(|dropped| dropped > 0.0)
    });
}
