//! Mutual TLS: whether callers are asked for a certificate, and which names may call.
//!
//! Decided at start (control side); the verifier runs in handshakes (data side). Off by default, since the Go
//! activator and Kourier show no certificate. The chain is checked against the live trust store, then one of the
//! leaf's dNSName entries must be allowed, compared as bytes.
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName};

use crate::tls::error::SanMismatch;
use crate::tls::{san, signatures, trust};

/// Whether callers are asked for a certificate.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    Off,
    /// They are; one that comes without is served, one that comes with a wrong one is not.
    Request(Allowed),
    /// They are, and must show one that is allowed.
    Require(Allowed),
}

/// Who may call.
#[derive(Clone, Debug)]
pub struct Allowed {
    trust: Arc<trust::Store>,
    /// None: any name will do.
    names: Option<Vec<Vec<u8>>>,
}

impl Allowed {
    /// Callers that show one of `names` in a certificate by an authority in `trust`; without names nobody.
    pub fn new(trust: Arc<trust::Store>, names: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        Self { trust, names: Some(names.into_iter().map(Into::into).collect()) }
    }

    /// Callers with any certificate by an authority in `trust`, whatever its names.
    pub fn anybody(trust: Arc<trust::Store>) -> Self {
        Self { trust, names: None }
    }
}

impl ClientAuth {
    /// The verifier for a server's configuration; none when callers are not asked.
    pub(crate) fn verifier(&self, provider: &Arc<CryptoProvider>) -> Option<Arc<dyn ClientCertVerifier>> {
        let (allowed, mandatory) = match self {
            Self::Off => return None,
            Self::Request(allowed) => (allowed.clone(), false),
            Self::Require(allowed) => (allowed.clone(), true),
        };
        let provider = Arc::clone(provider);
        Some(Arc::new(Verifier { allowed, mandatory, provider, chain: ArcSwapOption::empty() }))
    }
}

#[derive(Debug)]
struct Verifier {
    allowed: Allowed,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
    chain: ArcSwapOption<Chain>,
}

/// rustls' own check of chain, time and usage against one generation of the trust store.
#[derive(Debug)]
struct Chain {
    generation: u64,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn chain(&self) -> Result<Arc<Chain>, rustls::Error> {
        let Some(snapshot) = self.allowed.trust.snapshot() else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        if let Some(chain) = self.chain.load_full().filter(|chain| chain.generation == snapshot.generation) {
            return Ok(chain);
        }
        let roots = Arc::clone(&snapshot.roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let chain = Arc::new(Chain { generation: snapshot.generation, verifier });
        self.chain.store(Some(Arc::clone(&chain)));
        Ok(chain)
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: the set changes while we run, and callers have one identity anyway.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.chain()?.verifier.verify_client_cert(leaf, intermediates, now)?;
        let Some(names) = &self.allowed.names else { return Ok(ClientCertVerified::assertion()) };
        let presented = san::dns_names(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let allowed = |name: &Vec<u8>| names.iter().any(|allowed| san::same(allowed, name));
        match presented.iter().any(allowed) {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(SanMismatch { expected: names.clone(), presented }.into_rustls()),
        }
    }

    signatures::checked!(self => self.provider.signature_verification_algorithms);
}
