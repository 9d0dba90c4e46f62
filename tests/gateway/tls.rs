//! Contract, sections 4 and 5: certificates by server name, redirects, and upstreams that must prove who they are.
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use super::harness::{Directory, NAMESPACE, SYSTEM, app, authority, builder, get, ingress, path, rule, secret, simple};
use crate::support::binary::{command, queue};
use crate::support::client::{Raw, run};
use crate::support::objects::{self, config_map, trust_bundle};
use crate::support::pki::Pki;
use crate::support::wait::{eventually, eventually_some};
use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::local::pki::Authority;

fn with_tls(name: &str, host: &str, secret: &str, option: &str) -> Value {
    ingress(
        name,
        1,
        json!({
            "tls": [{"hosts": [host], "secretName": secret, "secretNamespace": NAMESPACE}],
            "rules": [rule("ExternalIP", &[host], vec![path("", "app")])],
            "httpOption": option
        }),
    )
}

fn serial(port: u16, authority: &Authority, name: &str) -> std::io::Result<String> {
    let trust = Trust::new(authority.der(), name);
    let address = ([127, 0, 0, 1], port).into();
    run(dial(address, Some(&trust), Protocol::Http1)).map(|(_, peer)| peer.unwrap().serial)
}

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
    assert_eq!(ask(&mut connect(external, &ca, "plain.example.com"), "plain.example.com"), 200);
    assert!(run(dial(([127, 0, 0, 1], external).into(), Some(&tls12(&ca)), Protocol::Http1)).is_ok());
}

fn tls12(ca: &Authority) -> Trust {
    const ONLY: &[&rustls::SupportedProtocolVersion] = &[&TLS12];
    Trust { versions: ONLY, ..Trust::new(ca.der(), "plain.example.com") }
}

/// System-internal TLS, switched while requests go on: a queue with the right name is reached, one with the name of
/// another namespace is refused and never spoken to in plaintext; a bundle that mixes good and bad counts.
#[test]
fn given_system_internal_tls_when_switched_on_then_the_upstream_must_prove_its_namespace() {
    let (directory, backend) = (Directory::new(), app("behind the queue"));
    let (right, wrong) = (Upstream::new(&["kn-user-ns1"]), Upstream::new(&["kn-user-ns2"]));
    let (mut good_queue, mut bad_queue) = (right.start(backend.port()), wrong.start(backend.port()));
    for (name, queue) in [("good", &mut good_queue), ("bad", &mut bad_queue)] {
        let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
        directory.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name}, "spec": {"ports": ports}}));
        let mut slice = super::harness::slice(name, 0, "http", queue.http());
        slice["ports"] = json!([{"name": "http", "port": queue.http()}, {"name": "https", "port": queue.tls()}]);
        directory.apply(slice);
    }
    let object = |name: &str, port: u16| {
        let to = json!({"serviceNamespace": NAMESPACE, "serviceName": name, "servicePort": port, "percent": 100});
        let host = format!("{name}.example.com");
        ingress(name, u64::from(port), json!({"rules": [rule("ExternalIP", &[&host], vec![json!({"splits": [to]})])]}))
    };
    let bundle = format!(
        "# first\n{}\n-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n{}\n\n",
        right.ca_pem(),
        wrong.ca_pem()
    );
    directory
        .apply(object("good", 80))
        .apply(object("bad", 80))
        .apply(config_map(SYSTEM, "config-network"))
        .apply(trust_bundle(SYSTEM, "bundle", &bundle));
    let mut gateway = directory.start(builder());
    gateway.ready("good", 80);
    gateway.ready("bad", 80);
    let port = gateway.http();
    assert_eq!(get(port, "good.example.com", "/").status(), 200);

    // As Serving does it: the switch, and port 443 in the splits.
    gateway.directory.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", "Enabled"));
    gateway.directory.apply(object("good", 443)).apply(object("bad", 443));
    gateway.ready("good", 443);
    assert_eq!(get(port, "good.example.com", "/").text(), "behind the queue");
    let refused = eventually_some("the wrong name is refused", || {
        Some(get(port, "bad.example.com", "/"))
            .filter(|reply| reply.header("x-lockkeeper-cause") == Some("tls_san_mismatch"))
    });
    assert_eq!(refused.status(), 503);
    assert!(gateway.condition("bad", "Ready").is_some_and(|ready| ready.0 == "Unknown"));

    // A removed authority must not live on in connections that are open.
    gateway.directory.apply(trust_bundle(SYSTEM, "bundle", wrong.ca_pem()));
    eventually("its authority is not trusted any more", || get(port, "good.example.com", "/").status() == 503);
    gateway.directory.apply(trust_bundle(SYSTEM, "bundle", &bundle));
    eventually("trust is back", || get(port, "good.example.com", "/").status() == 200);
}

/// `LOCKKEEPER_CLIENT_AUTH` of a queue: the gateway shows `routing-serving-certs`, and a new one from the next connection
/// on.
#[test]
fn given_a_queue_that_asks_for_a_certificate_when_the_gateway_calls_then_it_shows_its_own() {
    let (directory, backend, upstream) = (Directory::new(), app("behind the queue"), Upstream::new(&["kn-user-ns1"]));
    let mut queue = queue(backend.port()).certs(upstream.pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", "require").start();
    let ports = json!([{"name": "https", "port": 443}]);
    let metadata = json!({"namespace": NAMESPACE, "name": "app"});
    directory.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}));
    let mut slice = super::harness::slice("app", 0, "https", queue.tls());
    slice["ports"] = json!([{"name": "https", "port": queue.tls()}]);
    let to = json!({"serviceNamespace": NAMESPACE, "serviceName": "app", "servicePort": 443, "percent": 100});
    let rules = json!({"rules": [rule("ExternalIP", &["a.example.com"], vec![json!({"splits": [to]})])]});
    let own = |name: &str| {
        let leaf = upstream.authority.leaf(&[name], 9).unwrap();
        let secret = objects::secret(SYSTEM, "routing-serving-certs").entry("tls.crt", &leaf.chain);
        secret.entry("tls.key", &leaf.key).entry("ca.crt", upstream.ca_pem())
    };
    directory
        .apply(slice)
        .apply(ingress("a", 1, rules))
        .apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", "Enabled"))
        .apply(own("kn-somebody-else"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    eventually("the route is there, and the queue refuses", || get(port, "a.example.com", "/").status() == 503);

    gateway.directory.apply(own("kn-routing"));
    eventually("the queue takes it", || get(port, "a.example.com", "/").text() == "behind the queue");
}

/// A queue with a certificate of its own authority.
pub struct Upstream {
    pki: Pki,
    authority: Authority,
}

impl Upstream {
    pub fn new(names: &[&str]) -> Self {
        let (mut pki, authority) = (Pki::empty(), Authority::mint("upstreams").unwrap());
        let leaf = authority.leaf(names, 7).unwrap();
        pki.mount.publish_leaf(&leaf, &authority).unwrap();
        Self { pki, authority }
    }

    pub fn start(&self, application: u16) -> crate::support::binary::Binary {
        queue(application).certs(self.pki.dir()).start()
    }

    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }
}

fn connect(port: u16, ca: &Authority, name: &str) -> Raw {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    Raw::tls(port, builder.with_root_certificates(roots).with_no_client_auth(), name)
}

fn ask(connection: &mut Raw, host: &str) -> u16 {
    connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply().status()
}

/// Section 4.5: an Ingress may use the Secrets of its own namespace, and others only if a setting says so.
#[test]
fn given_a_secret_of_another_namespace_when_an_ingress_names_it_then_it_is_refused_unless_allowed() {
    let ca = authority();
    for allowed in ["", "other", "*"] {
        let (directory, backend) = (Directory::new(), app("one"));
        let theirs = ca.leaf(&["a.example.com"], 0x11).unwrap();
        let foreign = objects::secret("other", "cert").entry("tls.crt", &theirs.chain).entry("tls.key", &theirs.key);
        let mut object = with_tls("a", "a.example.com", "cert", "Enabled");
        object["spec"]["tls"][0]["secretNamespace"] = "other".into();
        // The certificate of a namespace serves all of its objects.
        let mut own = with_tls("x", "x.w.example.com", "wildcard", "Enabled");
        own["spec"]["tls"][0]["secretNamespace"] = "".into();
        directory
            .backend("app", "http", &[backend.port()])
            .apply(foreign)
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
