//! Section 1: TLS on the port for Prometheus. The port itself is tested with the queue; here, that this role reads the same
//! variables, policy included.
use rustls::version::{TLS12, TLS13};

use super::world::{Activator, SYSTEM, World};
use crate::support::binary::Builder;
use crate::support::client::Raw;
use crate::support::objects::config_map;
use crate::support::pki::{NAME, Pki, client_speaking};
use crate::support::port::free_port;
use crate::support::wait::eventually;

/// An activator whose metrics port has the certificate in `pki`.
fn over_tls(world: &World, pki: &Pki, port: u16) -> Builder {
    world.api.apply(
        config_map(SYSTEM, "config-observability")
            .entry("metrics-protocol", "prometheus")
            .entry("metrics-endpoint", &format!("127.0.0.1:{port}")),
    );
    let file = |name: &str| pki.dir().join(name).display().to_string();
    world
        .builder()
        .env("METRICS_PROMETHEUS_TLS_CERT", file("tls.crt"))
        .env("METRICS_PROMETHEUS_TLS_KEY", file("tls.key"))
        .env("METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE", file("ca.crt"))
        .env("METRICS_PROMETHEUS_TLS_CLIENT_AUTH", "optional")
}

fn scrape(port: u16, config: rustls::ClientConfig) -> Option<u16> {
    Raw::tls(port, config, NAME).get("/metrics", "").try_reply().map(|reply| reply.status())
}

#[test]
fn given_a_policy_for_the_metrics_port_when_scraped_then_it_holds_there_and_nowhere_else() {
    let (world, pki, port) = (World::new(true), Pki::new(), free_port());
    for (least, old) in [("1.2", Some(200)), ("1.3", None)] {
        let builder = over_tls(&world, &pki, port)
            .env("METRICS_PROMETHEUS_TLS_MIN_VERSION", least)
            .env("METRICS_PROMETHEUS_TLS_CURVE_PREFERENCES", "P-256");
        let mut activator = Activator::unready(builder);
        eventually("the port is open", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert_eq!(scrape(port, pki.client(&[&TLS12], &[])), old, "{least}");
        assert_eq!(scrape(port, pki.client(&[&TLS13], &[])), Some(200), "{least}");
        assert_eq!(scrape(port, pki.client_as(&pki.authority, "any-name")), Some(200), "{least}");
        assert_eq!(scrape(port, pki.client_as(&Pki::new().authority, "any-name")), None, "{least}");
        let https = activator.https();
        let old = client_speaking(&world.authority, &[&TLS12], &[]);
        assert!(Raw::tls(https, old, "kn-routing").get("/", "").try_reply().is_none(), "the data port has its own");
    }
}

#[test]
fn given_a_bad_policy_for_the_metrics_port_when_started_then_it_ends_with_1_and_names_the_variable() {
    let (world, pki) = (World::new(false), Pki::new());
    for (name, value) in [("MIN_VERSION", "1.1"), ("CIPHER_SUITES", "TLS_NONE"), ("CURVE_PREFERENCES", "P-1")] {
        let name = format!("METRICS_PROMETHEUS_TLS_{name}");
        let (code, log) = over_tls(&world, &pki, free_port()).env(&name, value).finish();
        assert_eq!(code, Some(1), "{name}: {log}");
        assert!(log.contains(&name) && log.contains(value), "{name}: {log}");
    }
}
