//! The identity store: the certificate chain and key that this process shows, swapped whole.
//!
//! A source publishes (control side); [`crate::tls::server`] and [`crate::tls::client`] read it in each handshake with
//! one atomic load (data side). A pair is in the store only after it was checked: it parses and the key belongs to the
//! leaf. Whether it is *better* than the one in use is the source's decision, see [`crate::tls::source_dir`].
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::sync::watch;
use x509_parser::prelude::FromDer;

use crate::tls::{key, pem, san};

/// A certificate chain with its key, checked.
#[derive(Debug)]
pub struct Identity {
    /// Chain and key as rustls takes them; the chain is in the order of the file, all of it is sent.
    pub certified: Arc<CertifiedKey>,
    /// What the leaf says.
    pub leaf: Leaf,
}

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The serial number in hexadecimal, colons between the bytes.
    pub serial: String,
    /// The subject, as text.
    pub subject: String,
    /// The issuer, as text.
    pub issuer: String,
    /// The dNSName entries as they are.
    pub names: Vec<Vec<u8>>,
    /// First moment of validity.
    pub not_before: OffsetDateTime,
    /// Last moment of validity.
    pub not_after: OffsetDateTime,
    /// The kind of its key.
    pub key: key::Kind,
}

/// Why a pair was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The class of it, for counting.
    pub reason: Reason,
    /// What exactly, in words.
    pub detail: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Rejection {}

/// The classes of [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A file is missing or can't be read.
    Unreadable,
    /// The certificate file has no certificate, or one that can't be parsed.
    BadCertificate,
    /// The key file has no key, or one that can't be used.
    BadKey,
    /// The key is not the leaf's.
    KeyMismatch,
    /// The leaf is past its validity, and the pair in use is not.
    Expired,
    /// The leaf's validity has not begun, and the pair in use is valid.
    NotYetValid,
}

impl Reason {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::Unreadable, Self::BadCertificate, Self::BadKey, Self::KeyMismatch, Self::Expired, Self::NotYetValid];

    /// A short word for a log field or a metric's label.
    pub fn token(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::BadCertificate => "bad_certificate",
            Self::BadKey => "bad_key",
            Self::KeyMismatch => "key_mismatch",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

impl Identity {
    /// Checks a pair: both parse, the key is supported and belongs to the first certificate. Validity in time is not
    /// checked here.
    ///
    /// # Errors
    /// What is wrong with the pair.
    pub fn from_pem(certificate: &[u8], private_key: &[u8]) -> Result<Self, Rejection> {
        let bad = |reason| move |detail| Rejection { reason, detail };
        let chain = pem::certificates(certificate).map_err(bad(Reason::BadCertificate))?;
        let Some(first) = chain.first() else {
            let detail = "no PEM block with a certificate was found".to_owned();
            return Err(Rejection { reason: Reason::BadCertificate, detail });
        };
        let leaf = Leaf::of(first).map_err(bad(Reason::BadCertificate))?;
        let der = pem::private_key(private_key).map_err(bad(Reason::BadKey))?;
        let key = key::signing_key(&der).map_err(bad(Reason::BadKey))?;
        if !key::belongs_to(key.as_ref(), first) {
            let detail = format!(
                "private key does not match public key: the key is not the one of the first certificate ({})",
                leaf.subject
            );
            return Err(Rejection { reason: Reason::KeyMismatch, detail });
        }
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, key)), leaf })
    }
}

impl Leaf {
    /// Reads the facts of a certificate.
    ///
    /// # Errors
    /// It can't be parsed, or a date is out of range: in words.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|error| format!("the certificate can't be parsed: {error}"))?;
        if !rest.is_empty() {
            return Err("the certificate can't be parsed: bytes are left over after its end".to_owned());
        }
        // What rustls itself reads in a handshake must be readable too, or the pair would fail only then.
        rustls::server::ParsedCertificate::try_from(certificate)
            .map_err(|error| format!("the certificate can't be used: {error}"))?;
        let validity = parsed.validity();
        Ok(Self {
            serial: parsed.raw_serial_as_string(),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names: san::of_parsed(&parsed)?,
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            key: key::Kind::of(parsed.public_key()),
        })
    }

    /// Whether the leaf is valid in time at `now`.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether one of its names is `name`.
    pub fn has_name(&self, name: &[u8]) -> bool {
        self.names.iter().any(|presented| san::same(name, presented))
    }
}

/// The identity in use, and its history in numbers.
#[derive(Debug)]
pub struct Store {
    current: ArcSwapOption<Identity>,
    changed: watch::Sender<u64>,
    reloads: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
}

impl Store {
    /// An empty store: handshakes fail until something is published.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            reloads: AtomicU64::new(0),
            failures: Default::default(),
        })
    }

    /// The identity in use; none before the first pair and after a withdrawal.
    pub fn current(&self) -> Option<Arc<Identity>> {
        self.current.load_full()
    }

    /// Puts `identity` into use from the next handshake on and counts a reload.
    pub fn publish(&self, identity: Identity) {
        self.current.store(Some(Arc::new(identity)));
        self.reloads.fetch_add(1, Ordering::Relaxed);
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Takes the identity out of use: TLS is no longer wanted. Connections that are open live on.
    pub fn withdraw(&self) {
        if self.current.swap(None).is_some() {
            self.changed.send_modify(|generation| *generation += 1);
        }
    }

    /// Tells of each publication and withdrawal; the value counts them from 0.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many pairs were taken so far, the first one included.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How many pairs were refused so far for this reason.
    pub fn failures(&self, reason: Reason) -> u64 {
        self.failures[reason as usize].load(Ordering::Relaxed)
    }

    /// Counts a pair that was refused.
    pub fn count_failure(&self, reason: Reason) {
        self.failures[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The same certificate for every server name and for none (contract, section 10.1).
impl ResolvesServerCert for Store {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|identity| Arc::clone(&identity.certified))
    }
}

/// The same identity towards upstreams that ask for one.
impl ResolvesClientCert for Store {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let certified = &current.as_ref()?.certified;
        certified.key.choose_scheme(schemes).map(|_| Arc::clone(certified))
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}
