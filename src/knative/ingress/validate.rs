//! What an Ingress has to be before it is served. A violation costs the object that has it, never another.
//!
//! Source: `networking/pkg/apis/networking/v1alpha1/ingress_validation.go`; the rules about headers are ours: a name or
//! a value that can't be sent would otherwise fail each request.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderName, HeaderValue, header};

use super::{Path, PortRef, Spec, Split};

/// A field with a value that can't be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field, from `spec` on.
    pub field: String,
    /// What is there.
    pub value: String,
    /// What is expected.
    pub expected: &'static str,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: expected {}", self.field, self.value, self.expected)
    }
}

impl std::error::Error for Invalid {}

/// Checks the specification of an object in `namespace`; the defaults have to be filled in.
///
/// # Errors
/// The first field that is wrong.
pub fn check(spec: &Spec, namespace: &str) -> Result<(), Invalid> {
    if spec.rules.is_empty() {
        return invalid("spec.rules", "", "at least one rule");
    }
    if !["", "Enabled", "Redirected"].contains(&spec.http_option.as_str()) {
        return invalid("spec.httpOption", &spec.http_option, "Enabled or Redirected");
    }
    for (r, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{r}]");
        if !["", "ExternalIP", "ClusterLocal"].contains(&rule.visibility.as_str()) {
            return invalid(field + ".visibility", &rule.visibility, "ExternalIP or ClusterLocal");
        }
        if let Some((h, host)) = rule.hosts.iter().enumerate().find(|(_, host)| !is_host(host)) {
            return invalid(format!("{field}.hosts[{h}]"), host, "a host name, without a port");
        }
        if rule.paths().is_empty() {
            return invalid(field + ".http.paths", "", "at least one path");
        }
        for (p, path) in rule.paths().iter().enumerate() {
            check_path(path, namespace, &format!("{field}.http.paths[{p}]"))?;
        }
    }
    for (t, tls) in spec.tls.iter().enumerate() {
        if tls.secret_name.is_empty() {
            return invalid(format!("spec.tls[{t}].secretName"), "", "the name of a Secret");
        }
    }
    Ok(())
}

fn check_path(path: &Path, namespace: &str, field: &str) -> Result<(), Invalid> {
    if !path.prefix().starts_with('/') {
        return invalid(format!("{field}.path"), &path.path, "a path that starts with /");
    }
    if !path.rewrite_host.is_empty() && path.rewrite_host.parse::<http::uri::Authority>().is_err() {
        return invalid(format!("{field}.rewriteHost"), &path.rewrite_host, "a host name");
    }
    for (name, matched) in &path.headers {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return invalid(format!("{field}.headers"), name, "the name of a header");
        }
        if HeaderValue::from_str(&matched.exact).is_err() {
            return invalid(format!("{field}.headers[{name}].exact"), &matched.exact, "the value of a header");
        }
    }
    check_headers(&path.append_headers, field)?;
    if path.splits().is_empty() {
        return invalid(format!("{field}.splits"), "", "at least one split");
    }
    let mut total = 0;
    for (s, split) in path.splits().iter().enumerate() {
        let field = format!("{field}.splits[{s}]");
        check_split(split, namespace, &field)?;
        total += split.percent;
    }
    if total != 100 {
        return invalid(format!("{field}.splits"), &total.to_string(), "percentages that add up to 100");
    }
    Ok(())
}

fn check_split(split: &Split, namespace: &str, field: &str) -> Result<(), Invalid> {
    if split.service_name.is_empty() {
        return invalid(format!("{field}.serviceName"), "", "the name of a Service");
    }
    if split.service_namespace != namespace {
        return invalid(format!("{field}.serviceNamespace"), &split.service_namespace, "the object's own namespace");
    }
    match &split.service_port {
        PortRef::Number(1..=65535) => {}
        PortRef::Name(name) if !name.is_empty() => {}
        other => return invalid(format!("{field}.servicePort"), &other.to_string(), "a port's number or name"),
    }
    if !(0..=100).contains(&split.percent) {
        return invalid(format!("{field}.percent"), &split.percent.to_string(), "a number from 0 to 100");
    }
    check_headers(&split.append_headers, field)
}

fn check_headers(headers: &BTreeMap<String, String>, field: &str) -> Result<(), Invalid> {
    for (name, value) in headers {
        let sendable = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !is_framing(&name));
        if !sendable {
            return invalid(format!("{field}.appendHeaders"), name, "a header that says nothing of host or framing");
        }
        if HeaderValue::from_str(value).is_err() {
            return invalid(format!("{field}.appendHeaders[{name}]"), value, "the value of a header");
        }
    }
    Ok(())
}

/// Headers that say where a message goes or where it ends: not for a route to set.
fn is_framing(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, header::TE]
        .contains(name)
}

fn is_host(host: &str) -> bool {
    let name = host.strip_prefix("*.").unwrap_or(host);
    host == "*"
        || (!name.is_empty()
            && !name.starts_with('.')
            && host.len() <= 253
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)))
}

fn invalid(field: impl Into<String>, value: &str, expected: &'static str) -> Result<(), Invalid> {
    Err(Invalid { field: field.into(), value: value.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(path: &str) -> Result<(), Invalid> {
        let text = format!(r#"{{"rules":[{{"hosts":["a"],"http":{{"paths":[{path}]}}}}]}}"#);
        let mut spec: Spec = serde_json::from_str(&text).unwrap();
        spec.default_fields();
        check(&spec, "ns")
    }

    fn split(more: &str) -> String {
        format!(r#"{{"splits":[{{"serviceNamespace":"ns","serviceName":"s","servicePort":80{more}}}]}}"#)
    }

    #[test]
    fn given_a_sound_object_when_checked_then_it_passes() {
        with(&split("")).unwrap();
        with(&split(r#","appendHeaders":{"A":"100%"}"#)).unwrap();
    }

    #[test]
    fn given_a_field_that_cannot_be_served_when_checked_then_it_is_named_with_its_value() {
        for (path, said) in [
            (
                split(r#","appendHeaders":{"Host":"x"}"#),
                r#"spec.rules[0].http.paths[0].splits[0].appendHeaders: "Host""#,
            ),
            (split(r#","appendHeaders":{":path":"x"}"#), r#"splits[0].appendHeaders: ":path""#),
            (split(r#","appendHeaders":{"A":"x\n"}"#), r#"splits[0].appendHeaders[A]: "x\n""#),
            (split(r#","percent":50"#), r#"paths[0].splits: "50": expected percentages that add up to 100"#),
            (split(r#","percent":101"#), r#"splits[0].percent: "101""#),
            (r#"{"splits":[]}"#.to_owned(), "paths[0].splits"),
            (r#"{"path":"x","splits":[]}"#.to_owned(), r#"paths[0].path: "x""#),
            (
                r#"{"splits":[{"serviceNamespace":"other","serviceName":"s","servicePort":80}]}"#.to_owned(),
                r#"splits[0].serviceNamespace: "other""#,
            ),
            (
                r#"{"splits":[{"serviceNamespace":"ns","serviceName":"s","servicePort":0}]}"#.to_owned(),
                r#"splits[0].servicePort: "0""#,
            ),
        ] {
            let error = with(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error} lacks {said}");
        }
    }

    #[test]
    fn given_hosts_when_checked_then_ports_and_blanks_are_refused() {
        for (host, sound) in [("a.b", true), ("*.a.b", true), ("*", true), ("a:80", false), ("a b", false), ("", false)]
        {
            assert_eq!(is_host(host), sound, "{host}");
        }
    }
}
