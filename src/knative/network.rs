//! `config-network`: what the whole cluster agrees on about encryption and meshes.
//!
//! Every key is checked as in Go, so that a map which Knative's components refuse is refused here too, except for the
//! texts of templates (`domain-template`, `tag-template`) and for `namespace-wildcard-cert-selector`, of which nothing
//! in the path of a request depends.
//!
//! Source: `knative.dev/networking/pkg/config/config.go` (`NewConfigFromMap`), `knative.dev/pkg/configmap/parser`.
use std::collections::BTreeMap;

use crate::knative::config_map::Invalid;

/// The name of the ConfigMap.
pub const NAME: &str = "config-network";

/// What Kourier's predecessor in the defaults is.
const DEFAULT_INGRESS_CLASS: &str = "istio.ingress.networking.knative.dev";

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Whether the hops inside the cluster are encrypted. Default: no.
    pub system_internal_tls: bool,
    /// Whether cluster-local hosts are served with TLS. Default: no.
    pub cluster_local_domain_tls: bool,
    /// Whether certificates are issued for external hosts. Default: no.
    pub external_domain_tls: bool,
    /// Whether pods are addressed one by one. Default: [`MeshMode::Auto`].
    pub mesh: MeshMode,
    /// Whether pods can be addressed through a mesh, with a header that asks for it. Default: no.
    pub mesh_pod_addressability: bool,
    /// The ingress class of routes that name none. Default: Istio's.
    pub ingress_class: String,
    /// What plaintext requests to external hosts are answered by default. Default: [`HttpProtocol::Enabled`].
    pub http_protocol: HttpProtocol,
}

/// Whether a mesh stands between this process and the pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshMode {
    /// Pods are addressed; if none of them can be reached that way, the Service is.
    #[default]
    Auto,
    /// Only the Service is addressed.
    Enabled,
    /// Only pods are.
    Disabled,
}

/// What plaintext requests are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpProtocol {
    /// They are served.
    #[default]
    Enabled,
    /// They are not.
    Disabled,
    /// They are told to come back with TLS.
    Redirected,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            system_internal_tls: false,
            cluster_local_domain_tls: false,
            external_domain_tls: false,
            mesh: MeshMode::Auto,
            mesh_pod_addressability: false,
            ingress_class: DEFAULT_INGRESS_CLASS.to_owned(),
            http_protocol: HttpProtocol::Enabled,
        }
    }
}

impl Network {
    /// Reads the map's data. Where an old and a new spelling are both there, the new one counts.
    ///
    /// # Errors
    /// The first value that is none of its key's.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let read = Read(data);
        for key in ["rolloutDuration", "rollout-duration"] {
            read.rollout(key)?;
        }
        for key in ["autocreateClusterDomainClaims", "autocreate-cluster-domain-claims"] {
            read.boolean(key)?;
        }
        let legacy_encryption = read.boolean("internal-encryption")?.unwrap_or(false);
        let auto_tls = read.enabled("auto-tls").or(read.enabled("autoTLS")).unwrap_or(false);
        Ok(Self {
            // As in Go, `disabled` in the new key does not overrule the old one.
            system_internal_tls: read.encryption("system-internal-tls")? || legacy_encryption,
            cluster_local_domain_tls: read.encryption("cluster-local-domain-tls")?,
            external_domain_tls: read.enabled("external-domain-tls").unwrap_or(auto_tls),
            mesh: read.mesh("mesh-compatibility-mode"),
            mesh_pod_addressability: read.boolean("enable-mesh-pod-addressability")?.unwrap_or(false),
            ingress_class: match read.text("ingress-class").or(read.text("ingress.class")) {
                Some(class) => class.trim().to_owned(),
                None => DEFAULT_INGRESS_CLASS.to_owned(),
            },
            http_protocol: read.http_protocol()?,
        })
    }
}

struct Read<'a>(&'a BTreeMap<String, String>);

impl Read<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Invalid> {
        let Some(value) = self.text(key) else { return Ok(None) };
        let parsed = crate::config::value::bool(value);
        parsed.map(Some).map_err(|invalid| Invalid::new(key, value, invalid.expected))
    }

    fn rollout(&self, key: &str) -> Result<(), Invalid> {
        let Some(value) = self.text(key) else { return Ok(()) };
        match value.parse::<u32>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Invalid::new(key, value, "a whole number of seconds from 0")),
        }
    }

    /// Anything but `enabled` means no, as in Go.
    fn enabled(&self, key: &str) -> Option<bool> {
        self.text(key).map(|value| value.eq_ignore_ascii_case("enabled"))
    }

    fn encryption(&self, key: &str) -> Result<bool, Invalid> {
        let value = self.text(key).unwrap_or_default();
        match value.to_lowercase().as_str() {
            "" | "disabled" => Ok(false),
            "enabled" => Ok(true),
            _ => Err(Invalid::new(key, value, "enabled or disabled")),
        }
    }

    fn mesh(&self, key: &str) -> MeshMode {
        match self.text(key).unwrap_or_default().to_lowercase().as_str() {
            "enabled" => MeshMode::Enabled,
            "disabled" => MeshMode::Disabled,
            // A word that is unknown is no mistake in Go either.
            _ => MeshMode::Auto,
        }
    }

    fn http_protocol(&self) -> Result<HttpProtocol, Invalid> {
        let (key, value) = match (self.text("http-protocol"), self.text("httpProtocol")) {
            (Some(value), _) => ("http-protocol", value),
            (None, Some(value)) => ("httpProtocol", value),
            (None, None) => return Ok(HttpProtocol::Enabled),
        };
        match value.to_lowercase().as_str() {
            "" | "enabled" => Ok(HttpProtocol::Enabled),
            "disabled" => Ok(HttpProtocol::Disabled),
            "redirected" => Ok(HttpProtocol::Redirected),
            _ => Err(Invalid::new(key, value, "enabled, disabled or redirected")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Network, Invalid> {
        Network::parse(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn given_no_key_or_only_the_example_then_everything_is_off() {
        assert_eq!(parse(&[]).unwrap(), Network::default());
        assert_eq!(parse(&[("_example", "system-internal-tls: nonsense")]).unwrap(), Network::default());
    }

    #[test]
    fn given_spellings_of_internal_tls_then_case_and_the_old_key_count() {
        for (pairs, expected) in [
            (&[("system-internal-tls", "Enabled")][..], true),
            (&[("system-internal-tls", "ENABLED")][..], true),
            (&[("system-internal-tls", "disabled")][..], false),
            (&[("system-internal-tls", "")][..], false),
            (&[("internal-encryption", "true")][..], true),
            (&[("internal-encryption", "true"), ("system-internal-tls", "disabled")][..], true),
            (&[("internal-encryption", "false"), ("system-internal-tls", "enabled")][..], true),
        ] {
            assert_eq!(parse(pairs).unwrap().system_internal_tls, expected, "{pairs:?}");
        }
    }

    #[test]
    fn given_a_bad_value_in_any_key_then_it_is_named() {
        for (key, value) in [
            ("system-internal-tls", "on"),
            ("internal-encryption", "yes"),
            ("cluster-local-domain-tls", "true"),
            ("enable-mesh-pod-addressability", "1.0"),
            ("rollout-duration", "-1"),
            ("rolloutDuration", "5s"),
            ("autocreate-cluster-domain-claims", ""),
            ("http-protocol", "https"),
        ] {
            let error = parse(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(&format!("{value:?}")), "{error}");
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn given_old_and_new_spellings_then_the_new_ones_count() {
        let network = parse(&[
            ("ingress.class", "old"),
            ("ingress-class", "kourier.ingress.networking.knative.dev"),
            ("autoTLS", "Enabled"),
            ("external-domain-tls", "disabled"),
            ("httpProtocol", "disabled"),
            ("http-protocol", "Redirected"),
            ("mesh-compatibility-mode", "Enabled"),
        ])
        .unwrap();

        assert_eq!(network.ingress_class, "kourier.ingress.networking.knative.dev");
        assert!(!network.external_domain_tls);
        assert_eq!(network.http_protocol, HttpProtocol::Redirected);
        assert_eq!(network.mesh, MeshMode::Enabled);
        assert_eq!(parse(&[("mesh-compatibility-mode", "sometimes")]).unwrap().mesh, MeshMode::Auto);
        assert!(parse(&[("autoTLS", "Enabled")]).unwrap().external_domain_tls);
    }
}
