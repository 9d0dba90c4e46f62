//! The gateway's metrics, as scraped: what went wrong and why.
use std::io::Write as _;
use std::net::TcpStream;

use super::harness::{Directory, app, builder, get, simple};
use crate::support::wait::eventually;

/// What is told to the caller is counted by the same word; an answer of the application's is not counted.
#[test]
fn given_answers_of_its_own_when_metrics_are_scraped_then_each_cause_is_counted() {
    let (directory, backend) = (Directory::new(), app("one"));
    directory.backend("app", "http", &[backend.port()]).apply(simple("a", "a", "app"));
    let mut gateway = directory.start(builder());
    let (http, https, admin) = (gateway.http(), gateway.https(), gateway.admin());
    gateway.ready("a", 1);
    let metrics = || get(admin, "x", "/metrics").text();
    assert!(!metrics().contains("lockkeeper_causes_total"), "nothing went wrong yet: {}", metrics());

    assert_eq!(get(http, "a", "/").status(), 200);
    let told = [(); 3].map(|()| get(http, "unknown", "/").header("x-lockkeeper-cause").unwrap().to_owned());
    let line = format!("lockkeeper_causes_total{{cause=\"{}\"}} 3\n", told[0]);
    eventually(&line, || metrics().contains(&line));

    TcpStream::connect(("127.0.0.1", https)).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    eventually("the failed handshake is counted", || {
        metrics()
            .lines()
            .any(|line| line.starts_with("lockkeeper_tls_handshake_failures_total{") && line.ends_with(" 1"))
    });
}
