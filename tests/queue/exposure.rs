//! T4: which ports are open in each mode, and which of them speak in plaintext: asked of the kernel, not of the log.
use std::collections::BTreeSet;

use rustls::version::TLS13;

use crate::support::app::App;
use crate::support::binary::{Binary, Builder, queue};
use crate::support::client::{Raw, get};
use crate::support::pki::{NAME, Pki};
use crate::support::port::free_port;
use crate::support::wait::eventually;

/// The ports on which a process listens.
fn listening(binary: &Binary) -> BTreeSet<u16> {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", binary.id())).unwrap();
    let sockets: BTreeSet<String> = descriptors
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", binary.id())).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            const LISTEN: &str = "0A";
            if fields[3] == LISTEN && sockets.contains(fields[9]) {
                let port = fields[1].rsplit(':').next().unwrap();
                ports.insert(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}

/// Whether a port answers HTTP in plaintext with anything but the refusal to speak it.
fn speaks_plaintext(port: u16) -> bool {
    let mut client = Raw::plain(port);
    client.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    client.try_reply().is_some_and(|reply| !reply.text().contains("an HTTP request to an HTTPS server"))
}

/// The queue's ports by their roles, of those that are open.
#[track_caller]
fn scan(builder: Builder, wait: impl Fn(&mut Binary), known: &[(&'static str, u16)], expected: &[(&str, bool)]) {
    let mut queue = builder.start();
    wait(&mut queue);
    let mut names = vec![("main", queue.http()), ("admin", queue.admin()), ("statistics", queue.stats())];
    if !queue.log.lines(|line| line.contains("tls server main:")).is_empty() {
        names.push(("tls", queue.tls()));
    }
    names.extend_from_slice(known);
    let open = listening(&queue);
    let strangers: Vec<&u16> = open.iter().filter(|port| !names.iter().any(|(_, known)| known == *port)).collect();
    assert!(strangers.is_empty(), "nobody knows of {strangers:?}: {names:?}");
    let found: BTreeSet<(&str, bool)> = names
        .iter()
        .filter(|(_, port)| open.contains(port))
        .map(|(name, port)| (*name, speaks_plaintext(*port)))
        .collect();
    assert_eq!(found, expected.iter().copied().collect(), "role, and whether it speaks plaintext");
}

#[test]
fn given_no_certificates_when_scanned_then_the_documented_plaintext_ports_and_no_other() {
    let app = App::ok();
    let expected = [("main", true), ("admin", true), ("statistics", true)];
    scan(queue(app.port()), |_| (), &[], &expected);
}

#[test]
fn given_certificates_when_scanned_then_tls_is_added_and_nothing_else_changes() {
    let (app, pki) = (App::ok(), Pki::new());
    let expected = [("main", true), ("admin", true), ("statistics", true), ("tls", false)];
    scan(queue(app.port()).certs(pki.dir()), |queue| assert_ne!(queue.tls(), 0), &[], &expected);
}

#[test]
fn given_metrics_and_profiling_when_scanned_then_each_has_the_port_it_was_given() {
    let (app, pki) = (App::ok(), Pki::new());
    let (metrics, profiling) = (free_port(), free_port());
    let config = format!(
        r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":"127.0.0.1:{metrics}"}},"runtime":{{"profiling":"enabled"}}}}"#
    );
    let builder =
        queue(app.port()).certs(pki.dir()).env("OBSERVABILITY_CONFIG", config).env("PROFILING_PORT", profiling);
    let open = move |queue: &mut Binary| {
        queue.tls();
        for port in [metrics, profiling] {
            eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
    };
    let expected =
        [("main", true), ("admin", true), ("statistics", true), ("tls", false), ("metrics", true), ("profiling", true)];
    scan(builder, open, &[("metrics", metrics), ("profiling", profiling)], &expected);
}

/// Metrics over TLS: its port no longer answers in plaintext.
#[test]
fn given_metrics_over_tls_when_scanned_then_that_port_speaks_no_plaintext() {
    let (app, pki) = (App::ok(), Pki::new());
    let metrics = free_port();
    let config = format!(r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":"127.0.0.1:{metrics}"}}}}"#);
    let builder = queue(app.port())
        .certs(pki.dir())
        .env("OBSERVABILITY_CONFIG", config)
        .env("METRICS_PROMETHEUS_TLS_CERT", pki.dir().join("tls.crt").display())
        .env("METRICS_PROMETHEUS_TLS_KEY", pki.dir().join("tls.key").display());
    let open = move |queue: &mut Binary| {
        queue.tls();
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", metrics)).is_ok());
    };
    let expected = [("main", true), ("admin", true), ("statistics", true), ("tls", false), ("metrics", false)];
    scan(builder, open, &[("metrics", metrics)], &expected);
}

/// Strict mode: the plaintext data port is there for probes and loopback; the same data is served over TLS to all. It holds
/// before there is a certificate, too.
#[test]
fn given_strict_mode_when_asked_from_elsewhere_then_data_comes_over_tls_alone() {
    let Some(address) = own_address() else {
        eprintln!("no address but loopback here: nothing to see");
        return;
    };
    let (app, mut pki) = (App::ok(), Pki::empty());
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_STRICT", "true").start();
    let http = queue.http();
    let elsewhere = |headers: &str| Raw::plain_at((address, http).into()).get("/", headers).reply();
    let refused = || {
        // What an attacker may claim to be changes nothing.
        for claim in [
            "",
            "K-Kubelet-Probe: x\r\n",
            "X-Forwarded-For: 127.0.0.1\r\n",
            "K-Network-Probe: queue\r\n",
            "Host: localhost\r\n",
        ] {
            let reply = elsewhere(claim);
            assert!(matches!(reply.status(), 400 | 403), "{claim:?}: {}", reply.status());
        }
        let mut preface = crate::support::h2::Frames::connect_to((address, http).into());
        let get_h2 = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        preface.headers(1, &get_h2, true);
        preface.until("an answer", |frame| frame.stream == 1 && frame.ends_stream());
        assert!(app.seen().is_empty(), "{:?}", app.seen());
    };
    refused();
    pki.rotate();
    let tls = queue.tls();
    refused();
    let mut client = Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME);
    assert_eq!(client.get("/", "").reply().status(), 200);
    assert_eq!(get(http, "/", "").status(), 200, "from loopback");
    let probe = elsewhere("User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n");
    assert_eq!((probe.status(), probe.text().as_str()), (200, "queue"));
    assert_eq!(app.count(), 2, "probes are answered here");
}

/// An address of this machine that is not loopback. Nothing is sent: the kernel only picks a route.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}
