//! What may be negotiated: versions, cipher suites and key-exchange groups, as operators set them.
//!
//! Called once at start (control side) with the values of `<PREFIX>TLS_MIN_VERSION`, `.._MAX_VERSION`,
//! `.._CIPHER_SUITES` and `.._CURVE_PREFERENCES`; an empty value counts as unset. Names and error texts are those of
//! Knative's `pkg/network/tls/config.go`; the rule about HTTP/2 is `golang.org/x/net/http2`'s `ConfigureServer`.
use std::fmt;

/// What may be negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    min: Version,
    max: Version,
    /// TLS 1.2 suites, in no order; none means all that we have.
    suites: Option<Vec<Suite>>,
    /// In the order of preference.
    groups: Vec<Group>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A TLS 1.2 cipher suite that lockkeeper has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// `TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256`
    EcdsaAes128,
    /// `TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384`
    EcdsaAes256,
    /// `TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256`
    EcdsaChaCha,
    /// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`
    RsaAes128,
    /// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384`
    RsaAes256,
    /// `TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256`
    RsaChaCha,
}

/// A key-exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The hybrid of X25519 and ML-KEM 768 (TLS 1.3 only).
    X25519MlKem768,
    /// Curve25519.
    X25519,
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

/// Why settings make no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// A value that nobody knows; the text names variable and value.
    Setting(String),
    /// The TLS 1.2 suites leave out the ones that HTTP/2 requires; variable and value.
    Http2(String),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(text) => f.write_str(text),
            Self::Http2(setting) => write!(
                f,
                "http2: TLSConfig.CipherSuites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher (need at least \
                 one of TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 or TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256): {setting}",
            ),
        }
    }
}

impl std::error::Error for PolicyError {}

/// Groups by default, best first: post-quantum where the peer has it, then what the Go components offer.
const DEFAULT_GROUPS: [Group; 5] = [Group::X25519MlKem768, Group::X25519, Group::P256, Group::P384, Group::P521];

/// TLS 1.3 only, every suite, [`X25519MLKEM768`](Group::X25519MlKem768) first.
impl Default for Policy {
    fn default() -> Self {
        Self { min: Version::Tls13, max: Version::Tls13, suites: None, groups: DEFAULT_GROUPS.to_vec() }
    }
}

impl Policy {
    /// A policy from settings. `prefix` is that of the variables, such as `QUEUE_PROXY_`, and appears in errors.
    ///
    /// A maximum below the minimum makes a policy under which every handshake fails, as in the Go components: see
    /// [`Policy::is_satisfiable`].
    ///
    /// # Errors
    /// A value that nobody knows, or suites that HTTP/2 can't use.
    pub fn parse(
        prefix: &str,
        min: Option<&str>,
        max: Option<&str>,
        ciphers: Option<&str>,
        curves: Option<&str>,
    ) -> Result<Self, PolicyError> {
        let set = |value: Option<&str>| value.filter(|text| !text.is_empty()).map(str::to_owned);
        let version = |name: &str, value: Option<String>| {
            value.map(|text| {
                version(&text)
                    .map_err(|why| PolicyError::Setting(format!("invalid {prefix}TLS_{name} {}: {why}", quoted(&text))))
            })
        };
        let min = version("MIN_VERSION", set(min)).transpose()?.unwrap_or(Version::Tls13);
        let max = version("MAX_VERSION", set(max)).transpose()?.unwrap_or(Version::Tls13);
        let invalid = |name: &str, why: String| PolicyError::Setting(format!("invalid {prefix}TLS_{name}: {why}"));
        let suites = set(ciphers).map(|list| suites(&list)).transpose().map_err(|why| invalid("CIPHER_SUITES", why))?;
        let groups = set(curves).map(|list| groups(&list)).transpose();
        let groups = groups.map_err(|why| invalid("CURVE_PREFERENCES", why))?;

        let for_http2 = |suite: &Suite| matches!(suite, Suite::EcdsaAes128 | Suite::RsaAes128);
        if min < Version::Tls13 && suites.as_ref().is_some_and(|suites| !suites.iter().any(for_http2)) {
            return Err(PolicyError::Http2(format!("{prefix}TLS_CIPHER_SUITES={:?}", ciphers.unwrap_or_default())));
        }
        // A list of blanks and commas is no list: Go then takes its defaults.
        let groups = groups.filter(|groups| !groups.is_empty()).unwrap_or_else(|| DEFAULT_GROUPS.to_vec());
        Ok(Self { min, max, suites, groups })
    }

    /// Whether any version may be negotiated. If not, a server starts and refuses every handshake.
    pub fn is_satisfiable(&self) -> bool {
        self.min <= self.max
    }

    /// Whether `version` may be negotiated.
    pub fn allows(&self, version: Version) -> bool {
        self.min <= version && version <= self.max
    }

    /// Whether the TLS 1.2 suite may be negotiated.
    pub fn allows_suite(&self, suite: Suite) -> bool {
        self.allows(Version::Tls12) && self.suites.as_ref().is_none_or(|suites| suites.contains(&suite))
    }

    /// The groups that may be negotiated, best first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "1.2" => Ok(Version::Tls12),
        "1.3" => Ok(Version::Tls13),
        _ => Err(format!(r#"unsupported TLS version {}: must be "1.2" or "1.3""#, quoted(text))),
    }
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

fn suites(list: &str) -> Result<Vec<Suite>, String> {
    let mut found = Vec::new();
    for name in names(list) {
        match name {
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => found.push(Suite::EcdsaAes128),
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => found.push(Suite::EcdsaAes256),
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => found.push(Suite::EcdsaChaCha),
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => found.push(Suite::RsaAes128),
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => found.push(Suite::RsaAes256),
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => found.push(Suite::RsaChaCha),
            // TLS 1.3 suites can't be chosen; Go accepts their names and ignores them.
            "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256" => {}
            // Go still has these for TLS 1.2. We don't: HTTP/2 forbids them (RFC 9113, appendix A), and their padding
            // was attacked again and again. Their names are known, so that settings made for Go start here too.
            "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"
            | "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"
            | "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"
            | "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA" => {}
            unknown => {
                const LIKE: &str = "expected Go's names, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
                return Err(format!("unknown cipher suite {}: {LIKE}", quoted(unknown)));
            }
        }
    }
    Ok(found)
}

fn groups(list: &str) -> Result<Vec<Group>, String> {
    let mut found = Vec::new();
    for name in names(list) {
        let group = match name {
            "X25519MLKEM768" => Group::X25519MlKem768,
            "X25519" => Group::X25519,
            "P-256" | "CurveP256" => Group::P256,
            "P-384" | "CurveP384" => Group::P384,
            "P-521" | "CurveP521" => Group::P521,
            unknown => {
                const KNOWN: &str = "expected X25519MLKEM768, X25519, P-256, P-384 or P-521";
                return Err(format!("unknown curve {}: {KNOWN}", quoted(unknown)));
            }
        };
        if !found.contains(&group) {
            found.push(group);
        }
    }
    Ok(found)
}

/// As Go's `%q` for the texts that occur.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}
