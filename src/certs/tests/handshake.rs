//! Who is accepted and who is refused, over real sockets (T5, T6 of the users' list).
#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fixture;
use crate::certs::mint::{Ca, KeyKind, LeafSpec, Pair, Usages, Validity};
use crate::tls::client::{Alpn, Connector, Sni};
use crate::tls::client_auth::{Allowed, ClientAuth};
use crate::tls::error::{Error, Reason};
use crate::tls::identity::{self, Identity};
use crate::tls::policy::Policy;
use crate::tls::verifier::ExpectedSan;
use crate::tls::{server, trust};

fn identity(pair: &Pair) -> Arc<identity::Store> {
    let store = identity::Store::new();
    store.publish(Identity::from_pem(pair.cert_pem.as_bytes(), pair.key_pem.as_bytes()).unwrap());
    store
}

fn trusting(pem: &str) -> Arc<trust::Store> {
    let store = trust::Store::new();
    store.set_source("test", pem.as_bytes());
    store
}

struct Server {
    policy: Policy,
    identity: Arc<identity::Store>,
    auth: ClientAuth,
}

impl Server {
    fn new(pair: &Pair) -> Self {
        Self { policy: Policy::default(), identity: identity(pair), auth: ClientAuth::Off }
    }

    /// Echoes one byte on each connection; what the server says of each handshake comes out of the channel.
    async fn start(&self) -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Result<Facts, Error>>) {
        let config = server::config(&self.policy, self.identity.clone(), &self.auth, server::ALPN_HTTP).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, said) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let accept = TlsAcceptor::from(config.clone()).accept(socket);
                let told = told.clone();
                tokio::spawn(async move {
                    match accept.await {
                        Ok(mut stream) => {
                            let session = stream.get_ref().1;
                            let facts = Facts {
                                sni: session.server_name().map(str::to_owned),
                                resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
                                group: session.negotiated_key_exchange_group().map(|group| group.name()),
                                alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                            };
                            let _ = told.send(Ok(facts));
                            let mut byte = [0];
                            if stream.read_exact(&mut byte).await.is_ok() {
                                let _ = stream.write_all(&byte).await;
                                let _ = stream.shutdown().await;
                            }
                        }
                        Err(error) => {
                            let _ = told.send(Err(Error::from_io(&error)));
                        }
                    }
                });
            }
        });
        (address, said)
    }
}

#[derive(Debug)]
struct Facts {
    sni: Option<String>,
    resumed: bool,
    group: Option<rustls::NamedGroup>,
    alpn: Option<Vec<u8>>,
}

/// A handshake and a byte there and back, so that tickets arrive and a late refusal shows itself.
async fn call(connector: &Connector, address: std::net::SocketAddr, name: &str) -> Result<u64, Error> {
    let socket = TcpStream::connect(address).await.unwrap();
    let expected = ExpectedSan::new(name);
    let connected = connector.connect(socket, address.ip(), &expected, Alpn::Either).await?;
    let (mut stream, generation) = (connected.stream, connected.generation);
    let io = |error: std::io::Error| Error::from_io(&error);
    stream.write_all(b"x").await.map_err(io)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.map_err(io)?;
    match back.is_empty() {
        true => Err(Error::new(Reason::Closed, "closed")),
        false => Ok(generation),
    }
}

async fn verdict(pair: &Pair, ca: &str, name: &str) -> Result<u64, Reason> {
    let (address, _said) = Server::new(pair).start().await;
    let connector = Connector::new(&Policy::default(), trusting(ca));
    call(&connector, address, name).await.map_err(|error| error.reason())
}

/// T6: what a leaf may have wrong, and the reason that is given for it.
#[tokio::test]
async fn given_a_bad_leaf_when_connecting_then_it_is_refused_with_its_reason() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let stranger = Ca::new("stranger", KeyKind::P256).unwrap();
    let good = || LeafSpec::new(["kn-user-demo"]);
    let between = root.intermediate("between", KeyKind::P256).unwrap();
    let mut without = between.leaf(&good()).unwrap();
    let end = without.cert_pem.find("-----END CERTIFICATE-----\n").unwrap() + 26;
    without.cert_pem.truncate(end);
    let cases = [
        ("expired", root.leaf(&LeafSpec { validity: Validity::expired(), ..good() }), Reason::Expired),
        ("not yet", root.leaf(&LeafSpec { validity: Validity::not_yet(), ..good() }), Reason::NotYetValid),
        ("other CA", stranger.leaf(&good()), Reason::UnknownCa),
        ("same CA, other namespace", root.leaf(&LeafSpec::new(["kn-user-other"])), Reason::SanMismatch),
        ("wildcard", root.leaf(&LeafSpec::new(["*", "*.demo", "kn-user-*"])), Reason::SanMismatch),
        ("longer name", root.leaf(&LeafSpec::new(["kn-user-demo2", "xkn-user-demo"])), Reason::SanMismatch),
        ("no name", root.leaf(&LeafSpec::default()), Reason::SanMismatch),
        ("client only", root.leaf(&LeafSpec { usages: Usages::Client, ..good() }), Reason::WrongUsage),
        ("no intermediate", Ok(without), Reason::UnknownCa),
    ];

    for (what, pair, reason) in cases {
        assert_eq!(verdict(&pair.unwrap(), root.root_pem(), "kn-user-demo").await, Err(reason), "{what}");
    }
}

/// T6 and the contract, 10.1: each key type, an intermediate, capitals, a namespace of 63 characters.
#[tokio::test]
async fn given_a_good_leaf_when_connecting_then_it_is_accepted() {
    let longest = format!("kn-user-{}", "n".repeat(63));
    let mut cases: Vec<(String, &str)> = std::fs::read_dir(fixture("good"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| match name.as_str() {
            "longest-namespace" => (name, longest.as_str()),
            "routing" => (name, "kn-routing"),
            _ => (name, "KN-user-Demo"),
        })
        .collect();
    cases.sort();
    assert_eq!(cases.len(), 17);

    for (name, expected) in cases {
        let read = |file| std::fs::read_to_string(fixture("good").join(&name).join(file)).unwrap();
        let pair = Pair { cert_pem: read("tls.crt"), key_pem: read("tls.key") };
        assert_eq!(verdict(&pair, &read("ca.crt"), expected).await, Ok(1), "{name}");
    }
}

/// The error must say which name was expected and which were presented.
#[tokio::test]
async fn given_another_name_when_connecting_then_the_error_names_both() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let pair = root.leaf(&LeafSpec::new(["kn-user-other", "kn-routing"])).unwrap();
    let (address, mut said) = Server::new(&pair).start().await;
    let connector = Connector::new(&Policy::default(), trusting(root.root_pem()));

    let error = call(&connector, address, "kn-user-demo").await.unwrap_err();

    assert_eq!(error.token(), "tls_san_mismatch");
    assert!(error.to_string().contains("expected kn-user-demo, presented kn-user-other, kn-routing"), "{error}");
    assert_eq!(said.recv().await.unwrap().unwrap_err().reason(), Reason::PeerAlert);
}

/// Several names may be accepted for a while (T3).
#[tokio::test]
async fn given_a_legacy_name_when_it_is_expected_too_then_it_is_accepted() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let pair = root.leaf(&LeafSpec::new(["data-plane.knative.dev"])).unwrap();
    let (address, _said) = Server::new(&pair).start().await;
    let connector = Connector::new(&Policy::default(), trusting(root.root_pem()));
    let expected = ExpectedSan::new("kn-user-demo").or("data-plane.knative.dev");

    let socket = TcpStream::connect(address).await.unwrap();
    assert!(connector.connect(socket, address.ip(), &expected, Alpn::Http1).await.is_ok());
}

/// A session is resumed for the same name only: resumption skips the verifier.
#[tokio::test]
async fn given_a_session_when_another_name_is_expected_then_it_is_not_resumed() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let pair = root.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap();
    let (address, mut said) = Server::new(&pair).start().await;
    let connector = Connector::new(&Policy::default(), trusting(root.root_pem()));

    call(&connector, address, "kn-user-demo").await.unwrap();
    assert!(!said.recv().await.unwrap().unwrap().resumed);
    call(&connector, address, "kn-user-demo").await.unwrap();
    assert!(said.recv().await.unwrap().unwrap().resumed);

    let error = call(&connector, address, "kn-user-other").await.unwrap_err();
    assert_eq!(error.reason(), Reason::SanMismatch);
}

/// A removed authority must not live on in a session; one that was added costs nothing but a handshake.
#[tokio::test]
async fn given_a_session_when_its_authority_is_removed_then_the_peer_is_refused() {
    let (old, new) = (Ca::new("old", KeyKind::P256).unwrap(), Ca::new("new", KeyKind::P256).unwrap());
    let pair = old.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap();
    let (address, _said) = Server::new(&pair).start().await;
    let trust = trusting(old.root_pem());
    let connector = Connector::new(&Policy::default(), trust.clone());
    let first = call(&connector, address, "kn-user-demo").await.unwrap();

    trust.set_source("test", format!("{}{}", old.root_pem(), new.root_pem()).as_bytes());
    assert!(trust.is_current(first));
    call(&connector, address, "kn-user-demo").await.unwrap();

    trust.set_source("test", new.root_pem().as_bytes());
    assert!(!trust.is_current(first));
    assert_eq!(call(&connector, address, "kn-user-demo").await.unwrap_err().reason(), Reason::UnknownCa);
}

/// Without an authority nobody is trusted, and nothing is sent.
#[tokio::test]
async fn given_no_authority_when_connecting_then_it_is_refused_before_the_handshake() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let (address, _said) = Server::new(&root.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap()).start().await;

    let connector = Connector::new(&Policy::default(), trust::Store::new());

    assert_eq!(call(&connector, address, "kn-user-demo").await.unwrap_err().reason(), Reason::NoTrust);
}

/// The next handshake serves a new certificate; an empty store refuses.
#[tokio::test]
async fn given_a_running_server_when_the_identity_changes_then_the_next_handshake_serves_it() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let server = Server::new(&root.leaf(&LeafSpec::new(["kn-user-one"])).unwrap());
    let (address, _said) = server.start().await;
    let connector = Connector::new(&Policy::default(), trusting(root.root_pem()));
    call(&connector, address, "kn-user-one").await.unwrap();

    let rsa = LeafSpec { key_kind: KeyKind::Rsa2048, ..LeafSpec::new(["kn-user-two"]) };
    let next = root.leaf(&rsa).unwrap();
    server.identity.publish(Identity::from_pem(next.cert_pem.as_bytes(), next.key_pem.as_bytes()).unwrap());
    call(&connector, address, "kn-user-two").await.unwrap();

    server.identity.withdraw();
    let error = call(&connector, address, "kn-user-three").await.unwrap_err();
    assert_eq!(error.reason(), Reason::PeerAlert);
}

/// Hellos with and without a server name get the same certificate; ALPN and the hybrid group are negotiated.
#[tokio::test]
async fn given_a_fixed_server_name_when_connecting_then_it_is_sent_and_served() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let (address, mut said) = Server::new(&root.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap()).start().await;
    let connector = |sni| Connector::new(&Policy::default(), trusting(root.root_pem())).sni(sni);

    call(&connector(Sni::fixed("data-plane.knative.dev").unwrap()), address, "kn-user-demo").await.unwrap();
    let facts = said.recv().await.unwrap().unwrap();
    assert_eq!(facts.sni.as_deref(), Some("data-plane.knative.dev"));
    assert_eq!(facts.alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!(facts.group, Some(rustls::NamedGroup::X25519MLKEM768));

    call(&connector(Sni::Absent), address, "kn-user-demo").await.unwrap();
    assert_eq!(said.recv().await.unwrap().unwrap().sni, None);
}

/// T7: only the groups that are set are negotiated, P-521 too.
#[tokio::test]
async fn given_curves_when_shaking_hands_then_only_those_are_negotiated() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let mut server = Server::new(&root.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap());
    server.policy = Policy::parse("", None, None, None, Some("P-521")).unwrap();
    let (address, mut said) = server.start().await;

    call(&Connector::new(&Policy::default(), trusting(root.root_pem())), address, "kn-user-demo").await.unwrap();
    assert_eq!(said.recv().await.unwrap().unwrap().group, Some(rustls::NamedGroup::secp521r1));

    let other = Policy::parse("", None, None, None, Some("P-256")).unwrap();
    let refused = call(&Connector::new(&other, trusting(root.root_pem())), address, "kn-user-demo").await;
    assert_eq!(refused.unwrap_err().reason(), Reason::PeerAlert);
}

/// Contract, 10.3: TLS 1.2 is refused by default and served when it is allowed; a maximum below the minimum refuses all.
#[tokio::test]
async fn given_versions_when_shaking_hands_then_only_those_are_negotiated() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let only12 = Policy::parse("", Some("1.2"), Some("1.2"), None, None).unwrap();
    let old = Connector::new(&only12, trusting(root.root_pem()));
    let new = Connector::new(&Policy::default(), trusting(root.root_pem()));
    let mut server = Server::new(&root.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap());

    let (address, _said) = server.start().await;
    assert_eq!(call(&old, address, "kn-user-demo").await.unwrap_err().reason(), Reason::PeerAlert);

    server.policy = Policy::parse("", Some("1.2"), None, None, None).unwrap();
    let (address, _said) = server.start().await;
    call(&old, address, "kn-user-demo").await.unwrap();
    call(&new, address, "kn-user-demo").await.unwrap();

    server.policy = Policy::parse("", None, Some("1.2"), None, None).unwrap();
    let (address, _said) = server.start().await;
    assert!(call(&old, address, "kn-user-demo").await.is_err());
    assert!(call(&new, address, "kn-user-demo").await.is_err());
}

/// T5: who may call when a certificate is requested, and when it is required.
#[tokio::test]
async fn given_client_authentication_when_called_then_only_allowed_names_are_served() {
    let root = Ca::new("root", KeyKind::P256).unwrap();
    let stranger = Ca::new("stranger", KeyKind::P256).unwrap();
    let callers = trusting(root.root_pem());
    let allowed = || Allowed::new(callers.clone(), ["kn-routing"]);
    let mut server = Server::new(&root.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap());
    let caller = |ca: &Ca, name: &str| {
        let connector = Connector::new(&Policy::default(), trusting(root.root_pem()));
        connector.identity(identity(&ca.leaf(&LeafSpec::new([name])).unwrap()))
    };
    let nobody = Connector::new(&Policy::default(), trusting(root.root_pem()));

    for (auth, anonymous_is_served) in [(ClientAuth::Request(allowed()), true), (ClientAuth::Require(allowed()), false)]
    {
        server.auth = auth;
        let (address, mut said) = server.start().await;

        assert_eq!(call(&nobody, address, "kn-user-demo").await.is_ok(), anonymous_is_served);
        let verdict = said.recv().await.unwrap();
        assert_eq!(verdict.err().map(|error| error.reason()), (!anonymous_is_served).then_some(Reason::NoCertificate));

        let routing = caller(&root, "kn-routing");
        for _ in 0..2 {
            call(&routing, address, "kn-user-demo").await.unwrap();
            // No ticket: the certificate is verified each time.
            assert!(!said.recv().await.unwrap().unwrap().resumed);
        }

        assert!(call(&caller(&root, "kn-user-evil"), address, "kn-user-demo").await.is_err());
        assert_eq!(said.recv().await.unwrap().unwrap_err().reason(), Reason::SanMismatch);

        assert!(call(&caller(&stranger, "kn-routing"), address, "kn-user-demo").await.is_err());
        assert_eq!(said.recv().await.unwrap().unwrap_err().reason(), Reason::UnknownCa);
    }

    // A removed authority counts from the next handshake on.
    callers.set_source("test", stranger.root_pem().as_bytes());
    let (address, mut said) = server.start().await;
    assert!(call(&caller(&root, "kn-routing"), address, "kn-user-demo").await.is_err());
    assert_eq!(said.recv().await.unwrap().unwrap_err().reason(), Reason::UnknownCa);
}

/// T6: weak algorithms. The identity store refuses a key of 1024 bits at once, so the chain is verified directly.
#[test]
fn given_weak_algorithms_when_verified_then_they_are_refused() {
    use crate::tls::{pem, provider, verifier::Verifier};

    for name in ["broken/rsa1024", "broken/sha1"] {
        let read = |file| std::fs::read(fixture(name).join(file)).unwrap();
        let chain = pem::certificates(&read("tls.crt")).unwrap();
        let trust = trusting(&String::from_utf8(read("ca.crt")).unwrap());
        let algorithms = provider::provider(&Policy::default()).signature_verification_algorithms;
        let expected = ExpectedSan::new("kn-user-demo");
        let verifier = Verifier::new(trust.roots().unwrap(), expected, algorithms);
        let verified = verifier.verify(&chain[0], &chain[1..], rustls::pki_types::UnixTime::now());
        let loaded = Identity::from_pem(&read("tls.crt"), &read("tls.key"));

        match name {
            // The chain is sound; its key can't sign a handshake that anybody accepts.
            "broken/rsa1024" => {
                assert_eq!(loaded.unwrap_err().reason, identity::Reason::BadKey);
            }
            _ => {
                let error = Error::from_rustls(&verified.unwrap_err());
                assert_eq!(error.reason(), Reason::WeakAlgorithm, "{error}");
            }
        }
    }
}
