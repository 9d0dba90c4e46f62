//! Section 10, T3 to T7: certificates, what may be negotiated, and who is refused. Their changes are in `rotation`.
use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::local::pki::Authority;
use rustls::version::{TLS12, TLS13};

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::{NAME, Pki, client_of};

fn serial(port: u16, trust: &Trust) -> std::io::Result<String> {
    run(dial(local(port), Some(trust), Protocol::Http1)).map(|(_, peer)| peer.unwrap().serial)
}

/// 10.1: the certificate is the one on disk, the version 1.3.
#[test]
fn given_certificates_when_shaking_hands_then_they_are_verified_over_tls_1_3() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let (_, peer) = run(dial(local(queue.tls()), Some(&pki.trust()), Protocol::Http2)).unwrap();
    let peer = peer.unwrap();
    assert_eq!((peer.version.as_str(), peer.serial.as_str()), ("TLSv1_3", "1001"));
    assert_eq!(peer.names, [NAME, "localhost"]);
}

/// What must be refused: other CA, other name, TLS 1.2.
#[test]
fn given_a_caller_that_expects_otherwise_when_shaking_hands_then_it_fails() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let port = queue.tls();
    let other = Authority::mint("other").unwrap();
    assert!(serial(port, &Trust::new(other.der(), NAME)).is_err());
    assert!(serial(port, &Trust { name: "kn-user-other".to_owned(), ..pki.trust() }).is_err());
    assert!(serial(port, &Trust { versions: ONLY_TLS12, ..pki.trust() }).is_err());
    assert!(serial(port, &pki.trust()).is_ok());
}

const ONLY_TLS12: &[&rustls::SupportedProtocolVersion] = &[&TLS12];

/// 10.3: the knobs, under the same names.
#[test]
fn given_tls_1_2_is_allowed_when_a_caller_has_nothing_newer_then_it_is_served() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("QUEUE_PROXY_TLS_MIN_VERSION", "1.2").start();
    let trust = Trust { versions: ONLY_TLS12, ..pki.trust() };
    let (_, peer) = run(dial(local(queue.tls()), Some(&trust), Protocol::Http1)).unwrap();
    assert_eq!(peer.unwrap().version, "TLSv1_2");
}

/// 10.3: only the groups given are negotiated.
#[test]
fn given_curve_preferences_when_shaking_hands_then_only_those_are_used() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("QUEUE_PROXY_TLS_CURVE_PREFERENCES", "P-384").start();
    let (_, peer) = run(dial(local(queue.tls()), Some(&pki.trust()), Protocol::Http1)).unwrap();
    assert_eq!(peer.unwrap().group, "secp384r1");
}

/// 10.3, T7: a value that is none ends the start, and is named.
#[test]
fn given_a_knob_with_an_unknown_value_when_started_then_it_is_refused_by_name() {
    let pki = Pki::new();
    let wrong = [
        ("QUEUE_PROXY_TLS_MIN_VERSION", "1.1"),
        ("QUEUE_PROXY_TLS_MAX_VERSION", "2"),
        ("QUEUE_PROXY_TLS_CIPHER_SUITES", "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
        ("QUEUE_PROXY_TLS_CURVE_PREFERENCES", "x25519"),
    ];
    for (name, value) in wrong {
        let (code, log) = queue(8080).certs(pki.dir()).env(name, value).finish();
        assert_eq!(code, Some(1), "{name}: {log}");
        assert!(log.contains(name) && log.contains(value), "{name}: {log}");
    }
}

/// No plaintext fallback: whatever fails in TLS, the application sees nothing.
#[test]
fn given_handshakes_that_fail_when_they_are_over_then_the_application_saw_nothing() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let port = queue.tls();
    for bytes in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(), &[0x16, 3, 1, 0, 1, 0], &[0x15, 3, 3, 0, 2, 2, 40]] {
        Raw::plain(port).send(bytes).shutdown_and_read();
    }
    assert!(app.seen().is_empty());
    assert!(serial(port, &pki.trust()).is_ok());
}

/// Mutual TLS, `require`: only a certificate of the CA with a configured name (default `kn-routing`) is served.
#[test]
fn given_client_certificates_are_required_when_callers_come_then_only_the_configured_name_is_served() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", "require").start();
    let port = queue.tls();
    let stranger = Authority::mint("stranger").unwrap();
    let ask = |config| Raw::tls(port, config, NAME).get("/", "").try_reply().map(|reply| reply.status());

    assert_eq!(ask(pki.client_as(&pki.authority, "kn-routing")), Some(200));
    assert_eq!(ask(pki.client(&[&TLS13], &[])), None, "without a certificate");
    assert_eq!(ask(pki.client_as(&pki.authority, "kn-user-other")), None, "with another name");
    assert_eq!(ask(pki.client_as(&stranger, "kn-routing")), None, "from another CA");
    assert_eq!(app.seen().len(), 1);
}

/// Mutual TLS, `request`: a caller without a certificate is served, one with a wrong one is not.
#[test]
fn given_client_certificates_are_requested_when_callers_come_then_none_is_fine_and_a_wrong_one_is_not() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", "request").start();
    let port = queue.tls();
    let stranger = Authority::mint("stranger").unwrap();
    let ask = |config| Raw::tls(port, config, NAME).get("/", "").try_reply().map(|reply| reply.status());

    assert_eq!(ask(pki.client(&[&TLS13], &[])), Some(200));
    assert_eq!(ask(pki.client_as(&pki.authority, "kn-routing")), Some(200));
    assert_eq!(ask(pki.client_as(&stranger, "kn-routing")), None);
}

/// A caller's connection does not outlive the authority that vouched for it.
#[test]
fn given_a_certified_connection_when_its_authority_is_replaced_then_it_ends_and_the_caller_is_refused() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", "require").start();
    let port = queue.tls();
    let mut kept = Raw::tls(port, pki.client_as(&pki.authority, "kn-routing"), NAME);
    assert_eq!(kept.get("/", "").reply().status(), 200);

    let next = Authority::mint("the next").unwrap();
    let leaf = next.leaf(&[NAME], 7).unwrap();
    pki.mount.publish_leaf(&leaf, &next).unwrap();

    assert!(kept.closes());
    let ask = |authority| {
        let mut client = Raw::tls(port, client_of(&next, Some((authority, "kn-routing"))), NAME);
        client.get("/", "").try_reply().map(|reply| reply.status())
    };
    assert_eq!(ask(&pki.authority), None);
    assert_eq!(ask(&next), Some(200));
}

/// T4, strict mode: plaintext only from this machine's loopback and kubelet's probes; TLS from everywhere.
#[test]
fn given_strict_mode_when_plaintext_comes_from_elsewhere_then_it_is_refused_but_for_probes() {
    let Some(address) = own_address() else {
        eprintln!("no address but loopback here: nothing to see");
        return;
    };
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_STRICT", "true").start();
    queue.tls();
    let http = queue.http();
    let elsewhere = |headers: &str| Raw::plain_at((address, http).into()).get("/", headers).reply().status();

    assert_eq!(get(http, "/", "").status(), 200, "from loopback");
    assert_eq!(elsewhere(""), 403);
    assert_eq!(elsewhere("User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n"), 200);
    assert_eq!(app.seen().len(), 1);
}

/// An address of this machine that is not loopback. Nothing is sent: the kernel only picks a route.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}
