//! Why a handshake failed: in words, and as a token for logs and metrics.
//!
//! Made from what rustls returns, on both sides of a connection (data side). A verifier of ours puts its own error into
//! rustls'; it is found again here, so that the names which were expected and presented reach the log.
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, OtherError};

use crate::tls::san;

/// Why a handshake failed.
#[derive(Debug)]
pub struct Error {
    reason: Reason,
    detail: String,
}

/// The classes of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The peer's certificate is sound but for another name.
    SanMismatch,
    /// No trusted authority issued the peer's certificate, or an intermediate is missing.
    UnknownCa,
    /// The peer's certificate is past its validity.
    Expired,
    /// The peer's certificate is not valid yet.
    NotYetValid,
    /// The peer's certificate is not for this use (server or client).
    WrongUsage,
    /// The peer's certificate is signed by, or has a key of, an algorithm that is too weak or unknown.
    WeakAlgorithm,
    /// The peer's certificate can't be used for another reason.
    BadCertificate,
    /// The peer showed no certificate although one is required.
    NoCertificate,
    /// We trust no authority yet.
    NoTrust,
    /// We have no certificate to show.
    NoIdentity,
    /// An authority was removed while the handshake was under way.
    TrustChanged,
    /// The peer told us, by an alert, that it gives up.
    PeerAlert,
    /// No version, suite, group or protocol in common.
    NothingInCommon,
    /// What came is not TLS.
    NotTls,
    /// The peer closed or reset the connection.
    Closed,
    /// Any other breach of the protocol.
    Protocol,
    /// Our own settings can't work.
    Settings,
}

impl Reason {
    /// A short word for a log field or a metric's label.
    pub fn token(self) -> &'static str {
        match self {
            Self::SanMismatch => "tls_san_mismatch",
            Self::UnknownCa => "tls_unknown_ca",
            Self::Expired => "tls_expired",
            Self::NotYetValid => "tls_not_yet_valid",
            Self::WrongUsage => "tls_wrong_usage",
            Self::WeakAlgorithm => "tls_weak_algorithm",
            Self::BadCertificate => "tls_bad_certificate",
            Self::NoCertificate => "tls_no_certificate",
            Self::NoTrust => "tls_no_trust",
            Self::NoIdentity => "tls_no_identity",
            Self::TrustChanged => "tls_trust_changed",
            Self::PeerAlert => "tls_peer_alert",
            Self::NothingInCommon => "tls_nothing_in_common",
            Self::NotTls => "tls_not_tls",
            Self::Closed => "tls_closed",
            Self::Protocol => "tls_protocol",
            Self::Settings => "tls_settings",
        }
    }
}

impl Error {
    /// An error of ours.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Why, as a class.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Why, as a short word.
    pub fn token(&self) -> &'static str {
        self.reason.token()
    }

    /// From what a handshake over tokio returns.
    pub fn from_io(error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::from_rustls(tls);
        }
        let detail = error.to_string();
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => {
                Self::new(Reason::Closed, format!("the peer closed the connection: {detail}"))
            }
            _ => Self::new(Reason::Protocol, detail),
        }
    }

    /// From rustls' own error.
    pub fn from_rustls(error: &rustls::Error) -> Self {
        use rustls::Error as Tls;
        match error {
            Tls::InvalidCertificate(why) => Self::from_certificate(why),
            Tls::NoCertificatesPresented => Self::new(Reason::NoCertificate, "the peer showed no certificate"),
            Tls::AlertReceived(alert) => Self::from_alert(*alert),
            Tls::PeerIncompatible(why) => Self::new(Reason::NothingInCommon, format!("nothing in common: {why:?}")),
            Tls::NoApplicationProtocol => Self::new(Reason::NothingInCommon, "no application protocol in common"),
            Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                Self::new(Reason::NotTls, "what came is not TLS")
            }
            other => Self::new(Reason::Protocol, other.to_string()),
        }
    }

    fn from_alert(alert: AlertDescription) -> Self {
        let words = match alert {
            AlertDescription::UnknownCA => "it does not trust the authority of our certificate",
            AlertDescription::CertificateExpired => "our certificate has expired",
            AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => "it refuses our certificate",
            AlertDescription::CertificateRequired => "it requires a client certificate",
            AlertDescription::ProtocolVersion => "no TLS version in common",
            AlertDescription::HandshakeFailure => "no cipher suite or group in common",
            AlertDescription::NoApplicationProtocol => "no application protocol in common",
            AlertDescription::UnrecognisedName => "it has no certificate for this server name",
            AlertDescription::AccessDenied => "it has no certificate for us",
            _ => "it gave up",
        };
        Self::new(Reason::PeerAlert, format!("the peer says: {words} (alert {alert:?})"))
    }

    fn from_certificate(error: &CertificateError) -> Self {
        use CertificateError as C;
        match error {
            C::Other(OtherError(inner)) => match inner.downcast_ref::<SanMismatch>() {
                Some(mismatch) => Self::new(Reason::SanMismatch, mismatch.to_string()),
                None => Self::new(Reason::BadCertificate, inner.to_string()),
            },
            C::Expired | C::ExpiredContext { .. } => Self::new(Reason::Expired, error.to_string()),
            C::NotValidYet | C::NotValidYetContext { .. } => Self::new(Reason::NotYetValid, error.to_string()),
            C::UnknownIssuer => Self::new(
                Reason::UnknownCa,
                "no trusted authority issued the peer's certificate, or an intermediate is missing",
            ),
            C::BadSignature => Self::new(
                Reason::BadCertificate,
                "a signature is not by the key of the issuer that it names (BadSignature)",
            ),
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => Self::new(Reason::WrongUsage, error.to_string()),
            C::UnsupportedSignatureAlgorithmContext { .. }
            | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::new(Reason::WeakAlgorithm, "a signature's algorithm is too weak or unknown")
            }
            other => Self::new(Reason::BadCertificate, other.to_string()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Error {}

/// The peer's certificate is sound, and for another name.
#[derive(Clone, PartialEq, Eq)]
pub struct SanMismatch {
    /// The names of which one was expected.
    pub expected: Vec<Vec<u8>>,
    /// The dNSName entries that it has.
    pub presented: Vec<Vec<u8>>,
}

impl SanMismatch {
    /// As rustls wants it from a verifier.
    pub(crate) fn into_rustls(self) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(self))).into()
    }
}

impl fmt::Display for SanMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, presented) = (san::in_words(&self.expected), san::in_words(&self.presented));
        write!(f, "the peer's certificate is for another name: expected {expected}, presented {presented}")
    }
}

/// rustls prints the `Debug` form of what a verifier returns; without this the log would lose the names.
impl fmt::Debug for SanMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for SanMismatch {}
