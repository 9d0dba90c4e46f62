//! TLS handshakes in memory, with the settings that the queue's port has, and the verification of a peer's name.
//!
//! `server` counts what the serving side spends alone; it is what a queue pays for a new connection.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use lockkeeper::local::pki::{Authority, Leaf};
use lockkeeper::tls::client_auth::ClientAuth;
use lockkeeper::tls::identity::{self, Identity};
use lockkeeper::tls::policy::Policy;
use lockkeeper::tls::verifier::{ExpectedSan, Verifier};
use lockkeeper::tls::{pem, provider, san, server, trust};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};

const NAME: &str = "kn-user-default";

struct Pki {
    server: Arc<ServerConfig>,
    verifier: Arc<Verifier>,
    leaf: CertificateDer<'static>,
    trust: Arc<trust::Store>,
}

impl Pki {
    fn new(authority: &Authority, leaf: &Leaf) -> Self {
        let trust = trust::Store::new();
        trust.set_source("bench", authority.pem().as_bytes());
        let store = identity::Store::new();
        store.publish(Identity::from_pem(leaf.chain.as_bytes(), leaf.key.as_bytes()).unwrap());
        let leaf = pem::certificates(leaf.chain.as_bytes()).unwrap().remove(0);
        let algorithms = provider::provider(&policy("")).signature_verification_algorithms;
        let verifier = Arc::new(Verifier::new(trust.roots().unwrap(), ExpectedSan::new(NAME), algorithms));
        let server = server::config(&policy(""), store, &ClientAuth::Off, server::ALPN_HTTP).unwrap();
        Self { server, verifier, leaf, trust }
    }

    fn client(&self, groups: &str, resumption: Resumption) -> Arc<ClientConfig> {
        let policy = policy(groups);
        let mut config = ClientConfig::builder_with_provider(provider::provider(&policy))
            .with_protocol_versions(&provider::versions(&policy))
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = resumption;
        Arc::new(config)
    }
}

fn policy(groups: &str) -> Policy {
    let groups = (!groups.is_empty()).then_some(groups);
    Policy::parse("", None, None, None, groups).unwrap()
}

/// Moves what one side has to say to the other.
fn pass<A: SideData, B: SideData>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>, wire: &mut Vec<u8>) {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
}

/// One handshake, the server's ticket included: the time that the server spent.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, resumed: bool) -> Duration {
    let name = ServerName::try_from("data-plane.knative.dev").unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let (mut hello, mut answer) = (Vec::with_capacity(4096), Vec::with_capacity(8192));
    let mut spent = Duration::ZERO;

    let begun = Instant::now();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    spent += begun.elapsed();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        hello.clear();
        while client.wants_write() {
            client.write_tls(&mut hello).unwrap();
        }
        let begun = Instant::now();
        let mut rest = hello.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        spent += begun.elapsed();
        pass(&mut server, &mut client, &mut answer);
    }
    assert_eq!(client.handshake_kind() == Some(rustls::HandshakeKind::Resumed), resumed);
    spent
}

pub(crate) fn bench(c: &mut Criterion) {
    let authority = Authority::mint("bench").unwrap();
    let pki = Pki::new(&authority, &authority.leaf(&[NAME, "data-plane.knative.dev"], 1).unwrap());
    provider::warm_up(&policy(""));

    let mut group = c.benchmark_group("handshake");
    for (name, groups) in [("X25519MLKEM768", "X25519MLKEM768"), ("X25519", "X25519"), ("P-256", "CurveP256")] {
        let full = pki.client(groups, Resumption::disabled());
        let resumed = pki.client(groups, Resumption::in_memory_sessions(8));
        handshake(&resumed, &pki.server, false);
        for (kind, client) in [("full", full), ("resumed", resumed)] {
            let known = kind == "resumed";
            group.bench_function(format!("{kind}, {name}, both sides"), |b| {
                b.iter(|| handshake(&client, &pki.server, known));
            });
            group.bench_function(format!("{kind}, {name}, server"), |b| {
                b.iter_custom(|count| (0..count).map(|_| handshake(&client, &pki.server, known)).sum());
            });
        }
    }
    group.finish();

    let mut group = c.benchmark_group("verification");
    let now = UnixTime::now();
    group.bench_function("chain and name", |b| b.iter(|| pki.verifier.verify(&pki.leaf, &[], now).unwrap()));
    let algorithms = provider::provider(&policy("")).signature_verification_algorithms;
    let other = Verifier::new(pki.trust.roots().unwrap(), ExpectedSan::new("kn-user-other"), algorithms);
    group.bench_function("chain, name refused", |b| b.iter(|| other.verify(&pki.leaf, &[], now).unwrap_err()));
    for count in [2, 50] {
        let names: Vec<String> = (0..count).map(|i| format!("kn-user-namespace-{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let leaf = pem::certificates(authority.leaf(&names, 2).unwrap().chain.as_bytes()).unwrap().remove(0);
        group.bench_function(format!("{count} names read"), |b| b.iter(|| san::dns_names(black_box(&leaf)).unwrap()));
    }
    group.finish();
}
