//! Verifies an upstream's certificate: chain to the trust store, validity in time, usage, then the exact name that this
//! hop expects.
//!
//! Runs inside handshakes (data side), so that an impostor gets an alert and not a byte of a request. Chain, time and
//! usage are webpki's; names are compared as bytes after the chain was validated, never through a DNS-name type (see
//! [`crate::tls::san`]). No wildcards, no common name, no address: only what `knative.dev/serving`'s activator checks in
//! `pkg/activator/certificate/cache.go`.
use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};

use crate::tls::error::SanMismatch;
use crate::tls::{san, signatures};

/// The name that a peer must present, or several of which it must present one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExpectedSan {
    names: Arc<[Vec<u8>]>,
}

impl ExpectedSan {
    /// Exactly `name`, in either case.
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        Self { names: Arc::new([name.as_ref().to_ascii_lowercase()]) }
    }

    /// This name or `name`, for the time in which an old name is still around.
    pub fn or(&self, name: impl AsRef<[u8]>) -> Self {
        let more = std::iter::once(name.as_ref().to_ascii_lowercase());
        Self { names: self.names.iter().cloned().chain(more).collect() }
    }

    /// The names, in lower case.
    pub fn names(&self) -> &[Vec<u8>] {
        &self.names
    }

    fn matches(&self, presented: &[Vec<u8>]) -> bool {
        presented.iter().any(|name| self.names.iter().any(|expected| san::same(expected, name)))
    }
}

/// The verifier for one expected name and one generation of the trust store.
#[derive(Debug)]
pub struct Verifier {
    roots: Arc<RootCertStore>,
    expected: ExpectedSan,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// A verifier that accepts `expected`, issued by one of `roots`.
    pub fn new(roots: Arc<RootCertStore>, expected: ExpectedSan, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, expected, algorithms }
    }

    /// Whether the chain is good at `now`.
    ///
    /// # Errors
    /// Why not, as rustls wants it; [`crate::tls::error::Error::from_rustls`] puts it in words.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        let presented = san::dns_names(leaf).map_err(|_| CertificateError::BadEncoding)?;
        match self.expected.matches(&presented) {
            true => Ok(()),
            false => Err(SanMismatch { expected: self.expected.names.to_vec(), presented }.into_rustls()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    signatures::checked!(self => self.algorithms);
}
