//! Sections 1 and 11: TLS as it is spoken, to pods and to callers: versions, server name, protocols, and the name of older
//! releases.
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use lockkeeper::local::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::Acceptor;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, StreamOwned, SupportedProtocolVersion};

use super::world::{Activator, NAMESPACE, REVISION, World, free_ip, named};
use crate::support::app::{App, ok};
use crate::support::client::Raw;
use crate::support::pki::client_speaking;
use crate::support::wait::eventually;

/// What a hello said: the server name, and the protocols that it offered.
type Hello = (Option<String>, Option<Vec<Vec<u8>>>);

/// A pod whose TLS is scripted: what it is offered is told. It answers probes in plaintext, and one request a connection.
struct Pod {
    ip: IpAddr,
    hellos: Receiver<Hello>,
    _probed: App,
}

impl Pod {
    fn start(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let ip = free_ip();
        let probed = App::listen(TcpListener::bind((ip, 8012)).unwrap(), |conn| {
            while conn.request().is_some() {
                conn.send(ok("queue"));
            }
        });
        let leaf = authority.leaf(&["kn-user-default", "data-plane.knative.dev"], 5).unwrap();
        let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind((ip, 8112)).unwrap();
        let (tell, hellos) = channel();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if serve(socket, &config, &tell).is_none() && tell.send((None, None)).is_err() {
                    return;
                }
            }
        });
        Self { ip, hellos, _probed: probed }
    }
}

/// One connection to its end; none if there was no handshake.
fn serve(mut socket: TcpStream, config: &Arc<ServerConfig>, tell: &Sender<Hello>) -> Option<()> {
    socket.set_read_timeout(crate::support::binary::socket_timeout()).unwrap();
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        acceptor.read_tls(&mut socket).ok().filter(|read| *read > 0)?;
        if let Some(accepted) = acceptor.accept().ok()? {
            break accepted;
        }
    };
    let hello = accepted.client_hello();
    let offered = hello.alpn().map(|offered| offered.map(<[u8]>::to_vec).collect());
    let _ = tell.send((hello.server_name().map(str::to_owned), offered));
    let connection = match accepted.into_connection(config.clone()) {
        Ok(connection) => connection,
        Err((_, mut alert)) => {
            let _ = alert.write_all(&mut socket);
            return Some(());
        }
    };
    let mut stream = StreamOwned::new(connection, socket);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let answer = ok("ok").replacen("\r\n", "\r\nConnection: close\r\n", 1);
    stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).ok()
}

/// 11.1: the original's server name, no protocol is offered, and nothing below TLS 1.3 will do.
#[test]
fn given_a_pod_when_hands_are_shaken_then_the_hello_is_the_original_s_and_tls_1_3_is_asked_for() {
    for (versions, served) in [(&[&TLS13, &TLS12][..], true), (&[&TLS12][..], false)] {
        let world = World::new(true);
        world.create(world.revision());
        let activator = world.start();
        let pod = Pod::start(&world.authority, versions);
        world.endpoints(&[pod.ip], &[]);
        let reply = activator.get();
        assert_eq!(reply.status(), if served { 200 } else { 502 });
        if !served {
            let cause = reply.header("x-lockkeeper-cause").unwrap_or_default();
            assert!(["tls_peer_alert", "tls_nothing_in_common"].contains(&cause), "{cause}");
        }
        let (name, protocols) = pod.hellos.recv().unwrap();
        assert_eq!((name.as_deref(), protocols), (Some("data-plane.knative.dev"), None));
    }
}

/// 11.1: the name that all pods of older releases have in common will do if it is told so, and nothing else then.
#[test]
fn given_a_pod_with_the_name_of_older_releases_when_that_is_accepted_then_it_is_served() {
    let world = World::new(true);
    world.create(world.revision());
    let (strict, lenient) =
        (world.start(), Activator::of(world.builder().env("LOCKKEEPER_ACCEPT_LEGACY_SAN", "true"), true));
    // Certificates of tests bear both names: this one the older one and another namespace's.
    let certs = world.certs("kn-user-other");
    let pod = world.pod_with(App::ok(), |builder| builder.certs(&certs));
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(lenient.get().status(), 200);
    eventually("the pod is in use", || strict.get().status() == 502);
    assert_eq!(strict.get().header("x-lockkeeper-cause"), Some("tls_san_mismatch"));
    assert_eq!(pod.app.seen().len(), 1);
}

/// 1: `ACTIVATOR_TLS_*` is for callers.
#[test]
fn given_a_policy_for_callers_when_they_shake_hands_then_it_holds() {
    let suite = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    for (settings, old, new) in [
        (&[][..], false, true),
        (&[("MIN_VERSION", "1.2")][..], true, true),
        (&[("MIN_VERSION", "1.2"), ("MAX_VERSION", "1.2")][..], true, false),
        (&[("MIN_VERSION", "1.2"), ("CIPHER_SUITES", suite), ("CURVE_PREFERENCES", "P-256, X25519")][..], true, true),
        (&[("MIN_VERSION", "1.2"), ("CIPHER_SUITES", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")][..], false, true),
    ] {
        let world = World::new(true);
        world.create(world.revision());
        let builder = settings
            .iter()
            .fold(world.builder(), |builder, (name, value)| builder.env(&format!("ACTIVATOR_TLS_{name}"), value));
        let mut activator = Activator::of(builder, true);
        let pod = world.pod();
        world.endpoints(&[pod.ip], &[]);
        let port = activator.https();
        let ask = |version| {
            let config = client_speaking(&world.authority, &[version], &[]);
            let mut client = Raw::tls(port, config, "kn-routing");
            client.get("/", &named(NAMESPACE, REVISION)).try_reply().map(|reply| reply.status())
        };
        let status = |served: bool| served.then_some(200);
        assert_eq!((ask(&TLS12), ask(&TLS13)), (status(old), status(new)), "{settings:?}");
    }
}
