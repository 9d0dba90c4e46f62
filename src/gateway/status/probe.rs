//! Asks each replica of the gateway whether it serves an object: the one proof that all of them have its routes and that
//! an upstream can be reached behind them.
//!
//! Control side. Source: `networking/pkg/status/status.go`, `networking/pkg/http/probe`.
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::target::{Target, ToProbe};
use crate::gateway::config::Ports;
use crate::knative::names;
use crate::tls::policy::Policy;
use crate::tls::{provider, signatures};

/// Longest time for one question.
const TIME: Duration = Duration::from_secs(1);
/// The pause after the first question that had no good answer; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Questions at once.
const AT_ONCE: usize = 15;

/// Addresses of the gateway's replicas that are ready, as the slices of its internal Service have them.
pub type Replicas = Rc<RefCell<BTreeSet<IpAddr>>>;

/// Asks replicas.
#[derive(Clone)]
pub struct Prober {
    replicas: Replicas,
    ports: Ports,
    at_once: Rc<Semaphore>,
    tls: Option<Arc<ClientConfig>>,
}

impl Prober {
    /// A prober for replicas that listen on `ports`.
    #[must_use]
    pub fn new(replicas: Replicas, ports: Ports) -> Self {
        Self { replicas, ports, at_once: Rc::new(Semaphore::new(AT_ONCE)), tls: unverified() }
    }

    /// Returns when every replica has given a good answer for every host of the object: those that are there at the
    /// beginning, and those that join while these are asked. One that leaves is not waited for.
    pub async fn until_ready(&self, probe: &ToProbe) {
        let mut asked = BTreeSet::new();
        loop {
            let now = self.replicas.borrow().clone();
            if now.is_empty() {
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
            // One that comes back begins anew.
            asked.retain(|replica| now.contains(replica));
            let joined: Vec<IpAddr> = now.difference(&asked).copied().collect();
            if joined.is_empty() {
                return;
            }
            let mut all = Vec::new();
            for replica in joined {
                asked.insert(replica);
                for target in &probe.targets {
                    let (prober, target, hash) = (self.clone(), target.clone(), probe.hash.clone());
                    all.push(tokio::task::spawn_local(async move { prober.until_good(replica, &target, &hash).await }));
                }
            }
            Group(all).join().await;
        }
    }

    async fn until_good(&self, replica: IpAddr, target: &Target, hash: &str) {
        let mut pause = FIRST_PAUSE;
        loop {
            let good = {
                let _one = self.at_once.acquire().await;
                tokio::time::timeout(TIME, self.ask(replica, target, hash)).await.unwrap_or(false)
            };
            // A replica that is gone needs no routes.
            if good || !self.replicas.borrow().contains(&replica) {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask(&self, replica: IpAddr, target: &Target, hash: &str) -> bool {
        let port = match (target.external, target.tls) {
            (true, true) => self.ports.probe_https,
            (true, false) => self.ports.probe_http,
            (false, true) => self.ports.internal_https,
            (false, false) => self.ports.internal_http,
        };
        let Ok(socket) = TcpStream::connect(SocketAddr::new(replica, port)).await else { return false };
        let answer = match (&self.tls, target.tls) {
            (Some(config), true) => {
                let Ok(name) = ServerName::try_from(target.host.clone()) else { return false };
                match tokio_rustls::TlsConnector::from(config.clone()).connect(name, socket).await {
                    Ok(stream) => exchange(TokioIo::new(stream), target).await,
                    Err(_) => None,
                }
            }
            _ => exchange(TokioIo::new(socket), target).await,
        };
        match answer {
            Some((StatusCode::OK, Some(told))) => told.as_bytes() == hash.as_bytes(),
            // Somebody on the way took the header off: nothing more can be learnt.
            Some((StatusCode::OK, None)) => true,
            Some((StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE, _)) | None => false,
            Some(_) => true,
        }
    }
}

/// Tasks that end with whoever waits for them.
struct Group(Vec<tokio::task::JoinHandle<()>>);

impl Group {
    async fn join(mut self) {
        for task in &mut self.0 {
            let _ = task.await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn exchange<I>(io: I, target: &Target) -> Option<(StatusCode, Option<HeaderValue>)>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (mut send, connection) = http1::handshake(io).await.ok()?;
    let driver = tokio::task::spawn_local(connection);
    let request = Request::get(&*target.path)
        .header(header::HOST, &*target.host)
        .header(header::USER_AGENT, names::INGRESS_AGENT)
        .header(names::NETWORK_PROBE, names::PROBE_VALUE)
        .header(names::NETWORK_HASH, names::HASH_OVERRIDE)
        .body(String::new())
        .ok()?;
    let response = send.send_request(request).await;
    driver.abort();
    let response = response.ok()?;
    Some((response.status(), response.headers().get(&names::NETWORK_HASH).cloned()))
}

/// Certificates are not verified: what is asked for is routes, and the certificates are callers' to judge.
fn unverified() -> Option<Arc<ClientConfig>> {
    let policy = Policy::parse("", Some("1.2"), None, None, None).ok()?;
    let provider = provider::provider(&policy);
    let algorithms = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&provider::versions(&policy))
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody { algorithms }))
        .with_no_client_auth();
    Some(Arc::new(config))
}

#[derive(Debug)]
struct Anybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures::unchecked!(self => self.algorithms);
}
