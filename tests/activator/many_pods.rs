//! Many pods: one that swallows everything, and a crowd that appears at once.
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lockkeeper::local::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{Activator, NAMESPACE, REVISION, World, free_ip, named};
use crate::support::client::Raw;
use crate::support::objects::private_endpoints;
use crate::support::wait::eventually;

/// Pods in this process: what a queue answers to probes, and `ok` to requests, over TLS or without.
struct Crowd {
    ips: Vec<String>,
    handshakes: Arc<Vec<AtomicUsize>>,
    requests: Arc<Vec<AtomicUsize>>,
    /// They end with it.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Crowd {
    fn start(count: usize, authority: Option<&Authority>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let counters = || Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let (handshakes, requests) = (counters(), counters());
        let acceptor = authority.map(|authority| tokio_rustls::TlsAcceptor::from(Arc::new(server(authority))));
        let mut ips = Vec::new();
        for index in 0..count {
            let ip = free_ip();
            ips.push(ip.to_string());
            for port in [8012, 8112] {
                let listener = TcpListener::bind((ip, port)).unwrap();
                listener.set_nonblocking(true).unwrap();
                let tls = acceptor.clone().filter(|_| port == 8112);
                let (handshakes, requests) = (handshakes.clone(), requests.clone());
                runtime.spawn(async move {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    while let Ok((socket, _)) = listener.accept().await {
                        let (tls, handshakes, requests) = (tls.clone(), handshakes.clone(), requests.clone());
                        tokio::spawn(async move {
                            match tls {
                                None => serve(socket, &requests[index]).await,
                                Some(tls) => {
                                    let Ok(socket) = tls.accept(socket).await else { return };
                                    handshakes[index].fetch_add(1, Ordering::SeqCst);
                                    serve(socket, &requests[index]).await;
                                }
                            }
                        });
                    }
                });
            }
        }
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        Self { ips, handshakes, requests, _stop: stop }
    }
}

fn server(authority: &Authority) -> rustls::ServerConfig {
    let leaf = authority.leaf(&["kn-user-default", "data-plane.knative.dev"], 77).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}

async fn serve(mut socket: impl AsyncReadExt + AsyncWriteExt + Unpin, requests: &AtomicUsize) {
    let mut got = Vec::new();
    while socket.read_buf(&mut got).await.is_ok_and(|n| n > 0) {
        if !got.ends_with(b"\r\n\r\n") {
            continue;
        }
        let probe = String::from_utf8_lossy(&got).to_lowercase().contains("k-network-probe: queue");
        got.clear();
        let body = if probe { "queue" } else { "ok" };
        if !probe {
            requests.fetch_add(1, Ordering::SeqCst);
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Figures: one handshake a pod before its first request, though all pods appear at once and many requests wait.
#[test]
fn given_waiting_requests_when_a_hundred_pods_appear_at_once_then_each_shakes_hands_once() {
    const PODS: usize = 100;
    let world = World::new(true);
    world.create(world.revision().concurrency(1));
    let builder = world.builder().env("WORKER_THREADS", 1);
    let activator = Activator::of(builder, true);
    let crowd = Crowd::start(PODS, Some(&world.authority));
    let mut clients: Vec<Raw> = (0..PODS).map(|_| activator.ask()).collect();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());

    let ips: Vec<&str> = crowd.ips.iter().map(String::as_str).collect();
    world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&[], &ips, "http", 8012));

    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    let of = |counters: &[AtomicUsize]| counters.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let (handshakes, requests) = (of(&crowd.handshakes), of(&crowd.requests));
    assert_eq!(requests.iter().sum::<usize>(), PODS);
    // Never a second one, and none where no request went: probes are in plaintext.
    for (handshakes, requests) in handshakes.iter().zip(requests) {
        assert_eq!(*handshakes, requests.min(1), "{handshakes:?}");
    }
    // And the connections stay: another round needs no handshake at pods that had one.
    let before: usize = handshakes.iter().sum();
    for client in &mut clients {
        assert_eq!(client.get("/", &named(NAMESPACE, REVISION)).reply().status(), 200);
    }
    let after: usize = of(&crowd.handshakes).iter().sum();
    assert!(after <= PODS, "{before} {after}");
}

/// A2: one of ten pods takes connections and never answers a handshake: nobody notices but by the time of one try.
#[test]
fn given_ten_pods_when_one_is_stopped_then_no_request_fails() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let builder = world.builder().env("LOCKKEEPER_HANDSHAKE_TIMEOUT", "500ms");
        let activator = Activator::of(builder, tls);
        let crowd = Crowd::start(9, tls.then_some(&world.authority));
        let hole = world.pod();
        let mut ips: Vec<&str> = crowd.ips.iter().map(String::as_str).collect();
        let ip = hole.ip.to_string();
        ips.push(&ip);
        world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&ips, &[], "http", 8012));
        eventually("all are in use", || {
            assert_eq!(activator.get().status(), 200);
            hole.app.count() > 0 && crowd.requests.iter().all(|count| count.load(Ordering::SeqCst) > 0)
        });

        hole.queue.signal("STOP");
        // In plaintext a connection that the kernel takes for a stopped process has taken the request; what is on such
        // connections waits for the process. Where TLS is on, the handshake tells.
        let start = Instant::now();
        let mut waiting = Vec::new();
        let mut served = 0;
        while start.elapsed() < Duration::from_secs(3) {
            let mut client = activator.ask();
            match client.reply_within(Duration::from_millis(if waiting.is_empty() { 2000 } else { 200 })) {
                Some(reply) => {
                    assert_eq!(reply.status(), 200, "TLS: {tls}");
                    served += 1;
                }
                None => waiting.push(client),
            }
        }
        assert!(served > 20, "{served}");
        hole.queue.signal("CONT");
        for mut client in waiting {
            assert_eq!(client.reply().status(), 200, "TLS: {tls}");
        }
    }
}
