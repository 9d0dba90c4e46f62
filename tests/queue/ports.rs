//! Section 2: what each port speaks.
use lockkeeper::local::client::{Connection, Protocol};

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, exchange, get, local, run};
use crate::support::pki::{NAME, Pki};

fn sample() -> lockkeeper::local::app::App {
    lockkeeper::local::app::App::start(local(0)).unwrap()
}

/// Main and TLS port: both protocols on each.
#[test]
fn when_asked_in_both_protocols_on_both_data_ports_then_the_application_answers() {
    let (app, pki) = (sample(), Pki::new());
    let mut queue = queue(app.addr().port()).certs(pki.dir()).start();
    let (http, tls) = (queue.http(), queue.tls());
    run(async {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for (port, trust) in [(http, None), (tls, Some(pki.trust()))] {
                let mut client = Connection::open(local(port), trust.as_ref(), protocol).await.unwrap();
                let answer = client.get("hello", "/").await.unwrap();
                assert_eq!(answer.status, 200);
                assert!(String::from_utf8(answer.body).unwrap().starts_with("hello from the sample application"));
            }
        }
    });
}

/// A caller without ALPN may start with the HTTP/2 preface: the activator does.
#[test]
fn given_tls_without_alpn_when_the_preface_or_http1_comes_then_both_are_served() {
    let (app, pki) = (sample(), Pki::new());
    let mut queue = queue(app.addr().port()).certs(pki.dir()).start();
    let port = queue.tls();

    let mut http1 = Raw::tls(port, pki.client(rustls::ALL_VERSIONS, &[]), NAME);
    assert_eq!(http1.get("/", "").reply().status(), 200);

    let mut http2 = Raw::tls(port, pki.client(rustls::ALL_VERSIONS, &[]), NAME);
    http2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let settings = http2.bytes(9);
    assert_eq!(settings.get(3), Some(&4), "a SETTINGS frame, not {settings:?}");
}

/// No protocol in common: an alert, not a guess.
#[test]
fn given_an_unknown_alpn_when_shaking_hands_then_it_is_refused() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let mut client = Raw::tls(queue.tls(), pki.client(rustls::ALL_VERSIONS, &["foo"]), NAME);
    assert!(client.get("/", "").closes());
    assert!(app.seen().is_empty());
}

/// Plain text on the TLS port and a TLS hello on the plain one never reach the application.
#[test]
fn when_a_port_gets_the_wrong_kind_of_bytes_then_it_answers_400_or_closes() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();

    let mut plain = Raw::plain(queue.tls());
    let reply = plain.get("/", "").reply();
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.text(), "Client sent an HTTP request to an HTTPS server.\n");
    let mut preface = Raw::plain(queue.tls());
    preface.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").shutdown_and_read();

    let mut hello = Raw::plain(queue.http());
    let reply = hello.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).shutdown_and_read();
    assert!(reply.is_none_or(|reply| reply.status() == 400));
    assert!(app.seen().is_empty());
}

/// HTTP/1.0 and keep-alive.
#[test]
fn when_http_1_0_asks_then_it_is_answered_and_1_1_keeps_the_connection() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    assert_eq!(exchange(queue.http(), "GET / HTTP/1.0\r\n\r\n").status(), 200);

    let mut client = Raw::plain(queue.http());
    for _ in 0..3 {
        assert_eq!(client.get("/", "").reply().text(), "ok");
    }
    assert_eq!(get(queue.http(), "/", "Connection: close\r\n").status(), 200);
}

/// Section 2: IPv6 too, where the machine has it.
#[test]
fn given_ipv6_when_asked_on_it_then_it_answers() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("no IPv6 here: nothing to see");
        return;
    }
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    assert!(std::net::TcpStream::connect(("::1", queue.http())).is_ok());
}

/// 2: a connection on which no whole header comes is closed; one that was answered once stays open.
#[test]
fn given_a_limit_for_headers_when_none_comes_then_the_connection_is_closed() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_HEADER_READ_TIMEOUT", "300ms").start();
    let http = queue.http();
    let mut served = Raw::plain(http);
    served.get("/", "").reply();
    for bytes in ["", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = Raw::plain(http);
        client.send(bytes);
        assert!(client.closes(), "{bytes:?}");
    }
    assert_eq!(served.get("/", "").reply().status(), 200);
}
