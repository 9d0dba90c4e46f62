//! The hash of a specification, over the very bytes that Go's `encoding/json` writes.

use std::fmt::Write as _;

use aws_lc_rs::digest;

use super::Spec;

pub(super) fn of(spec: &Spec, namespace: &str, name: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(go_json(spec).as_bytes());
    hash.update(namespace.as_bytes());
    hash.update(name.as_bytes());
    hash.finish().as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Field order, what is left out and `null` are those of the types; what is left are characters that Go escapes inside
/// strings, which never stand outside of one.
fn go_json(spec: &Spec) -> String {
    // Only strings, numbers, lists and maps with string keys are in it: that can't fail.
    let plain = serde_json::to_string(spec).unwrap_or_default();
    let mut text = String::with_capacity(plain.len());
    for char in plain.chars() {
        match char {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Recorded from Go's `ingress.ComputeHash`.
    #[test]
    fn given_recorded_objects_when_hashed_then_the_hashes_are_those_of_go() {
        let plain: Spec = serde_json::from_str(
            r#"{"rules":[{"hosts":["hello.ns1.example.com"],"visibility":"ExternalIP","http":{"paths":[{"splits":[{"serviceNamespace":"ns1","serviceName":"hello-00001","servicePort":80,"percent":100}]}]}}],"httpOption":"Enabled"}"#,
        )
        .unwrap();
        let odd: Spec = serde_json::from_str(
            r#"{"tls":[{"hosts":["a.example.com"],"secretName":"route-x","secretNamespace":"ns1"}],"rules":[{"hosts":["a.example.com"],"visibility":"ExternalIP","http":{"paths":[{"path":"/x","rewriteHost":"b.ns1.svc.cluster.local","headers":{"Knative-Serving-Tag":{"exact":"t\u003c1\u003e\u0026\u2028é"}},"splits":[{"serviceNamespace":"ns1","serviceName":"s","servicePort":"http2"},{"serviceNamespace":"ns1","serviceName":"s2","servicePort":443,"percent":100,"appendHeaders":{"A":"1","a":"3","b":"2"}}],"appendHeaders":{"Z":"\""}}]}}],"httpOption":"Redirected"}"#,
        )
        .unwrap();

        assert_eq!(plain.hash("ns1", "hello"), "18b32029be972c96f126c67c35c036ba3edfcce9d88dd4400ab9060c990c7b56");
        assert_eq!(odd.hash("ns1", "a"), "f4a32bf510ccbdd726c31defc20a109aac7eb432a6f0d2f78481313787edbdeb");
    }
}
