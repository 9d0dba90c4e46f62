//! Contract, sections 4.3 and 4.4: callers who send no server name or an odd one, and names that are claimed twice.
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::callers::{ask, connect, nameless, serial, shown};
use super::harness::{
    Directory, NAMESPACE, SYSTEM, app, authority, builder, get, ingress, path, rule, secret, secret_in, simple,
    with_tls,
};
use crate::support::binary::socket_timeout;
use crate::support::client::{Raw, local};
use crate::support::objects::config_map;
use crate::support::wait::eventually;

fn open(port: u16) -> TcpStream {
    TcpStream::connect(local(port)).unwrap()
}

fn internal(name: &str, host: &str, tls: Value) -> Value {
    ingress(name, 1, json!({"tls": tls, "rules": [rule("ClusterLocal", &[host], vec![path("", "app")])]}))
}

/// Without a name the default certificate of the port is shown, and the connection is for every host that the port serves;
/// without a default there is an alert. That some hosts have certificates of their own takes nothing away from the
/// others, on neither port (net-kourier#740).
#[test]
fn given_callers_without_a_server_name_when_shaking_hands_then_the_default_certificate_is_shown_or_an_alert() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let leaf = |host: &str, serial| ca.leaf(&[host], serial).unwrap();
    let tls = |host: &str, secret: &str| json!([{"hosts": [host], "secretName": secret}]);
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("a-cert", &leaf("a.example.com", 0x11)))
        .apply(secret("own-cert", &leaf("own.ns1", 0x21)))
        .apply(with_tls("a", "a.example.com", "a-cert", "Enabled"))
        .apply(simple("plain", "plain.example.com", "app"))
        .apply(internal("own", "own.ns1", tls("own.ns1", "own-cert")))
        .apply(internal("other", "other.ns1", json!([])))
        .apply(config_map(SYSTEM, "config-kourier"));
    let mut gateway = directory.start(builder());
    for name in ["a", "plain", "own", "other"] {
        gateway.ready(name, 1);
    }
    let (external, internal) = (gateway.https(), gateway.internal_https());
    for (port, name) in [(external, "a.example.com"), (internal, "own.ns1")] {
        let refused = shown(open(port), nameless(&ca), name).unwrap_err().to_string();
        assert!(refused.contains("UnrecognisedName"), "{refused}");
    }

    gateway
        .directory
        .apply(secret("default", &leaf("*.example.com", 0x12)))
        .apply(secret_in(SYSTEM, "local-default", &leaf("other.ns1", 0x22)))
        .apply(
            config_map(SYSTEM, "config-kourier")
                .entry("certs-secret-namespace", NAMESPACE)
                .entry("certs-secret-name", "default")
                .entry("cluster-cert-secret", "local-default"),
        );
    for (port, name, default) in [(external, "plain.example.com", "12"), (internal, "other.ns1", "22")] {
        eventually("the default certificate is shown", || {
            shown(open(port), nameless(&ca), name).is_ok_and(|serial| serial == default)
        });
        assert_eq!(serial(port, &ca, name).unwrap(), default, "also to who asks for a name without its own");
    }
    assert_eq!(serial(external, &ca, "a.example.com").unwrap(), "11");
    assert_eq!(serial(internal, &ca, "own.ns1").unwrap(), "21");
    let mut caller = Raw::tls(external, nameless(&ca), "plain.example.com");
    for (host, status) in [("plain.example.com", 200), ("a.example.com", 200), ("own.ns1", 404), ("b.example.com", 404)]
    {
        assert_eq!(ask(&mut caller, host), status, "{host}");
    }
    let mut caller = Raw::tls(internal, nameless(&ca), "other.ns1");
    for (host, status) in [("other.ns1", 200), ("own.ns1", 200), ("unknown.ns1", 404)] {
        assert_eq!(ask(&mut caller, host), status, "{host}");
    }
    assert_eq!(ask(&mut connect(internal, &ca, "own.ns1"), "other.ns1"), 421, "who sent a name is bound to it");
}

/// The first answer to a hello of TLS 1.2 with this extension `server_name`: the type of its record, and what the alert
/// says if it is one.
fn answer(port: u16, server_name: Option<&[u8]>) -> (u8, u8) {
    let extension = |kind: u16, data: &[u8]| [&kind.to_be_bytes()[..], &length(data), data].concat();
    let mut extensions = server_name.map(|data| extension(0, data)).unwrap_or_default();
    // secp256r1; signatures by ecdsa_secp256r1_sha256.
    extensions.extend(extension(10, &[0, 2, 0, 23]));
    extensions.extend(extension(11, &[1, 0]));
    extensions.extend(extension(13, &[0, 2, 4, 3]));
    // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression.
    let hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0], &length(&extensions), &extensions].concat();
    let handshake = [&[1, 0][..], &length(&hello), &hello].concat();
    let mut socket = open(port);
    socket.set_read_timeout(socket_timeout()).unwrap();
    socket.write_all(&[&[22, 3, 1][..], &length(&handshake), &handshake].concat()).unwrap();
    let mut record = [0; 7];
    socket.read_exact(&mut record).unwrap();
    (record[0], if record[0] == ALERT { record[6] } else { 0 })
}

fn length(data: &[u8]) -> [u8; 2] {
    u16::try_from(data.len()).unwrap().to_be_bytes()
}

/// The names as the extension has them (RFC 6066 section 3).
fn list(names: &[&[u8]]) -> Vec<u8> {
    let all: Vec<u8> = names.iter().flat_map(|name| [&[0][..], &length(name), name].concat()).collect();
    [&length(&all)[..], &all].concat()
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const UNRECOGNIZED_NAME: u8 = 112;
/// `illegal_parameter` and `decode_error`.
const MALFORMED: [u8; 2] = [47, 50];

/// Names in any case, with a dot at the end or without, are one name. What is no name, or more than one, is refused with an alert; the next caller is served.
#[test]
fn given_odd_server_names_when_shaking_hands_then_each_is_answered_and_the_next_caller_is_served() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("cert", &ca.leaf(&["a.example.com"], 0x11).unwrap()))
        .apply(with_tls("a", "a.example.com", "cert", "Enabled"));
    let mut gateway = directory.start(builder());
    gateway.ready("a", 1);
    let port = gateway.https();
    for name in [&b"a.example.com"[..], b"A.Example.COM", b"a.example.com."] {
        assert_eq!(answer(port, Some(&list(&[name]))), (HANDSHAKE, 0), "{}", name.escape_ascii());
    }
    for name in [None, Some(&b"b.example.com"[..]), Some(b"127.0.0.1")] {
        let extension = name.map(|name| list(&[name]));
        assert_eq!(
            answer(port, extension.as_deref()),
            (ALERT, UNRECOGNIZED_NAME),
            "{:?}",
            name.map(<[u8]>::escape_ascii)
        );
    }
    for names in [
        &[&b"*.example.com"[..]][..],
        &[b"a.example.com\0.b"],
        &["ä.example.com".as_bytes()],
        &[b""],
        &[],
        &[b"a.example.com", b"b.example.com"],
    ] {
        let (record, alert) = answer(port, Some(&list(names)));
        assert!(record == ALERT && MALFORMED.contains(&alert), "{alert}: {names:?}");
    }
    let (record, alert) = answer(port, Some(&[0, 200, 0, 0, 1, b'a']));
    assert!(record == ALERT && MALFORMED.contains(&alert), "{alert}: longer than it is");
    assert_eq!(ask(&mut connect(port, &ca, "a.example.com"), "a.example.com"), 200);
}

/// A certificate counts for hosts that its object has: neither another object nor a second Secret takes a name away, and
/// no port is lost by it (in Kourier every host's certificate is).
#[test]
fn given_a_name_in_several_certificates_when_shaking_hands_then_the_owners_first_one_is_shown() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let both = ["a.example.com", "b.example.com"];
    let mut younger = with_tls("younger", "a.example.com", "younger-cert", "Enabled");
    younger["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z".into();
    let mut twice = with_tls("twice", "c.example.com", "c-cert", "Enabled");
    twice["spec"]["tls"] = json!([{"hosts": ["c.example.com"], "secretName": "c-cert"}, {"hosts": ["c.example.com"], "secretName": "d-cert"}]);
    let mut claims = with_tls("claims", "b.example.com", "b-cert", "Enabled");
    claims["spec"]["tls"][0]["hosts"] = json!(both);
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("a-cert", &ca.leaf(&["a.example.com"], 0x11).unwrap()))
        .apply(secret("b-cert", &ca.leaf(&both, 0x22).unwrap()))
        .apply(secret("c-cert", &ca.leaf(&["c.example.com"], 0x33).unwrap()))
        .apply(secret("d-cert", &ca.leaf(&["c.example.com"], 0x44).unwrap()))
        .apply(secret("younger-cert", &ca.leaf(&["a.example.com"], 0x55).unwrap()))
        .apply(with_tls("a", "a.example.com", "a-cert", "Enabled"))
        .apply(claims)
        .apply(twice)
        .apply(younger);
    let mut gateway = directory.start(builder());
    for name in ["a", "claims", "twice"] {
        gateway.ready(name, 1);
    }
    let port = gateway.https();
    gateway.says("younger", "LoadBalancerReady", "DomainConflict");
    for (host, expected) in [("a.example.com", "11"), ("b.example.com", "22"), ("c.example.com", "33")] {
        assert_eq!(serial(port, &ca, host).unwrap(), expected, "{host}");
        assert_eq!(ask(&mut connect(port, &ca, host), host), 200, "{host}");
    }

    gateway.directory.delete("Ingress", NAMESPACE, "a");
    gateway.ready("younger", 1);
    assert_eq!(serial(port, &ca, "a.example.com").unwrap(), "55", "who gets the host shows its own certificate");
    assert_eq!(get(gateway.http(), "a.example.com", "/").status(), 200);
}
