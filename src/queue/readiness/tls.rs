//! TLS to the application's own port, for probes with `scheme: HTTPS`.
//!
//! **The certificate is not verified**, as kubelet does not: the probe asks whether a process on this pod's loopback
//! address answers, sends no secrets of ours, and takes nothing from the answer but its status. To keep it so,
//! [`connect`] refuses any peer that is not a loopback address, and nothing outside this module can build the verifier.
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, Error};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attempt::Failure;
use super::target::words;
use crate::tls::signatures;

/// Built with the first HTTPS try; no other pod pays for it.
static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LoopbackOnly { algorithms }))
        .with_no_client_auth();
    Ok(Arc::new(config))
});

/// A TLS connection over `stream`, which must lead to a loopback address.
pub(super) async fn connect(stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
    let peer = stream.peer_addr().map_err(|error| Failure::new(words(&error)))?.ip();
    if !peer.is_loopback() {
        return Err(Failure::new(format!("HTTPS probes go to loopback addresses only, not to {peer}")));
    }
    let config = CONFIG.clone().map_err(|error| Failure::new(format!("tls: {error}")))?;
    let connected = TlsConnector::from(config).connect(ServerName::IpAddress(peer.into()), stream).await;
    connected.map_err(|error| Failure::new(words(&error)))
}

/// Accepts every certificate.
#[derive(Debug)]
struct LoopbackOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for LoopbackOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures::unchecked!(self => self.algorithms);
}
