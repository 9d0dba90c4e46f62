//! Makes authorities, intermediates and leaves, in every key type that cert-manager issues.
//!
//! Called by `certs mint`, by `local` and by tests. The leaves are as Knative's controller and cert-manager make them:
//! names only as dNSName entries, of any length.
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, RsaKeySize, SanType, SerialNumber, SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::certs::encoding::{self, Encoding};
use crate::tls::pem;

/// The kinds of keys that cert-manager issues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits. Making one takes a second or more.
    Rsa4096,
    /// ECDSA on P-256.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Rsa2048, Self::Rsa3072, Self::Rsa4096, Self::P256, Self::P384, Self::P521, Self::Ed25519];

    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Rsa4096 => "rsa4096",
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::P521 => "p521",
            Self::Ed25519 => "ed25519",
        }
    }

    fn generate(self) -> Result<KeyPair, Error> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let other = |algorithm: &'static SignatureAlgorithm| KeyPair::generate_for(algorithm);
        Ok(match self {
            Self::Rsa2048 => rsa(RsaKeySize::_2048),
            Self::Rsa3072 => rsa(RsaKeySize::_3072),
            Self::Rsa4096 => rsa(RsaKeySize::_4096),
            Self::P256 => other(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => other(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::P521 => other(&rcgen::PKCS_ECDSA_P521_SHA512),
            Self::Ed25519 => other(&rcgen::PKCS_ED25519),
        }?)
    }
}

impl FromStr for KeyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("unknown key type {text:?}: must be one of {}", known()))
    }
}

/// Why something could not be minted.
#[derive(Debug)]
pub enum Error {
    /// A name has characters that no certificate may hold, or a key can't be made.
    Certificate(rcgen::Error),
    /// A certificate and key that were given are not an authority's: why.
    Authority(String),
    /// A file could not be written or read.
    File(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "can't make the certificate: {error}"),
            Self::Authority(why) => write!(f, "no authority to issue with: {why}"),
            Self::File(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: OffsetDateTime,
    /// Last moment.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// From an hour ago (clocks differ) for `days` days.
    pub fn days(days: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { not_before: now - Duration::HOUR, not_after: now + Duration::days(days) }
    }

    /// Over since an hour.
    pub fn expired() -> Self {
        let now = OffsetDateTime::now_utc();
        Self { not_before: now - Duration::days(30), not_after: now - Duration::HOUR }
    }

    /// Begins in 30 days.
    pub fn not_yet() -> Self {
        let now = OffsetDateTime::now_utc();
        Self { not_before: now + Duration::days(30), not_after: now + Duration::days(60) }
    }
}

/// 90 days, as cert-manager issues.
impl Default for Validity {
    fn default() -> Self {
        Self::days(90)
    }
}

/// What a leaf may be used for (extended key usage).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usages {
    /// Server and client.
    #[default]
    Both,
    /// Server only.
    Server,
    /// Client only: no server may show it.
    Client,
    /// The extension is absent: anything.
    Absent,
}

/// What a leaf shall be.
#[derive(Clone, Debug, Default)]
pub struct LeafSpec {
    /// Its names: dNSName entries of any length, or addresses.
    pub sans: Vec<String>,
    /// When it is valid; 90 days from now by default.
    pub validity: Validity,
    /// The kind of its key; P-256 by default.
    pub key_kind: KeyKind,
    /// How its key is written; PKCS#8 by default.
    pub encoding: Encoding,
    /// What it may be used for; server and client by default.
    pub usages: Usages,
    /// Its serial number; a random one by default.
    pub serial: Option<u64>,
}

impl LeafSpec {
    /// A leaf with these names, the rest as by default.
    pub fn new(sans: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { sans: sans.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The leaf, then its intermediates.
    pub cert_pem: String,
    /// The private key of the leaf.
    pub key_pem: String,
}

/// An authority: a root, or an intermediate under one.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
    /// What a leaf has to bring along besides itself: nothing for a root.
    chain_pem: String,
    root_pem: String,
}

/// A century: fixtures and throw-away authorities must not rot.
pub(crate) const CENTURY_DAYS: i64 = 36_500;

impl Ca {
    /// A root of its own, valid for a century.
    ///
    /// # Errors
    /// The key can't be made.
    pub fn new(name: &str, kind: KeyKind) -> Result<Self, Error> {
        Self::with_validity(name, kind, Validity::days(CENTURY_DAYS))
    }

    /// A root of its own.
    ///
    /// # Errors
    /// The key can't be made.
    pub fn with_validity(name: &str, kind: KeyKind, validity: Validity) -> Result<Self, Error> {
        let key = kind.generate()?;
        let params = authority(name, validity);
        let cert_pem = params.self_signed(&key)?.pem();
        let root_pem = cert_pem.clone();
        Ok(Self { issuer: Issuer::new(params, key), cert_pem, chain_pem: String::new(), root_pem })
    }

    /// A root from its files, as [`Ca::cert_pem`] and [`Ca::key_pem`] gave them or another tool wrote them.
    ///
    /// # Errors
    /// They can't be parsed, do not belong together, or the certificate is not an authority's.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let certificates = pem::certificates(cert_pem.as_bytes()).map_err(Error::Authority)?;
        let Some(der) = certificates.first() else {
            return Err(Error::Authority("no PEM block with a certificate was found".to_owned()));
        };
        let key = pem::private_key(key_pem.as_bytes()).map_err(Error::Authority)?;
        let key = KeyPair::try_from(&key).map_err(|error| Error::Authority(format!("its key: {error}")))?;
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| Error::Authority(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(Error::Authority(format!("{} may not issue certificates", parsed.subject())));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Error::Authority(format!("the key is not that of {}", parsed.subject())));
        }
        let issuer = Issuer::from_ca_cert_der(der, key)?;
        Ok(Self { issuer, cert_pem: cert_pem.to_owned(), chain_pem: String::new(), root_pem: cert_pem.to_owned() })
    }

    /// An authority under this one; leaves that it signs bring its certificate along.
    ///
    /// # Errors
    /// The key can't be made.
    pub fn intermediate(&self, name: &str, kind: KeyKind) -> Result<Self, Error> {
        let key = kind.generate()?;
        let params = authority(name, Validity::days(CENTURY_DAYS));
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        let chain_pem = format!("{cert_pem}{}", self.chain_pem);
        Ok(Self { issuer: Issuer::new(params, key), cert_pem, chain_pem, root_pem: self.root_pem.clone() })
    }

    /// A leaf by this authority, with a fresh key.
    ///
    /// # Errors
    /// A name is not ASCII, or the key can't be made.
    pub fn leaf(&self, spec: &LeafSpec) -> Result<Pair, Error> {
        let key = spec.key_kind.generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // For people alone; a common name may have 64 characters (RFC 5280, appendix A.1), a name of Knative's has more.
        if let Some(name) = spec.sans.first().filter(|name| name.len() <= 64) {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.not_before = spec.validity.not_before;
        params.not_after = spec.validity.not_after;
        params.serial_number = spec.serial.map(SerialNumber::from);
        for name in &spec.sans {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match spec.usages {
            Usages::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Usages::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usages::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usages::Absent => Vec::new(),
        };
        params.use_authority_key_identifier_extension = true;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair {
            cert_pem: format!("{cert_pem}{}", self.chain_pem),
            key_pem: encoding::pem(key.serialized_der(), spec.key_kind, spec.encoding),
        })
    }

    /// This authority's own certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The certificate of the root above it, or of itself: what peers have to trust.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Its private key, in PKCS#8.
    pub fn key_pem(&self) -> String {
        encoding::pkcs8(self.issuer.key().serialized_der())
    }
}

fn authority(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Writes `tls.crt`, `tls.key` and `ca.crt` as plain files into `dir`, which is made if it is missing. The key is
/// readable to its owner alone.
///
/// # Errors
/// A file can't be written.
pub fn write_dir(dir: &Path, pair: &Pair, ca_pem: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    write_secret(&dir.join("tls.key"), &pair.key_pem)?;
    fs::write(dir.join("tls.crt"), &pair.cert_pem)?;
    fs::write(dir.join("ca.crt"), ca_pem)
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// It can't be written.
pub fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
