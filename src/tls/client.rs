//! The client's side of TLS: connects to an upstream that must present one exact name.
//!
//! Made once a role (control side), used by workers when they open a connection (data side). For each expected name and
//! protocol list there is one prepared configuration, made on first use and dropped with its trust generation. Its
//! sessions go with it: resumption skips the verifier, so a session may only be offered where the same name is expected
//! and the same authorities are trusted.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::error::{Error, Reason};
use crate::tls::policy::Policy;
use crate::tls::verifier::{ExpectedSan, Verifier};
use crate::tls::{identity, provider, resume, trust};

/// Which application protocols are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 alone.
    Http2,
    /// HTTP/2, else HTTP/1.1.
    Either,
    /// No offer at all.
    None,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::None => Vec::new(),
        }
    }
}

/// The server name that is sent in the hello.
#[derive(Clone, Debug, Default)]
pub enum Sni {
    /// None, as Kourier's gateway does it. Sessions are then kept by the peer's address.
    #[default]
    Absent,
    /// Always this one, whatever name the certificate has to bear.
    Fixed(ServerName<'static>),
}

impl Sni {
    /// A fixed name, such as the Go activator's `data-plane.knative.dev`.
    ///
    /// # Errors
    /// It is not a DNS name.
    pub fn fixed(name: &str) -> Result<Self, Error> {
        match ServerName::try_from(name.to_owned()) {
            Ok(name @ ServerName::DnsName(_)) => Ok(Self::Fixed(name)),
            _ => Err(Error::new(Reason::Settings, format!("{name:?} can't be sent as a server name"))),
        }
    }
}

/// A connection whose peer was verified.
#[derive(Debug)]
pub struct Connected<S> {
    /// The stream.
    pub stream: TlsStream<S>,
    /// The trust generation that verified it: see [`trust::Store::is_current`].
    pub generation: u64,
}

/// Connects to upstreams.
#[derive(Debug)]
pub struct Connector {
    provider: Arc<CryptoProvider>,
    policy: Policy,
    trust: Arc<trust::Store>,
    identity: Option<Arc<identity::Store>>,
    sni: Sni,
    prepared: Mutex<Prepared>,
}

/// The configurations of one trust generation.
#[derive(Debug, Default)]
struct Prepared {
    generation: u64,
    configs: HashMap<(ExpectedSan, Alpn), Arc<ClientConfig>>,
}

/// Expected names, times protocol lists, for which configurations are kept. One activator meets a name for each
/// namespace; beyond this number all are dropped and made anew, which costs full handshakes and nothing else.
const MAX_PREPARED: usize = 4096;

impl Connector {
    /// A connector that trusts what `trust` holds and sends no server name.
    pub fn new(policy: &Policy, trust: Arc<trust::Store>) -> Self {
        Self {
            provider: provider::provider(policy),
            policy: policy.clone(),
            trust,
            identity: None,
            sni: Sni::Absent,
            prepared: Mutex::default(),
        }
    }

    /// Sends this server name.
    pub fn sni(mut self, sni: Sni) -> Self {
        self.sni = sni;
        self
    }

    /// Shows this identity to upstreams that ask for one.
    pub fn identity(mut self, identity: Arc<identity::Store>) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Shakes hands over `stream` with the peer at `peer`, which must present `expected`. It has no time limit of its
    /// own.
    ///
    /// # Errors
    /// The handshake failed, or an authority was removed meanwhile: nothing was sent to the peer.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: IpAddr,
        expected: &ExpectedSan,
        alpn: Alpn,
    ) -> Result<Connected<S>, Error> {
        let (generation, config) = self.config(expected, alpn)?;
        let name = match &self.sni {
            Sni::Absent => ServerName::from(peer),
            Sni::Fixed(name) => name.clone(),
        };
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| Error::from_io(&error))?;
        if !self.trust.is_current(generation) {
            let detail = "an authority was removed while the handshake was under way";
            return Err(Error::new(Reason::TrustChanged, detail));
        }
        Ok(Connected { stream, generation })
    }

    fn config(&self, expected: &ExpectedSan, alpn: Alpn) -> Result<(u64, Arc<ClientConfig>), Error> {
        let Some(trust) = self.trust.snapshot() else {
            return Err(Error::new(Reason::NoTrust, "no certificate authority is trusted yet"));
        };
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.generation != trust.generation || prepared.configs.len() >= MAX_PREPARED {
            *prepared = Prepared { generation: trust.generation, configs: HashMap::new() };
        }
        let key = (expected.clone(), alpn);
        if let Some(config) = prepared.configs.get(&key) {
            return Ok((trust.generation, Arc::clone(config)));
        }
        let config = self.prepare(&trust, expected, alpn)?;
        prepared.configs.insert(key, Arc::clone(&config));
        Ok((trust.generation, config))
    }

    fn prepare(&self, trust: &trust::Snapshot, expected: &ExpectedSan, alpn: Alpn) -> Result<Arc<ClientConfig>, Error> {
        if !self.policy.is_satisfiable() {
            return Err(Error::new(Reason::Settings, "the highest TLS version allowed is below the lowest one"));
        }
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier = Verifier::new(Arc::clone(&trust.roots), expected.clone(), algorithms);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&provider::versions(&self.policy))
            .map_err(|error| Error::new(Reason::Settings, format!("TLS settings can't be used: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::<identity::Store>::clone(identity)),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.protocols();
        config.enable_sni = matches!(self.sni, Sni::Fixed(_));
        config.resumption = resume::sessions();
        Ok(Arc::new(config))
    }
}
