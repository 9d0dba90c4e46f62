//! Many pods in one process, which count.
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockkeeper::local::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;

use super::world::free_ip;

/// Pods in this process: what a queue answers to probes, and `ok` to requests, over TLS or without. A request for `/last` is
/// the last of its connection.
pub struct Crowd {
    /// Their addresses.
    pub ips: Vec<String>,
    /// Connections to the TLS port, of all pods.
    pub tried: Arc<AtomicUsize>,
    /// TLS handshakes, by pod.
    pub handshakes: Arc<Vec<AtomicUsize>>,
    /// Those of them that took up a session.
    pub resumed: Arc<Vec<AtomicUsize>>,
    /// Requests that were no probes.
    pub requests: Arc<Vec<AtomicUsize>>,
    /// They end with it.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Crowd {
    /// So many; with an authority, they speak TLS on 8112 for the usual namespace.
    pub fn start(count: usize, authority: Option<&Authority>) -> Self {
        Self::answering(count, authority, 1)
    }

    /// Pods of which none answers before as many requests as there are pods have come, to all of them: a fast one takes
    /// none that could have been another's.
    pub fn together(count: usize, authority: Option<&Authority>) -> Self {
        Self::answering(count, authority, count)
    }

    /// So many requests are answered at a time.
    fn answering(count: usize, authority: Option<&Authority>, at_once: usize) -> Self {
        let barrier = Arc::new(Barrier::new(at_once));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let counters = || Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let (handshakes, resumed, requests) = (counters(), counters(), counters());
        let tried = Arc::new(AtomicUsize::new(0));
        let acceptor = authority.map(|authority| tokio_rustls::TlsAcceptor::from(Arc::new(server(authority))));
        let mut ips = Vec::new();
        for index in 0..count {
            let ip = free_ip();
            ips.push(ip.to_string());
            for port in [8012, 8112] {
                let listener = TcpListener::bind((ip, port)).unwrap();
                listener.set_nonblocking(true).unwrap();
                let tls = acceptor.clone().filter(|_| port == 8112);
                let (tried, requests) = (tried.clone(), requests.clone());
                let (handshakes, resumed, barrier) = (handshakes.clone(), resumed.clone(), barrier.clone());
                runtime.spawn(async move {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    while let Ok((socket, _)) = listener.accept().await {
                        if tls.is_some() {
                            tried.fetch_add(1, Ordering::SeqCst);
                        }
                        let (tls, requests) = (tls.clone(), requests.clone());
                        let (handshakes, resumed, barrier) = (handshakes.clone(), resumed.clone(), barrier.clone());
                        tokio::spawn(async move {
                            match tls {
                                None => serve(socket, &requests[index], &barrier).await,
                                Some(tls) => {
                                    let Ok(socket) = tls.accept(socket).await else { return };
                                    handshakes[index].fetch_add(1, Ordering::SeqCst);
                                    if socket.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                                        resumed[index].fetch_add(1, Ordering::SeqCst);
                                    }
                                    serve(socket, &requests[index], &barrier).await;
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
        Self { ips, tried, handshakes, resumed, requests, _stop: stop }
    }
}

/// What a pod of the usual namespace shows.
pub fn server(authority: &Authority) -> rustls::ServerConfig {
    let leaf = authority.leaf(&["kn-user-default", "data-plane.knative.dev"], 77).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}

async fn serve(mut socket: impl AsyncReadExt + AsyncWriteExt + Unpin, requests: &AtomicUsize, barrier: &Barrier) {
    let mut got = Vec::new();
    while socket.read_buf(&mut got).await.is_ok_and(|n| n > 0) {
        if !got.ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&got).to_lowercase();
        let (probe, last) = (head.contains("k-network-probe: queue"), head.starts_with("get /last"));
        got.clear();
        let body = if probe { "queue" } else { "ok" };
        if !probe {
            requests.fetch_add(1, Ordering::SeqCst);
            barrier.wait().await;
        }
        let close = if last { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: {}\r\n\r\n{body}", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() || last {
            let _ = socket.shutdown().await;
            return;
        }
    }
}
