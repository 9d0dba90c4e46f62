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
use crate::support::accept::{Serving, accept_all};

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
    _serving: Serving,
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
        let counters = || Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
        let (handshakes, resumed, requests) = (counters(), counters(), counters());
        let tried = Arc::new(AtomicUsize::new(0));
        let acceptor = authority.map(|authority| tokio_rustls::TlsAcceptor::from(Arc::new(server(authority))));
        let addresses: Vec<_> = (0..count).map(|_| free_ip()).collect();
        let bind = |ip| PORTS.map(|port| TcpListener::bind((ip, port)).unwrap());
        let listeners = addresses.iter().flat_map(|ip| bind(*ip)).collect();
        let counted = (tried.clone(), handshakes.clone(), resumed.clone(), requests.clone(), barrier);
        let serving = accept_all(listeners, move |listener, socket| {
            let (tried, handshakes, resumed, requests, barrier) = counted.clone();
            let index = listener / PORTS.len();
            let tls = acceptor.clone().filter(|_| PORTS[listener % PORTS.len()] == 8112);
            async move {
                let Some(tls) = tls else { return serve(socket, &requests[index], &barrier).await };
                tried.fetch_add(1, Ordering::SeqCst);
                let Ok(socket) = tls.accept(socket).await else { return };
                handshakes[index].fetch_add(1, Ordering::SeqCst);
                if socket.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                    resumed[index].fetch_add(1, Ordering::SeqCst);
                }
                serve(socket, &requests[index], &barrier).await;
            }
        });
        let ips = addresses.iter().map(ToString::to_string).collect();
        Self { ips, tried, handshakes, resumed, requests, _serving: serving }
    }
}

/// A pod's ports, in plaintext and over TLS.
const PORTS: [u16; 2] = [8012, 8112];

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
