//! Section 10, T3 to T7: certificates, what may be negotiated, and who is refused. Their changes are in `rotation`.
use std::sync::Arc;

use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::local::pki::Authority;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

/// What came of a handshake.
struct Shaken {
    kind: HandshakeKind,
    suite: CipherSuite,
    version: ProtocolVersion,
}

/// A handshake and the beginning of an answer, behind which the tickets are.
fn shake(port: u16, config: &Arc<ClientConfig>) -> std::io::Result<Shaken> {
    run(async {
        let socket = TcpStream::connect(local(port)).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let mut stream = TlsConnector::from(config.clone()).connect(name, socket).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        stream.read_exact(&mut [0]).await?;
        let session = stream.get_ref().1;
        Ok(Shaken {
            kind: session.handshake_kind().unwrap(),
            suite: session.negotiated_cipher_suite().unwrap().suite(),
            version: session.protocol_version().unwrap(),
        })
    })
}

/// 10.3: a newest version below the oldest is no mistake, but nobody can shake hands.
#[test]
fn given_tls_1_2_is_the_newest_when_callers_have_both_then_it_is_used_or_none_is_if_1_3_is_the_oldest() {
    let (app, pki) = (App::ok(), Pki::new());
    let config = Arc::new(pki.client(rustls::ALL_VERSIONS, &[]));
    let mut queue = queue(app.port()).certs(pki.dir()).env("QUEUE_PROXY_TLS_MAX_VERSION", "1.2").start();
    assert!(shake(queue.tls(), &config).is_err());
    assert_eq!(get(queue.http(), "/", "").status(), 200);
    drop(queue);

    let both = crate::support::binary::queue(app.port()).env("QUEUE_PROXY_TLS_MAX_VERSION", "1.2");
    let mut queue = both.certs(pki.dir()).env("QUEUE_PROXY_TLS_MIN_VERSION", "1.2").start();
    assert_eq!(shake(queue.tls(), &config).unwrap().version, ProtocolVersion::TLSv1_2);
}

/// 10.3: the suites of TLS 1.2 are those given, by Go's names; those of 1.3 are taken and ignored. One that HTTP/2 demands
/// must be among them.
#[test]
fn given_cipher_suites_when_shaking_hands_in_tls_1_2_then_only_those_are_used() {
    const GIVEN: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256";
    let (app, pki) = (App::ok(), Pki::new());
    let builder = queue(app.port()).certs(pki.dir()).env("QUEUE_PROXY_TLS_MIN_VERSION", "1.2");
    let mut queue = builder.clone().env("QUEUE_PROXY_TLS_CIPHER_SUITES", GIVEN).start();
    let port = queue.tls();
    let shaken = shake(port, &Arc::new(pki.client(&[&TLS12], &[]))).unwrap();
    assert_eq!(shaken.suite, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    let shaken = shake(port, &Arc::new(pki.client(&[&TLS13], &[]))).unwrap();
    assert_eq!(shaken.version, ProtocolVersion::TLSv1_3, "whose suites are its own");

    let (code, log) = builder.env("QUEUE_PROXY_TLS_CIPHER_SUITES", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384").finish();
    assert!(code == Some(1) && log.contains("HTTP/2-required AES_128_GCM_SHA256"), "{code:?}: {log}");
}

/// 10.3, T8: a caller that comes back takes up its session. Not where certificates are asked for: resumption would skip
/// their verification.
#[test]
fn given_a_caller_that_comes_back_when_shaking_hands_then_its_session_is_resumed_unless_certificates_are_asked_for() {
    let (app, pki) = (App::ok(), Pki::new());
    let config = Arc::new(pki.client_as(&pki.authority, "kn-routing"));
    for (mode, kind) in [("off", HandshakeKind::Resumed), ("require", HandshakeKind::Full)] {
        let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", mode).start();
        let port = queue.tls();
        assert_eq!(shake(port, &config).unwrap().kind, HandshakeKind::Full, "{mode}: the first one");
        assert_eq!(shake(port, &config).unwrap().kind, kind, "{mode}: the second one");
    }
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
