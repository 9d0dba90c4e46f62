//! TLS settings as roles read them from the environment: what may be negotiated, and which callers show a certificate.
//!
//! Control side, once at start. A policy is kept as text and parsed where it is used, since a mistake in it ends the
//! start in some roles and costs one port in others.
use std::sync::Arc;

use crate::config::env::Reader;
use crate::config::value::{self, Invalid};
use crate::tls::client_auth::{Allowed, ClientAuth};
use crate::tls::policy::{Policy, PolicyError};
use crate::tls::trust;

/// A TLS policy as text: `<PREFIX>TLS_MIN_VERSION`, `_MAX_VERSION`, `_CIPHER_SUITES`, `_CURVE_PREFERENCES`; empty is
/// unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyText {
    /// Lowest version.
    pub min_version: String,
    /// Highest version.
    pub max_version: String,
    /// Cipher suites by Go's names, comma-separated.
    pub cipher_suites: String,
    /// Groups, comma-separated.
    pub curve_preferences: String,
}

impl PolicyText {
    /// What is set; `prefix` is that of the variables, such as `QUEUE_PROXY_`.
    #[must_use]
    pub fn read(read: &Reader<'_>, prefix: &str) -> Self {
        let text = |name: &str| read.text(&format!("{prefix}TLS_{name}"));
        Self {
            min_version: text("MIN_VERSION"),
            max_version: text("MAX_VERSION"),
            cipher_suites: text("CIPHER_SUITES"),
            curve_preferences: text("CURVE_PREFERENCES"),
        }
    }

    /// The policy that these make; `prefix` appears in errors.
    ///
    /// # Errors
    /// A value that nobody knows.
    pub fn policy(&self, prefix: &str) -> Result<Policy, PolicyError> {
        // Empty values count as unset there.
        let Self { min_version, max_version, cipher_suites, curve_preferences } = self;
        Policy::parse(prefix, Some(min_version), Some(max_version), Some(cipher_suites), Some(curve_preferences))
    }
}

/// Whether a caller must show a certificate on a TLS port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Callers {
    /// None is asked for.
    #[default]
    Off,
    /// One is asked for and, if shown, verified.
    Request,
    /// Without a valid one the handshake fails.
    Require,
}

impl Callers {
    fn parse(value: &str) -> Result<Self, Invalid> {
        match value {
            "off" => Ok(Self::Off),
            "request" => Ok(Self::Request),
            "require" => Ok(Self::Require),
            _ => Err(Invalid::new("off, request or require")),
        }
    }
}

/// `LOCKKEEPER_CLIENT_AUTH` and `LOCKKEEPER_CLIENT_AUTH_SANS`: who may call a role's TLS port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerAuth {
    /// Whether a certificate is asked for; default off.
    pub callers: Callers,
    /// Names of which the certificate must have one; never none.
    pub names: Vec<String>,
}

impl CallerAuth {
    /// What is set; without names, `default` is the one that callers must have.
    pub fn read(read: &mut Reader<'_>, default: &str) -> Option<Self> {
        let callers = read.or("LOCKKEEPER_CLIENT_AUTH", Callers::Off, Callers::parse);
        let names = read.or("LOCKKEEPER_CLIENT_AUTH_SANS", vec![default.to_owned()], value::names);
        Some(Self { callers: callers?, names: names? })
    }

    /// The rule for a server whose callers' certificates are issued by authorities in `trust`.
    #[must_use]
    pub fn by(&self, trust: &Arc<trust::Store>) -> ClientAuth {
        let allowed = || Allowed::new(trust.clone(), self.names.iter().map(|name| name.as_bytes().to_vec()));
        match self.callers {
            Callers::Off => ClientAuth::Off,
            Callers::Request => ClientAuth::Request(allowed()),
            Callers::Require => ClientAuth::Require(allowed()),
        }
    }
}
