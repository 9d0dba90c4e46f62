//! Contract, section 4: certificates by server name, and redirects.
use std::net::TcpStream;

use rustls::CipherSuite;
use serde_json::json;

use super::callers::{ask, connect, serial, shown};
use super::harness::{
    Directory, NAMESPACE, SYSTEM, app, authority, builder, get, ingress, path, rule, secret, simple, with_tls,
};
use crate::support::binary::command;
use crate::support::client::local;
use crate::support::objects::{self, config_map};
use crate::support::pki::client_offering;
use crate::support::wait::eventually;

/// `tls`, T1 and G3: each host has its own certificate; a new Secret serves at once and closes nothing; a bad one
/// leaves the last good pair and says so.
#[test]
fn given_certificates_by_host_when_a_secret_changes_then_the_next_handshake_has_it() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let leaf = |host: &str, serial| ca.leaf(&[host], serial).unwrap();
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("a-cert", &leaf("a.example.com", 0x11)))
        .apply(secret("b-cert", &leaf("b.example.com", 0x22)))
        .apply(with_tls("a", "a.example.com", "a-cert", "Enabled"))
        .apply(with_tls("b", "b.example.com", "b-cert", "Enabled"));
    let mut gateway = directory.start(builder());
    gateway.ready("a", 1);
    gateway.ready("b", 1);
    let port = gateway.https();
    assert_eq!(serial(port, &ca, "a.example.com").unwrap(), "11");
    assert_eq!(serial(port, &ca, "b.example.com").unwrap(), "22");
    let unknown = serial(port, &ca, "c.example.com").unwrap_err().to_string();
    assert!(unknown.contains("UnrecognisedName"), "{unknown}");
    let target = format!("127.0.0.1:{port}");
    let (code, shown) = command(&["certs", "show", &target, "--server-name", "b.example.com"]).finish();
    assert!(code == Some(0) && shown.contains("names: b.example.com"), "{shown}");
    let (code, shown) = command(&["certs", "show", &target]).finish();
    assert!(code == Some(1) && shown.contains("no certificate for this server name"), "{shown}");
    let mut open = connect(port, &ca, "a.example.com");
    assert_eq!(ask(&mut open, "a.example.com"), 200);
    assert_eq!(get(gateway.http(), "a.example.com", "/").status(), 200, "plain HTTP is served as well");

    gateway.directory.apply(secret("a-cert", &leaf("a.example.com", 0x33)));
    eventually("the new certificate serves", || serial(port, &ca, "a.example.com").is_ok_and(|serial| serial == "33"));
    assert_eq!(ask(&mut open, "a.example.com"), 200, "a connection from before lives on");

    gateway.directory.apply(objects::secret(NAMESPACE, "a-cert").entry("tls.crt", "junk").entry("tls.key", "junk"));
    let message = gateway.says("a", "Ready", "ReconcileIngressFailed");
    assert!(message.contains("Secret ns1/a-cert"), "{message}");
    assert_eq!(serial(port, &ca, "a.example.com").unwrap(), "33");
    gateway.directory.apply(secret("a-cert", &leaf("a.example.com", 0x44)));
    gateway.ready("a", 1);
    assert_eq!(serial(port, &ca, "a.example.com").unwrap(), "44");
}

/// RFC 9110 section 15.5.20: a connection is for the hosts of its certificate.
#[test]
fn given_a_connection_for_one_host_when_it_asks_for_another_then_it_is_told_that_it_is_misdirected() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let wildcard = ca.leaf(&["*.w.example.com"], 1).unwrap();
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("a-cert", &ca.leaf(&["a.example.com"], 2).unwrap()))
        .apply(secret("w-cert", &wildcard))
        .apply(with_tls("a", "a.example.com", "a-cert", "Enabled"))
        .apply(with_tls("x", "x.w.example.com", "w-cert", "Enabled"))
        .apply(with_tls("y", "y.w.example.com", "w-cert", "Enabled"));
    let mut gateway = directory.start(builder());
    for name in ["a", "x", "y"] {
        gateway.ready(name, 1);
    }

    let mut connection = connect(gateway.https(), &ca, "x.w.example.com");

    assert_eq!(ask(&mut connection, "x.w.example.com"), 200);
    assert_eq!(ask(&mut connection, "y.w.example.com"), 200);
    assert_eq!(ask(&mut connection, "a.example.com"), 421);
}

/// `httpoption` and serving#12527: a redirect once there is a certificate, never for an ACME challenge.
#[test]
fn given_a_redirected_object_when_asked_in_plaintext_then_the_challenge_alone_is_served() {
    let (directory, backend, ca) = (Directory::new(), app("solver"), authority());
    let mut object = with_tls("a", "a.example.com", "a-cert", "Redirected");
    let paths = json!([path("/.well-known/acme-challenge/token", "app"), path("", "app")]);
    object["spec"]["rules"][0]["http"]["paths"] = paths;
    directory.backend("app", "http", &[backend.port()]).apply(object);
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    let message = gateway.says("a", "Ready", "ReconcileIngressFailed");
    assert_eq!(message, "Secret ns1/a-cert does not exist");
    assert_eq!(get(port, "a.example.com", "/").status(), 200, "without a certificate there is nowhere to send callers");

    gateway.directory.apply(secret("a-cert", &ca.leaf(&["a.example.com"], 1).unwrap()));
    gateway.ready("a", 1);

    let reply = get(port, "a.example.com:80", "/x?y");
    assert_eq!((reply.status(), reply.header("location")), (301, Some("https://a.example.com/x?y")));
    let reply = get(port, "a.example.com:8080", "/");
    assert_eq!(reply.header("location"), Some("https://a.example.com:8080/"));
    assert_eq!(get(port, "a.example.com", "/.well-known/acme-challenge/token").text(), "solver");
    assert_eq!(ask(&mut connect(gateway.https(), &ca, "a.example.com"), "a.example.com"), 200);
}

/// Cluster-local TLS on its own port, under all three names; the default certificate for hosts without one
/// (net-kourier's `cert`); net-kourier's `tls`: cipher suites of TLS 1.2 as set.
#[test]
fn given_local_and_default_certificates_when_shaking_hands_then_each_port_has_its_own() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let hosts = ["app.ns1.svc.cluster.local", "app.ns1.svc", "app.ns1"];
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("local-cert", &ca.leaf(&hosts, 0x51).unwrap()))
        .apply(ingress(
            "local",
            1,
            json!({
                "tls": [{"hosts": hosts, "secretName": "local-cert", "secretNamespace": NAMESPACE}],
                "rules": [rule("ClusterLocal", &hosts, vec![path("", "app")])]
            }),
        ))
        .apply(simple("plain", "plain.example.com", "app"))
        .apply(config_map(SYSTEM, "config-kourier").entry("enable-proxy-protocol", "false"));
    let mut gateway = directory.start(builder());
    gateway.ready("local", 1);
    let (external, internal) = (gateway.https(), gateway.internal_https());
    for host in hosts {
        assert_eq!(serial(internal, &ca, host).unwrap(), "51");
        assert_eq!(ask(&mut connect(internal, &ca, host), host), 200);
        assert!(serial(external, &ca, host).is_err());
    }
    assert!(serial(external, &ca, "plain.example.com").is_err());

    let default = ca.leaf(&["*.example.com"], 0x52).unwrap();
    gateway.directory.apply(secret("default", &default)).apply(
        config_map(SYSTEM, "config-kourier")
            .entry("certs-secret-namespace", NAMESPACE)
            .entry("certs-secret-name", "default")
            .entry("cipher-suites", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    );
    eventually("the default certificate serves", || {
        serial(external, &ca, "plain.example.com").is_ok_and(|serial| serial == "52")
    });
    assert_eq!(get(gateway.http(), "plain.example.com", "/").status(), 200);
    assert_eq!(ask(&mut connect(external, &ca, "plain.example.com"), "plain.example.com"), 200);
    let offered = |suite| {
        let socket = TcpStream::connect(local(external)).unwrap();
        shown(socket, client_offering(&ca, suite), "plain.example.com")
    };
    eventually("a suite that is not listed is refused", || {
        let refused = offered(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256).err();
        refused.is_some_and(|refused| refused.to_string().contains("HandshakeFailure"))
    });
    assert_eq!(offered(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256).unwrap(), "52");
}

/// Section 12, item 5: an object that redirects is ready when its upstream answers behind TLS, be it by a default
/// certificate; the redirect proves nothing. A host without a certificate beside others that have one is asked for in
/// plaintext.
#[test]
fn given_a_redirected_object_when_its_upstream_is_missing_then_it_is_not_ready_by_the_redirect() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let mut object = simple("a", "a.example.com", "app");
    object["spec"]["httpOption"] = "Redirected".into();
    let mut partly = with_tls("partly", "b.example.com", "b-cert", "Redirected");
    partly["spec"]["rules"] = json!([
        rule("ExternalIP", &["b.example.com"], vec![path("", "app")]),
        rule("ExternalIP", &["c.elsewhere.com"], vec![path("", "app")])
    ]);
    directory
        .backend("app", "http", &[])
        .apply(secret("default", &ca.leaf(&["*.example.com"], 1).unwrap()))
        .apply(secret("b-cert", &ca.leaf(&["b.example.com"], 2).unwrap()))
        .apply(object)
        .apply(partly)
        .apply(
            config_map(SYSTEM, "config-kourier")
                .entry("certs-secret-namespace", NAMESPACE)
                .entry("certs-secret-name", "default"),
        );
    let mut gateway = directory.start(builder());
    let (http, admin) = (gateway.http(), gateway.admin());
    assert_eq!(get(http, "a.example.com", "/").status(), 301);
    gateway.says("a", "Ready", "Uninitialized");
    // Probes that reach nobody are answered with 503, and asked again.
    let refused = || {
        let text = get(admin, "x", "/metrics").text();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("lockkeeper_gateway_requests_total{response_code_class=\"5xx\"} "));
        count.and_then(|count| count.parse::<u32>().ok()).unwrap_or_default()
    };
    eventually("it has been asked for", || refused() > 3);
    gateway.says("a", "Ready", "Uninitialized");

    gateway.directory.backend("app", "http", &[backend.port()]);
    gateway.ready("a", 1);
    // Its other host is redirected too, to the default certificate; without that one it is served as it is.
    gateway.ready("partly", 1);
    gateway.directory.apply(config_map(SYSTEM, "config-kourier"));
    eventually("there is nothing to redirect to", || get(http, "a.example.com", "/").status() == 200);
    assert_eq!(get(http, "c.elsewhere.com", "/").status(), 200);
    assert_eq!(get(http, "b.example.com", "/").status(), 301);
}
