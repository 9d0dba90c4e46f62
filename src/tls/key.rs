//! Turns any private key that cert-manager issues into a signing key, and names its kind.
//!
//! Called where a certificate pair is loaded (control side). Keys: PKCS#8, PKCS#1 and SEC1 encodings of RSA from 2048
//! bits, ECDSA on P-256, P-384 and P-521, and Ed25519: what the Go queue-proxy serves (contract, section 10.1).
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The kind of a public key, as a certificate shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RSA with this many bits.
    Rsa(usize),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// Anything else, by the object identifier of its algorithm.
    Other(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::P256 => f.write_str("ECDSA P-256"),
            Self::P384 => f.write_str("ECDSA P-384"),
            Self::P521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other(oid) => write!(f, "unknown ({oid})"),
        }
    }
}

impl Kind {
    /// The kind of the key in a SubjectPublicKeyInfo.
    pub fn of(spki: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = spki.algorithm.algorithm.to_id_string();
        let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
        match (algorithm.as_str(), curve.as_deref()) {
            ("1.2.840.113549.1.1.1" | "1.2.840.113549.1.1.10", _) => match spki.parsed() {
                // x509-parser counts the bytes of the modulus with its leading zero taken off.
                Ok(PublicKey::RSA(key)) => Self::Rsa(key.key_size()),
                _ => Self::Other(algorithm),
            },
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Self::P256,
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Self::P384,
            ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => Self::P521,
            ("1.3.101.112", _) => Self::Ed25519,
            (_, Some(curve)) => Self::Other(format!("{algorithm}, curve {curve}")),
            _ => Self::Other(algorithm),
        }
    }

    /// Whether lockkeeper signs with keys of this kind and accepts them from a peer.
    pub fn is_supported(&self) -> bool {
        match self {
            Self::Rsa(bits) => *bits >= MIN_RSA_BITS,
            Self::P256 | Self::P384 | Self::P521 | Self::Ed25519 => true,
            Self::Other(_) => false,
        }
    }
}

/// Shorter RSA keys are refused when signing and when verifying: NIST SP 800-131A, and webpki's own floor.
pub const MIN_RSA_BITS: usize = 2048;

/// A signing key from a private key in any of the three encodings.
///
/// # Errors
/// The key is malformed or of a kind that is not supported: in words.
pub fn signing_key(der: &PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, String> {
    rustls::crypto::aws_lc_rs::sign::any_supported_type(der).map_err(|error| match error {
        rustls::Error::General(why) => {
            format!("{why} (supported: RSA from {MIN_RSA_BITS} bits, ECDSA P-256, P-384, P-521, Ed25519)")
        }
        other => other.to_string(),
    })
}

/// Whether `key` is the private half of the public key in `leaf`.
pub fn belongs_to(key: &dyn SigningKey, leaf: &CertificateDer<'_>) -> bool {
    let Some(public) = key.public_key() else { return false };
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(leaf) else { return false };
    certificate.tbs_certificate.subject_pki.raw == public.as_ref()
}
