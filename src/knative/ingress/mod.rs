//! The Ingress object of Knative (`networking.internal.knative.dev/v1alpha1`): what routes, certificates and redirects
//! are wanted.
//!
//! Read by the gateway on the control side, from the API server or from manifests. The webhook that defaults and
//! validates these objects may be absent, so both are done again here ([`Spec::default_fields`], [`validate`]).
//! Source: `networking/pkg/apis/networking/v1alpha1/ingress_types.go`, `ingress_defaults.go`.
mod hash;
pub mod hosts;
pub mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Annotation that names the class of controller that an object is for.
pub const CLASS_ANNOTATION: &str = "networking.knative.dev/ingress.class";
/// Annotation that keeps upstreams on HTTP/1.1 whatever their ports are called (`true` in any case).
pub const DISABLE_HTTP2_ANNOTATION: &str = "kourier.knative.dev/disable-http2";
/// The class that net-kourier serves, and the gateway by default.
pub const DEFAULT_CLASS: &str = "kourier.ingress.networking.knative.dev";
/// The generic finaliser that Kourier leaves on objects; the gateway takes it off objects that are deleted.
pub const FINALIZER: &str = "ingresses.networking.internal.knative.dev";

/// What is wanted. Field order is the order in Go's JSON, which the hash is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Certificates.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<Tls>,
    /// Routes.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// `Enabled` or empty: plain HTTP is served; `Redirected`: it is sent to https.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub http_option: String,
}

/// A certificate and the hosts that it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Hosts.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Name of the Secret.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub secret_name: String,
    /// Its namespace; empty means the object's own.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub secret_namespace: String,
}

/// From where a rule can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Visibility {
    /// From outside of the cluster, and from inside.
    ExternalIp,
    /// From inside only.
    ClusterLocal,
}

/// Routes of some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Hosts; none means every host.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// `ExternalIP` or `ClusterLocal`; empty means the former.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub visibility: String,
    /// Paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

impl Rule {
    /// From where the rule can be reached. Anything unknown counts as the narrower one; validation refuses it before.
    #[must_use]
    pub fn visibility(&self) -> Visibility {
        match self.visibility.as_str() {
            "" | "ExternalIP" => Visibility::ExternalIp,
            _ => Visibility::ClusterLocal,
        }
    }

    /// The rule's paths.
    #[must_use]
    pub fn paths(&self) -> &[Path] {
        self.http.as_ref().and_then(|http| http.paths.as_deref()).unwrap_or_default()
    }
}

/// The paths of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Http {
    /// Paths; the longest matching prefix wins.
    #[serde(default)]
    pub paths: Option<Vec<Path>>,
}

/// Where requests of one path go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// A literal prefix of the path; empty means `/`.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The authority that the upstream sees instead of the caller's.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub rewrite_host: String,
    /// Request headers that all have to match.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Shares of the traffic.
    #[serde(default)]
    pub splits: Option<Vec<Split>>,
    /// Headers to set on requests.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

impl Path {
    /// The prefix, never empty.
    #[must_use]
    pub fn prefix(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// The shares.
    #[must_use]
    pub fn splits(&self) -> &[Split] {
        self.splits.as_deref().unwrap_or_default()
    }
}

/// What a header has to be. An empty value asks for presence only, as Kourier has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct HeaderMatch {
    /// The value.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub exact: String,
}

/// A share of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// Namespace of the Service.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub service_namespace: String,
    /// Name of the Service.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub service_name: String,
    /// The Service's port.
    #[serde(default)]
    pub service_port: PortRef,
    /// Per cent.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "is_zero")]
    pub percent: i64,
    /// Headers to set on requests of this share.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// A port of a Service by number or name (Kubernetes' `IntOrString`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(untagged)]
pub enum PortRef {
    /// By number.
    Number(i64),
    /// By name.
    Name(String),
}

impl Default for PortRef {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl std::fmt::Display for PortRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Spec {
    /// Fills in what may be left out; the hash is made of the result.
    pub fn default_fields(&mut self) {
        for rule in &mut self.rules {
            if rule.visibility.is_empty() {
                "ExternalIP".clone_into(&mut rule.visibility);
            }
            for path in rule.http.iter_mut().filter_map(|h| h.paths.as_mut()).flatten() {
                if let Some([only]) = path.splits.as_deref_mut()
                    && only.percent == 0
                {
                    only.percent = 100;
                }
            }
        }
    }

    /// Whether plain HTTP is answered with a redirect.
    #[must_use]
    pub fn redirects(&self) -> bool {
        self.http_option == "Redirected"
    }

    /// The certificates that serve rules of `visibility`: those that cover all hosts of at least one such rule. A rule
    /// without hosts ends the search (`ingress_helpers.go`, `GetIngressTLSForVisibility`).
    #[must_use]
    pub fn tls_for(&self, visibility: Visibility) -> Vec<&Tls> {
        self.tls
            .iter()
            .filter(|tls| {
                self.rules
                    .iter()
                    .filter(|rule| rule.visibility() == visibility)
                    .take_while(|rule| !rule.hosts.is_empty())
                    .any(|rule| rule.hosts.iter().all(|host| tls.hosts.contains(host)))
            })
            .collect()
    }

    /// The identity of this specification of the object `namespace/name`, in lower-case hexadecimal: what a probe with
    /// `K-Network-Hash: override` is answered (`networking/pkg/ingress/ingress.go`, `ComputeHash`). The defaults have
    /// to be filled in.
    #[must_use]
    pub fn hash(&self, namespace: &str, name: &str) -> String {
        hash::of(self, namespace, name)
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes and reads empty lists, maps and strings as `null` too.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn given_what_may_be_left_out_when_filled_in_then_it_is_as_the_webhook_does_it() {
        let mut spec = spec(
            r#"{"rules":[{"hosts":["a"],"http":{"paths":[{"splits":[{"serviceName":"s","servicePort":80}]},
                {"splits":[{"serviceName":"s","servicePort":80},{"serviceName":"t","servicePort":80,"percent":100}]}]}}]}"#,
        );

        spec.default_fields();

        assert_eq!(spec.rules[0].visibility, "ExternalIP");
        assert_eq!(spec.rules[0].paths()[0].splits()[0].percent, 100);
        assert_eq!(spec.rules[0].paths()[1].splits()[0].percent, 0);
    }

    #[test]
    fn given_nulls_when_read_then_they_are_empty() {
        let spec = spec(r#"{"tls":null,"rules":[{"hosts":null,"http":{"paths":null}}],"httpOption":null}"#);

        assert!(spec.tls.is_empty() && spec.rules[0].hosts.is_empty() && spec.rules[0].paths().is_empty());
    }

    #[test]
    fn given_certificates_when_asked_for_a_visibility_then_only_those_that_cover_a_whole_rule_count() {
        let spec = spec(
            r#"{"tls":[{"hosts":["a","b"],"secretName":"whole"},{"hosts":["a"],"secretName":"part"},
                       {"hosts":["l"],"secretName":"local"}],
                "rules":[{"hosts":["a","b"],"visibility":"ExternalIP"},{"hosts":["l"],"visibility":"ClusterLocal"}]}"#,
        );

        let names = |v| spec.tls_for(v).iter().map(|t| t.secret_name.as_str()).collect::<Vec<_>>();

        assert_eq!(names(Visibility::ExternalIp), ["whole"]);
        assert_eq!(names(Visibility::ClusterLocal), ["local"]);
    }
}
