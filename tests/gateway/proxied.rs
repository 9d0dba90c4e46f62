//! Contract, section 6.5: the PROXY protocol in front of TLS (net-kourier's `proxyprotocol`).
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use lockkeeper::local::pki::Authority;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::callers::trusting;
use super::harness::{
    Directory, Gateway, SYSTEM, app, authority, builder, get, ingress, path, rule, secret, split, way_back, with_tls,
};
use crate::support::app::App;
use crate::support::client::{Raw, local};
use crate::support::objects::{Object, config_map};
use crate::support::wait::eventually;

const HOST: &str = "vanity.example.com";
const LOCAL: &str = "app.ns1.svc.cluster.local";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n";
/// The same caller in version 2, with an extension that is of no interest here.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x07\x7f\0\0\x01\x12\x67\x01\xbb\x04\0\x01\0";

fn settings() -> Object {
    config_map(SYSTEM, "config-kourier").entry("enable-proxy-protocol", "true")
}

/// A connection from a load balancer, another one on this machine for each address, with what it says of its caller.
fn balanced(balancer: [u8; 4], port: u16, header: &[u8]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::from(balancer), 0).into()).unwrap();
    socket.connect(&local(port).into()).unwrap();
    let mut socket: TcpStream = socket.into();
    // In two pieces, as networks have it.
    let (first, rest) = header.split_at(header.len() / 2);
    socket.set_nodelay(true).unwrap();
    // It may be closed by now.
    let _ = socket.write_all(first).and_then(|()| socket.write_all(rest));
    socket
}

const BALANCER: [u8; 4] = Ipv4Addr::LOCALHOST.octets();

/// The status of a request over TLS behind a PROXY header; none if there is no answer.
fn over_tls(port: u16, ca: &Authority, balancer: [u8; 4], header: &[u8], host: &str) -> Option<u16> {
    let mut caller = Raw::tls_over(balanced(balancer, port, header), trusting(ca), host);
    caller.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).try_reply().map(|reply| reply.status())
}

/// A domain mapping with a certificate, to a cluster-local object by way of this gateway's own Service.
fn mapping(config: Object) -> (Gateway, App, Authority) {
    let (directory, backend, ca) = (Directory::new(), app("mapped"), authority());
    let mut mapping = with_tls("mapping", HOST, "cert", "Enabled");
    let mut to = split("way-back", 100);
    to["appendHeaders"] = json!({"K-Original-Host": HOST});
    mapping["spec"]["rules"][0]["http"]["paths"] = json!([{"rewriteHost": LOCAL, "splits": [to]}]);
    let tls = json!([{"hosts": [LOCAL], "secretName": "local-cert"}]);
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("cert", &ca.leaf(&[HOST], 0x11).unwrap()))
        .apply(secret("local-cert", &ca.leaf(&[LOCAL], 0x22).unwrap()))
        .apply(ingress(
            "local",
            1,
            json!({"tls": tls, "rules": [rule("ClusterLocal", &[LOCAL], vec![path("", "app")])]}),
        ))
        .apply(way_back("way-back"))
        .apply(mapping)
        .apply(config);
    let mut gateway = directory.start(builder());
    gateway.ready("mapping", 1);
    gateway.ready("local", 1);
    (gateway, backend, ca)
}

/// The header comes before the handshake, in either version, and is demanded; what it says of the caller arrives at the
/// application, though the route is rewritten and goes on inside of this process. Ports for the cluster and for probes
/// never take it, so that objects become ready meanwhile.
#[test]
fn given_a_domain_mapping_when_a_load_balancer_speaks_for_callers_over_tls_then_the_application_is_told_of_them() {
    let (mut gateway, backend, ca) = mapping(settings());
    let (http, https) = (gateway.http(), gateway.https());
    for header in [V1, V2] {
        assert_eq!(over_tls(https, &ca, BALANCER, header, HOST), Some(200));
        let seen = backend.last();
        assert_eq!((seen.get("x-forwarded-for"), seen.get("x-forwarded-proto")), (Some("192.0.2.7"), Some("https")));
        assert_eq!((seen.get("host"), seen.get("k-original-host")), (Some(LOCAL), Some(HOST)));
        assert_eq!(seen.get("x-envoy-external-address"), Some("192.0.2.7"));
        let mut plain = balanced(BALANCER, http, header);
        plain.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(Raw::over(plain).reply().status(), 200);
        assert_eq!(backend.last().get("x-forwarded-proto"), Some("http"));
    }
    for broken in [&b""[..], b"PROXY TCP4 nonsense\r\n", &V2[..10]] {
        assert_eq!(over_tls(https, &ca, BALANCER, broken, HOST), None, "{}", broken.escape_ascii());
    }

    let (probe, internal) = (gateway.binary.port_of("Starting probe https server:"), gateway.internal_https());
    for (port, host) in [(probe, HOST), (internal, LOCAL)] {
        assert_eq!(over_tls(port, &ca, BALANCER, b"", host), Some(200), "{host}");
        assert_eq!(over_tls(port, &ca, BALANCER, V2, host), None, "{host}");
    }
    let probe = gateway.binary.port_of("Starting probe http server:");
    assert_eq!((get(probe, HOST, "/").status(), get(gateway.internal_http(), LOCAL, "/").status()), (200, 200));
}

/// One load balancer is trusted, another address is not; who is and where acts from the next connection on.
#[test]
fn given_trusted_sources_when_others_send_the_header_then_their_connections_are_closed_before_the_handshake() {
    const OTHER: [u8; 4] = [127, 0, 0, 2];
    let (mut gateway, backend, ca) = mapping(settings().entry("proxy-protocol-sources", "127.0.0.2"));
    let (http, https) = (gateway.http(), gateway.https());
    assert_eq!(over_tls(https, &ca, OTHER, V2, HOST), Some(200));
    assert_eq!(backend.last().get("x-forwarded-for"), Some("192.0.2.7"));
    for header in [V1, V2, b""] {
        assert_eq!(over_tls(https, &ca, BALANCER, header, HOST), None);
    }

    gateway
        .directory
        .apply(settings().entry("proxy-protocol-sources", "127.0.0.1/32").entry("proxy-protocol-listeners", "https"));
    eventually("the other one is trusted", || over_tls(https, &ca, BALANCER, V2, HOST) == Some(200));
    assert_eq!(over_tls(https, &ca, OTHER, V2, HOST), None);
    assert_eq!(get(http, HOST, "/").status(), 200, "the plain port does without");

    gateway.directory.apply(settings().entry("proxy-protocol-listeners", "http"));
    eventually("the TLS port does without", || over_tls(https, &ca, OTHER, b"", HOST) == Some(200));
    assert_eq!(backend.last().get("x-forwarded-for"), Some("127.0.0.2"), "the connection's own");
    assert_eq!(over_tls(https, &ca, OTHER, V2, HOST), None);
}
