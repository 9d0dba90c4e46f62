//! From an Ingress to its routes by host.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::{Condition, Origin, Route, ServiceRef, Share};
use crate::knative::ingress::validate::{self, Invalid};
use crate::knative::ingress::{DISABLE_HTTP2_ANNOTATION, Path, Rule, Spec, Split, Visibility, hosts};

/// An object as it was read.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// When it was made, in seconds since 1970: the older one keeps a host that two objects want.
    pub created: i64,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What is wanted.
    pub spec: Spec,
}

/// The routes of one object for one host, in the order in which they are tried.
#[derive(Debug)]
pub struct HostRoutes<B> {
    /// The host: exact, `*.suffix` or `*`, in lower case.
    pub host: String,
    /// Routes that can be reached from outside.
    pub external: Arc<[Arc<Route<B>>]>,
    /// Routes that can be reached from inside the cluster: all of them.
    pub internal: Arc<[Arc<Route<B>>]>,
}

/// The routes of one object.
#[derive(Debug)]
pub struct Compiled<B> {
    /// Where they come from.
    pub origin: Arc<Origin>,
    /// When the object was made.
    pub created: i64,
    /// By host, each host once.
    pub hosts: Vec<HostRoutes<B>>,
}

/// Compiles an object. `backend` gives what requests to a Service's port are sent to; it is also told whether the
/// share's route rewrites the host or leads to an ACME solver, since such upstreams speak no system-internal TLS.
///
/// # Errors
/// The first field that can't be served.
pub fn compile<B: Clone>(
    mut object: Object,
    mut backend: impl FnMut(&ServiceRef, Upstream<'_>) -> B,
) -> Result<Compiled<B>, Invalid> {
    object.spec.default_fields();
    validate::check(&object.spec, &object.namespace)?;
    let Object { namespace, name, created, annotations, labels, spec } = object;
    let hash = spec.hash(&namespace, &name);
    let origin = Arc::new(Origin {
        hash: HeaderValue::try_from(hash).unwrap_or(HeaderValue::from_static("")),
        namespace,
        name,
        redirects: spec.redirects(),
        http1_only: http1_only(&annotations),
        labels,
    });
    let mut by_host: BTreeMap<String, Vec<Arc<Route<B>>>> = BTreeMap::new();
    for rule in &spec.rules {
        let has_tls = !spec.tls_for(rule.visibility()).is_empty();
        let routes: Vec<_> =
            rule.paths().iter().map(|path| Arc::new(route(&origin, rule, path, has_tls, &mut backend))).collect();
        for host in rule_hosts(rule) {
            by_host.entry(host).or_default().extend(routes.iter().cloned());
        }
    }
    let hosts = by_host
        .into_iter()
        .map(|(host, mut routes)| {
            // Stable: paths of one length stay in the order of the object (Kourier's `sortPaths`).
            routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
            let external = routes.iter().filter(|r| r.visibility == Visibility::ExternalIp).cloned().collect();
            HostRoutes { host, external, internal: routes.into() }
        })
        .collect();
    Ok(Compiled { origin, created, hosts })
}

/// Whether annotations keep upstreams on HTTP/1.1.
#[must_use]
pub fn http1_only(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(DISABLE_HTTP2_ANNOTATION).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// What a backend has to know of the route that leads to it.
#[derive(Clone, Copy, Debug)]
pub struct Upstream<'a> {
    /// The object.
    pub origin: &'a Arc<Origin>,
    /// Whether system-internal TLS is spoken when it is on.
    pub may_be_tls: bool,
}

fn rule_hosts(rule: &Rule) -> Vec<String> {
    if rule.hosts.is_empty() {
        return vec!["*".to_owned()];
    }
    rule.hosts.iter().map(|host| hosts::normal(host).into_owned()).collect()
}

fn route<B: Clone>(
    origin: &Arc<Origin>,
    rule: &Rule,
    path: &Path,
    has_tls: bool,
    backend: &mut impl FnMut(&ServiceRef, Upstream<'_>) -> B,
) -> Route<B> {
    let rewrite_host = Some(&path.rewrite_host).filter(|h| !h.is_empty()).and_then(|h| HeaderValue::from_str(h).ok());
    let mut route = Route {
        origin: origin.clone(),
        visibility: rule.visibility(),
        has_tls,
        prefix: path.prefix().into(),
        conditions: path.headers.iter().filter_map(|(name, m)| condition(name, &m.exact)).collect(),
        rewrite_host,
        shares: Box::default(),
    };
    let upstream = Upstream { origin, may_be_tls: route.rewrite_host.is_none() && !route.is_acme() };
    let mut upto = 0;
    route.shares = path
        .splits()
        .iter()
        .filter(|split| split.percent > 0)
        .map(|split| {
            let service = service(split);
            upto += u32::try_from(split.percent).unwrap_or(0);
            Share { upto, backend: backend(&service, upstream), service, set: headers(path, split) }
        })
        .collect();
    route
}

fn service(split: &Split) -> ServiceRef {
    ServiceRef {
        namespace: split.service_namespace.clone(),
        name: split.service_name.clone(),
        port: split.service_port.clone(),
    }
}

fn condition(name: &str, value: &str) -> Option<Condition> {
    Some(Condition { name: HeaderName::from_bytes(name.as_bytes()).ok()?, value: HeaderValue::from_str(value).ok()? })
}

/// Values are literal. Of a header that both set, the path's value counts.
fn headers(path: &Path, split: &Split) -> Box<[(HeaderName, HeaderValue)]> {
    let mut set: BTreeMap<String, (HeaderName, HeaderValue)> = BTreeMap::new();
    for (name, value) in split.append_headers.iter().chain(&path.append_headers) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            set.insert(name.as_str().to_owned(), (name, value));
        }
    }
    set.into_values().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn compiled(spec: &str) -> Compiled<String> {
        let object = Object {
            namespace: "ns".to_owned(),
            name: "app".to_owned(),
            spec: serde_json::from_str(spec).unwrap(),
            ..Object::default()
        };
        compile(object, |service, upstream| format!("{}:{} {}", service.name, service.port, upstream.may_be_tls))
            .unwrap()
    }

    #[test]
    fn given_paths_when_compiled_then_the_longest_comes_first_and_equals_keep_their_order() {
        let compiled = compiled(
            r#"{"rules":[{"hosts":["A.example.com"],"http":{"paths":[
                {"splits":[{"serviceNamespace":"ns","serviceName":"rest","servicePort":80}]},
                {"path":"/foo","headers":{"Knative-Serving-Tag":{"exact":"t"}},"splits":[{"serviceNamespace":"ns","serviceName":"tag","servicePort":80}]},
                {"path":"/foo","splits":[{"serviceNamespace":"ns","serviceName":"foo","servicePort":"http2"}]}]}}]}"#,
        );

        let backends: Vec<_> = compiled.hosts[0].external.iter().map(|r| r.shares[0].backend.as_str()).collect();

        assert_eq!(compiled.hosts[0].host, "a.example.com");
        assert_eq!(backends, ["tag:80 true", "foo:http2 true", "rest:80 true"]);
    }

    #[test]
    fn given_a_header_of_path_and_share_when_compiled_then_the_paths_value_counts() {
        let compiled = compiled(
            r#"{"rules":[{"hosts":["a"],"http":{"paths":[{"appendHeaders":{"X":"path"},"splits":[
                {"serviceNamespace":"ns","serviceName":"s","servicePort":80,"appendHeaders":{"x":"share","Y":"%REQ(z)%"}}]}]}}]}"#,
        );

        let set: Vec<_> = compiled.hosts[0].internal[0].shares[0].set.iter().map(|(n, v)| (n.as_str(), v)).collect();

        assert_eq!(set, [("x", &HeaderValue::from_static("path")), ("y", &HeaderValue::from_static("%REQ(z)%"))]);
    }

    #[test]
    fn given_shares_when_picked_then_each_gets_its_percentage_and_zero_gets_none() {
        let compiled = compiled(
            r#"{"rules":[{"hosts":["a"],"http":{"paths":[{"splits":[
                {"serviceNamespace":"ns","serviceName":"none","servicePort":80,"percent":0},
                {"serviceNamespace":"ns","serviceName":"few","servicePort":80,"percent":1},
                {"serviceNamespace":"ns","serviceName":"most","servicePort":80,"percent":99}]}]}}]}"#,
        );
        let route = &compiled.hosts[0].internal[0];

        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for step in 0..10_000_u64 {
            let random = u32::try_from(step * u64::from(u32::MAX) / 9_999).unwrap();
            *counts.entry(&route.choose(random).unwrap().1.service.name).or_default() += 1;
        }

        assert_eq!(counts, BTreeMap::from([("few", 100), ("most", 9_900)]));
    }

    #[test]
    fn given_ways_to_plain_upstreams_when_compiled_then_they_are_told_apart() {
        let compiled = compiled(
            r#"{"rules":[{"hosts":["a"],"http":{"paths":[
                {"path":"/.well-known/acme-challenge/x","splits":[{"serviceNamespace":"ns","serviceName":"acme","servicePort":8089}]},
                {"rewriteHost":"b","splits":[{"serviceNamespace":"ns","serviceName":"s","servicePort":80}]}]}}]}"#,
        );

        let backends: Vec<_> = compiled.hosts[0].internal.iter().map(|r| r.shares[0].backend.as_str()).collect();

        assert_eq!(backends, ["acme:8089 false", "s:80 false"]);
        assert!(compiled.hosts[0].internal[0].is_acme());
    }

    #[test]
    fn given_local_rules_when_compiled_then_they_are_not_among_the_external_routes() {
        let compiled = compiled(
            r#"{"rules":[{"hosts":["a"],"visibility":"ClusterLocal","http":{"paths":[{"splits":[{"serviceNamespace":"ns","serviceName":"s","servicePort":80}]}]}}]}"#,
        );

        assert!(compiled.hosts[0].external.is_empty());
        assert_eq!(compiled.hosts[0].internal.len(), 1);
    }
}
