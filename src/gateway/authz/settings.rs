//! Which authoriser is asked, and how: the keys `extauthz-*` of `config-kourier`, or `KOURIER_EXTAUTHZ_*`.
//!
//! Control side. Source: net-kourier's `pkg/reconciler/ingress/config/ext_authz.go` and `pkg/config`.
use std::time::Duration;

use crate::config::env::Env;
use crate::config::value;
use crate::knative::config_map::Invalid;
use crate::tls::client::Sni;

/// How the authoriser is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `envoy.service.auth.v3.Authorization/Check` over HTTP/2 in plaintext.
    Grpc,
    /// The request itself, less its body's end and most of its headers, over HTTP/1.1.
    Http,
    /// The same over TLS.
    Https,
}

/// The authoriser's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whether requests pass when it fails; default false.
    pub failure_mode_allow: bool,
    /// How many bytes of a body it is shown; default 8192.
    pub max_body: usize,
    /// How long it may take, connecting included; default 2 s.
    pub timeout: Duration,
    /// What stands before the path in what it is asked, over HTTP; default nothing.
    pub path_prefix: String,
    /// Whether it gets the body as bytes, over gRPC; default false: as text, with what is no UTF-8 replaced.
    pub pack_as_bytes: bool,
}

/// Where each setting stands.
struct Keys {
    host: &'static str,
    protocol: &'static str,
    failure_mode_allow: &'static str,
    max_body: &'static str,
    timeout: &'static str,
    path_prefix: &'static str,
    pack_as_bytes: &'static str,
}

const CONFIG_MAP: Keys = Keys {
    host: "extauthz-host",
    protocol: "extauthz-protocol",
    failure_mode_allow: "extauthz-failure-mode-allow",
    max_body: "extauthz-max-request-body-bytes",
    timeout: "extauthz-timeout",
    path_prefix: "extauthz-path-prefix",
    pack_as_bytes: "extauthz-pack-as-bytes",
};

const ENVIRONMENT: Keys = Keys {
    host: "KOURIER_EXTAUTHZ_HOST",
    protocol: "KOURIER_EXTAUTHZ_PROTOCOL",
    failure_mode_allow: "KOURIER_EXTAUTHZ_FAILUREMODEALLOW",
    max_body: "KOURIER_EXTAUTHZ_MAXREQUESTBYTES",
    timeout: "KOURIER_EXTAUTHZ_TIMEOUT",
    path_prefix: "KOURIER_EXTAUTHZ_PATHPREFIX",
    pack_as_bytes: "KOURIER_EXTAUTHZ_PACKASBYTES",
};

impl Settings {
    /// Reads a ConfigMap's values; none without a host.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn of_config_map<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Self>, Invalid> {
        Self::read(&CONFIG_MAP, |key| text(key).map(str::to_owned))
    }

    /// Reads the environment; none without a host.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn of_environment(env: &dyn Env) -> Result<Option<Self>, Invalid> {
        Self::read(&ENVIRONMENT, |key| env.var(key).filter(|value| !value.is_empty()))
    }

    /// For when it is known that there is an authoriser and not which: nothing is allowed.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            host: String::new(),
            port: 0,
            protocol: Protocol::Https,
            failure_mode_allow: false,
            max_body: 0,
            timeout: Duration::from_secs(1),
            path_prefix: String::new(),
            pack_as_bytes: false,
        }
    }

    fn read(keys: &Keys, text: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Invalid> {
        let Some(address) = text(keys.host) else { return Ok(None) };
        let invalid = |key: &str, expected: &str| Invalid::new(key, &text(key).unwrap_or_default(), expected);
        let parsed = host_and_port(&address);
        let (host, port) = parsed.ok_or_else(|| invalid(keys.host, "host:port, an IPv6 address in brackets"))?;
        let protocol = match text(keys.protocol).as_deref() {
            Some("grpc") => Protocol::Grpc,
            Some("http") => Protocol::Http,
            Some("https") => Protocol::Https,
            _ => return Err(invalid(keys.protocol, "grpc, http or https, which must be given with the host")),
        };
        if protocol == Protocol::Https && Sni::fixed(&host).is_err() {
            return Err(invalid(keys.host, "a name, which the certificate must bear, and a port"));
        }
        let boolean = |key: &'static str| match text(key) {
            None => Ok(false),
            Some(value) => value::bool(&value).map_err(|_| invalid(key, "true or false")),
        };
        let number = |key: &'static str, default: u32| match text(key) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| invalid(key, "a number from 0 to 4294967295")),
        };
        let pack_as_bytes = boolean(keys.pack_as_bytes)?;
        if pack_as_bytes && protocol != Protocol::Grpc {
            return Err(invalid(keys.pack_as_bytes, "false, unless the protocol is grpc"));
        }
        let path_prefix = text(keys.path_prefix).unwrap_or_default();
        if !path_prefix.is_empty() && path_prefix.parse::<http::uri::PathAndQuery>().is_err() {
            return Err(invalid(keys.path_prefix, "the beginning of a path"));
        }
        let timeout = number(keys.timeout, 2000)?;
        if timeout == 0 {
            return Err(invalid(keys.timeout, "milliseconds, at least 1"));
        }
        Ok(Some(Self {
            host,
            port,
            protocol,
            failure_mode_allow: boolean(keys.failure_mode_allow)?,
            max_body: usize::try_from(number(keys.max_body, 8192)?).unwrap_or(usize::MAX),
            timeout: Duration::from_millis(timeout.into()),
            path_prefix,
            pack_as_bytes,
        }))
    }
}

fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok().then_some(v6)?,
        None => Some(host).filter(|host| !host.is_empty() && !host.contains(':'))?,
    };
    Some((host.to_owned(), port.parse().ok().filter(|port| *port > 0)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(entries: &[(&str, &'static str)]) -> Result<Option<Settings>, Invalid> {
        Settings::of_config_map(|key| entries.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn given_a_host_and_a_protocol_when_read_then_the_rest_has_kouriers_defaults() {
        let settings = read(&[("extauthz-host", "authz.ns:6000"), ("extauthz-protocol", "grpc")]).unwrap().unwrap();

        assert_eq!((settings.host.as_str(), settings.port), ("authz.ns", 6000));
        assert_eq!((settings.max_body, settings.timeout), (8192, Duration::from_secs(2)));
        assert!(!settings.failure_mode_allow && !settings.pack_as_bytes && settings.path_prefix.is_empty());
        assert_eq!(read(&[("extauthz-protocol", "nonsense")]).unwrap(), None, "without a host nothing counts");
        let v6 = read(&[("extauthz-host", "[::1]:1"), ("extauthz-protocol", "http")]).unwrap().unwrap();
        assert_eq!(v6.host, "::1");
    }

    #[test]
    fn given_a_value_that_cannot_be_used_when_read_then_it_is_named() {
        for (key, value) in [
            ("extauthz-host", "authz"),
            ("extauthz-host", "::1:80"),
            ("extauthz-protocol", "tcp"),
            ("extauthz-failure-mode-allow", "perhaps"),
            ("extauthz-max-request-body-bytes", "-1"),
            ("extauthz-timeout", "0"),
            ("extauthz-path-prefix", "a b"),
            ("extauthz-pack-as-bytes", "true"),
        ] {
            let mut entries = vec![(key, value)];
            entries.extend([("extauthz-host", "a:1"), ("extauthz-protocol", "http")]);
            let error = read(&entries).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}={value:?}")), "{error}");
        }
        assert!(read(&[("extauthz-host", "a:1")]).is_err(), "the protocol has no default");
    }
}
