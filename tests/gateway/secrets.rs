//! Contract, section 4.5: Secrets that are missing, broken, or another namespace's.
use serde_json::json;

use super::callers::{ask, connect, serial};
use super::harness::{
    Directory, NAMESPACE, app, authority, builder, get, path, rule, secret, secret_in, simple, with_tls,
};
use crate::support::objects;
use crate::support::wait::eventually;

/// Whatever is wrong with a Secret, from the start or later: the object says so, a metric counts it, everything else of the
/// object and of others is in force, and so is the last good pair.
#[test]
fn given_secrets_that_cannot_be_used_when_objects_name_them_then_all_else_of_these_is_served() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let leaf = |host: &str, serial| ca.leaf(&[host], serial).unwrap();
    let (mismatched, other) = (leaf("mismatch.example.com", 2), leaf("mismatch.example.com", 3));
    let pair = |name: &str, certificate: &str, key: &str| {
        objects::secret(NAMESPACE, name).entry("tls.crt", certificate).entry("tls.key", key)
    };
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("a", &leaf("a.example.com", 0x11)))
        .apply(pair("mismatch", &mismatched.chain, &other.key))
        .apply(pair("junk", "junk", &other.key))
        .apply(objects::secret(NAMESPACE, "empty"))
        .apply(simple("plain", "plain.example.com", "app"));
    let bad = ["absent", "mismatch", "junk", "empty"];
    for name in bad.into_iter().chain(["a"]) {
        directory.apply(with_tls(name, &format!("{name}.example.com"), name, "Redirected"));
    }
    let mut gateway = directory.start(builder());
    let (http, https, admin) = (gateway.http(), gateway.https(), gateway.admin());
    let unusable = |count: usize| {
        let line = format!("lockkeeper_gateway_certificates_unusable {count}\n");
        eventually(&line, || get(admin, "x", "/metrics").text().contains(&line));
    };
    gateway.ready("plain", 1);
    gateway.ready("a", 1);
    for (name, words) in bad.into_iter().zip([
        "Secret ns1/absent does not exist",
        "private key does not match public key",
        "no PEM block with a certificate was found",
        "Secret ns1/empty: ",
    ]) {
        let message = gateway.says(name, "Ready", "ReconcileIngressFailed");
        assert!(message.contains(words), "{name}: {message}");
        let host = format!("{name}.example.com");
        assert_eq!(get(http, &host, "/").status(), 200, "{name}: a redirect would lead nowhere");
        assert!(serial(https, &ca, &host).is_err());
    }
    unusable(4);

    // One that was good goes bad, and the object changes meanwhile: its new host is served, its certificate stays.
    gateway.directory.apply(pair("a", &mismatched.chain, &other.key));
    let message = gateway.says("a", "Ready", "ReconcileIngressFailed");
    assert!(message.ends_with("; its last good certificate stays in use"), "{message}");
    unusable(5);
    let mut more = with_tls("a", "a.example.com", "a", "Redirected");
    more["metadata"]["generation"] = 2.into();
    let rules = json!([
        rule("ExternalIP", &["a.example.com"], vec![path("", "app")]),
        rule("ExternalIP", &["more.example.com"], vec![path("", "app")])
    ]);
    more["spec"]["rules"] = rules;
    gateway.directory.apply(more);
    eventually("the new host is served", || get(http, "more.example.com", "/").status() == 200);
    assert_eq!(serial(https, &ca, "a.example.com").unwrap(), "11");
    assert_eq!(ask(&mut connect(https, &ca, "a.example.com"), "a.example.com"), 200);

    for name in bad.into_iter().chain(["a"]) {
        gateway.directory.apply(secret(name, &leaf(&format!("{name}.example.com"), 0x77)));
    }
    for (name, generation) in bad.map(|name| (name, 1)).into_iter().chain([("a", 2)]) {
        gateway.ready(name, generation);
        assert_eq!(serial(https, &ca, &format!("{name}.example.com")).unwrap(), "77", "{name}");
    }
    unusable(0);
}

/// An Ingress may use the Secrets of its own namespace, and others only if a setting says so.
#[test]
fn given_a_secret_of_another_namespace_when_an_ingress_names_it_then_it_is_refused_unless_allowed() {
    let ca = authority();
    for allowed in ["", "other", "*"] {
        let (directory, backend) = (Directory::new(), app("one"));
        let theirs = ca.leaf(&["a.example.com"], 0x11).unwrap();
        let mut object = with_tls("a", "a.example.com", "cert", "Enabled");
        object["spec"]["tls"][0]["secretNamespace"] = "other".into();
        // The certificate of a namespace serves all of its objects.
        let mut own = with_tls("x", "x.w.example.com", "wildcard", "Enabled");
        own["spec"]["tls"][0]["secretNamespace"] = "".into();
        directory
            .backend("app", "http", &[backend.port()])
            .apply(secret_in("other", "cert", &theirs))
            .apply(secret("wildcard", &ca.leaf(&["*.w.example.com"], 0x22).unwrap()))
            .apply(object)
            .apply(own)
            .apply(with_tls("y", "y.w.example.com", "wildcard", "Enabled"));
        let mut gateway = directory.start(builder().env("LOCKKEEPER_SHARED_SECRET_NAMESPACES", allowed));
        let port = gateway.https();
        for name in ["x", "y"] {
            gateway.ready(name, 1);
            assert_eq!(serial(port, &ca, &format!("{name}.w.example.com")).unwrap(), "22");
        }
        match allowed {
            "" => {
                let message = gateway.says("a", "Ready", "SecretNotPermitted");
                assert!(message.contains("Secret other/cert is not used"), "{message}");
                assert!(serial(port, &ca, "a.example.com").is_err());
                assert_eq!(get(gateway.http(), "a.example.com", "/").status(), 200, "its routes serve");
            }
            _ => {
                gateway.ready("a", 1);
                assert_eq!(serial(port, &ca, "a.example.com").unwrap(), "11");
            }
        }
    }
}
