//! `config-kourier`: settings that act while the gateway runs.
//!
//! A key that is absent has its default. An update with a value that can't be used is refused whole and the previous
//! settings stay. Source: net-kourier's `pkg/config/kourier.go`.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::value;
use crate::gateway::access_log::{self, Template};
use crate::gateway::{authz, traces};
use crate::knative::config_map::Invalid;
use crate::net::cidr::Cidr;

/// Name of the ConfigMap in the system namespace.
pub const NAME: &str = "config-kourier";

/// What the ConfigMap says.
#[derive(Clone, Debug, PartialEq)]
pub struct Kourier {
    /// The line of the access log; none: no log.
    pub access_log: Option<Template>,
    /// Whether external ports demand the PROXY protocol.
    pub proxy_protocol: bool,
    /// On which of them: the plain one, the TLS one; default both.
    pub proxy_listeners: (bool, bool),
    /// From where the PROXY protocol is accepted, while connections from elsewhere are closed; none: from everywhere.
    pub proxy_sources: Option<Vec<Cidr>>,
    /// The Secret, in the system namespace, for cluster-local hosts without a certificate of their own.
    pub cluster_certificate: Option<String>,
    /// The Secret (namespace, name) for external hosts without a certificate of their own.
    pub default_certificate: Option<(String, String)>,
    /// How long a stream may be silent; none: for ever.
    pub stream_idle_timeout: Option<Duration>,
    /// How many of the last entries of `X-Forwarded-For` come from proxies that are trusted.
    pub trusted_hops: u32,
    /// Whether the caller's address is the connection's, and what the caller says of itself is not believed.
    pub use_remote_address: bool,
    /// Names of cipher suites of TLS 1.2, in OpenSSL's spelling; empty: all that are sound.
    pub cipher_suites: Vec<String>,
    /// Addresses to listen on; empty: all.
    pub listen_addresses: Vec<IpAddr>,
    /// Whether responses keep the application's `Server` header.
    pub keep_server_header: bool,
    /// The service that decides about requests, if there is one.
    pub authorizer: Option<authz::settings::Settings>,
    /// Proxies that are believed what they say of their callers, while nobody else is; none: as Kourier does it.
    pub trusted_proxies: Option<Vec<Cidr>>,
    /// Where spans go, if requests are traced.
    pub tracing: Option<traces::Settings>,
    /// Keys that are known and not acted upon, to be named in the log.
    pub ignored: Vec<&'static str>,
}

impl Default for Kourier {
    fn default() -> Self {
        Self {
            access_log: Template::parse(access_log::DEFAULT).ok(),
            proxy_protocol: false,
            proxy_listeners: (true, true),
            proxy_sources: None,
            cluster_certificate: None,
            default_certificate: None,
            stream_idle_timeout: None,
            trusted_hops: 0,
            use_remote_address: false,
            cipher_suites: Vec::new(),
            listen_addresses: Vec::new(),
            keep_server_header: false,
            authorizer: None,
            trusted_proxies: None,
            tracing: None,
            ignored: Vec::new(),
        }
    }
}

/// Keys of Kourier's documentation that do nothing here; the second one does nothing there either (`extauthz-pack-as-bytes`
/// is meant).
const IGNORED: &[&str] = &["enable-cryptomb", "extauthz-pack-as-byte"];

impl Kourier {
    /// Whether connections to the external port, the TLS one or the plain one, begin with the PROXY protocol.
    #[must_use]
    pub fn expects_proxy(&self, tls: bool) -> bool {
        self.proxy_protocol && if tls { self.proxy_listeners.1 } else { self.proxy_listeners.0 }
    }

    /// Whether the PROXY protocol is believed from this address.
    #[must_use]
    pub fn accepts_proxy(&self, ip: IpAddr) -> bool {
        self.proxy_sources.as_ref().is_none_or(|sources| sources.iter().any(|source| source.contains(ip)))
    }

    /// The defaults, for data that can't be used, but never without the authoriser that it speaks of: until the mistake
    /// is repaired, that one decides, or nothing is allowed.
    #[must_use]
    pub fn without_mistakes(data: &BTreeMap<String, String>) -> Self {
        let text = |key: &str| data.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
        let authorizer = authz::settings::Settings::of_config_map(text);
        let authorizer = authorizer.unwrap_or_else(|_| Some(authz::settings::Settings::unknown()));
        Self { authorizer, ..Self::default() }
    }

    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let text = |key: &str| data.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
        let boolean = |key: &str, default| match text(key) {
            None => Ok(default),
            Some(value) => value::bool(value).map_err(|_| Invalid::new(key, value, "true or false")),
        };
        let access_log = match boolean("enable-service-access-logging", true)? {
            false => None,
            true => {
                // Kept as it is, a line's end included.
                let template = data.get("service-access-log-template").filter(|value| !value.is_empty());
                let template = template.map_or(access_log::DEFAULT, String::as_str);
                let parsed = Template::parse(template);
                Some(
                    parsed
                        .map_err(|why| Invalid::because("service-access-log-template", template, &why.to_string()))?,
                )
            }
        };
        let stream_idle_timeout = match text("stream-idle-timeout") {
            None => Duration::ZERO,
            Some(value) => value::duration(value)
                .map_err(|_| Invalid::new("stream-idle-timeout", value, "a duration such as 30s or 5m"))?,
        };
        let trusted_hops = match text("trusted-hops-count") {
            None => 0,
            Some(value) => {
                value.parse().map_err(|_| Invalid::new("trusted-hops-count", value, "a number from 0 to 4294967295"))?
            }
        };
        let mut listen_addresses = Vec::new();
        for address in list(text("listen-ip-addresses")) {
            let parsed = address.parse::<IpAddr>();
            listen_addresses.push(parsed.map_err(|_| Invalid::new("listen-ip-addresses", address, "IP addresses"))?);
        }
        let default_certificate = match (text("certs-secret-namespace"), text("certs-secret-name")) {
            (Some(namespace), Some(name)) => Some((namespace.to_owned(), name.to_owned())),
            _ => None,
        };
        Ok(Self {
            access_log,
            proxy_protocol: boolean("enable-proxy-protocol", false)?,
            proxy_listeners: text("proxy-protocol-listeners").map_or(Ok((true, true)), proxy_listeners)?,
            proxy_sources: text("proxy-protocol-sources")
                .map(|text| blocks("proxy-protocol-sources", text))
                .transpose()?,
            cluster_certificate: text("cluster-cert-secret").map(str::to_owned),
            default_certificate,
            stream_idle_timeout: (!stream_idle_timeout.is_zero()).then_some(stream_idle_timeout),
            trusted_hops,
            use_remote_address: boolean("use-remote-address", false)?,
            cipher_suites: list(text("cipher-suites")).map(str::to_owned).collect(),
            listen_addresses,
            keep_server_header: boolean("disable-envoy-server-header", false)?,
            authorizer: authz::settings::Settings::of_config_map(text)?,
            trusted_proxies: text("trusted-proxies").map(proxies).transpose()?,
            tracing: traces::Settings::of_config_map(text)?,
            ignored: IGNORED.iter().copied().filter(|key| text(key).is_some_and(|value| value != "false")).collect(),
        })
    }
}

/// Blocks of addresses, or `none`.
fn proxies(text: &str) -> Result<Vec<Cidr>, Invalid> {
    if text == "none" {
        return Ok(Vec::new());
    }
    blocks("trusted-proxies", text)
}

fn blocks(key: &'static str, text: &str) -> Result<Vec<Cidr>, Invalid> {
    let invalid = || Invalid::new(key, text, "addresses such as 192.0.2.1 and 10.0.0.0/8");
    list(Some(text)).map(|block| block.parse().map_err(|()| invalid())).collect()
}

/// `http`, `https` or both.
fn proxy_listeners(text: &str) -> Result<(bool, bool), Invalid> {
    let mut listeners = (false, false);
    for name in list(Some(text)) {
        match name {
            "http" => listeners.0 = true,
            "https" => listeners.1 = true,
            _ => return Err(Invalid::new("proxy-protocol-listeners", text, "http, https or both")),
        }
    }
    Ok(listeners)
}

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(entries: &[(&str, &str)]) -> Result<Kourier, Invalid> {
        Kourier::parse(&entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn given_nothing_when_parsed_then_the_defaults_are_kouriers() {
        assert_eq!(parse(&[("_example", "enable-proxy-protocol: nonsense")]).unwrap(), Kourier::default());
    }

    #[test]
    fn given_values_when_parsed_then_each_is_taken() {
        let kourier = parse(&[
            ("enable-service-access-logging", "false"),
            ("enable-proxy-protocol", "true"),
            ("stream-idle-timeout", "50s"),
            ("trusted-hops-count", "2"),
            ("certs-secret-name", "default"),
            ("certs-secret-namespace", "certs"),
            ("cipher-suites", "ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256"),
            ("listen-ip-addresses", "0.0.0.0, ::"),
            ("enable-cryptomb", "true"),
            ("extauthz-pack-as-byte", "true"),
            ("trusted-proxies", "10.0.0.0/8, ::1"),
        ])
        .unwrap();

        assert!(kourier.access_log.is_none() && kourier.proxy_protocol);
        assert_eq!(kourier.stream_idle_timeout, Some(Duration::from_secs(50)));
        assert_eq!(kourier.default_certificate, Some(("certs".to_owned(), "default".to_owned())));
        assert_eq!((kourier.cipher_suites.len(), kourier.listen_addresses.len()), (2, 2));
        assert_eq!(kourier.trusted_proxies.map(|proxies| proxies.len()), Some(2));
        assert_eq!(parse(&[("trusted-proxies", "none")]).unwrap().trusted_proxies, Some(Vec::new()));
        assert_eq!(kourier.ignored, ["enable-cryptomb", "extauthz-pack-as-byte"]);
    }

    #[test]
    fn given_a_value_that_cannot_be_used_when_parsed_then_key_and_value_are_named() {
        for (key, value) in [
            ("enable-proxy-protocol", "perhaps"),
            ("stream-idle-timeout", "50"),
            ("trusted-hops-count", "-1"),
            ("listen-ip-addresses", "localhost"),
            ("trusted-proxies", "10.0.0.0/33"),
            ("proxy-protocol-sources", "10.0.0.0/33"),
            ("proxy-protocol-listeners", "http,8444"),
            ("service-access-log-template", "%PROTOCOL"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}={value:?}")), "{error}");
        }
    }
}
