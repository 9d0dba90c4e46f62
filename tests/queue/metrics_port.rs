//! Section 8.2, `METRICS_PROMETHEUS_*`: the port that Prometheus scrapes, plain and over TLS.
use std::path::Path;

use lockkeeper::local::client::{Protocol, dial};
use rustls::version::{TLS12, TLS13};

use crate::support::app::App;
use crate::support::binary::{Binary, queue};
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::{NAME, Pki};
use crate::support::wait::eventually;

use crate::support::port::free_port;

fn scraped(port: u16) -> String {
    format!(r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":"127.0.0.1:{port}"}}}}"#)
}

/// A queue whose metrics port speaks TLS with the certificate in `pki`, with more settings.
fn over_tls(app: &App, pki: &Pki, more: &[(&str, &str)]) -> (Binary, u16) {
    let port = free_port();
    let file = |name: &str| pki.dir().join(name).display().to_string();
    let mut builder = queue(app.port())
        .env("OBSERVABILITY_CONFIG", scraped(port))
        .env("METRICS_PROMETHEUS_TLS_CERT", file("tls.crt"))
        .env("METRICS_PROMETHEUS_TLS_KEY", file("tls.key"));
    for (name, value) in more {
        builder = builder.env(&format!("METRICS_PROMETHEUS_{name}"), value);
    }
    let queue = builder.start();
    eventually("the metrics port is open", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (queue, port)
}

fn status(port: u16, config: rustls::ClientConfig) -> Option<u16> {
    Raw::tls(port, config, NAME).get("/metrics", "").try_reply().map(|reply| reply.status())
}

/// 8.2: over TLS, and over nothing else.
#[test]
fn given_a_certificate_when_scraped_then_over_tls_only() {
    let (app, pki) = (App::ok(), Pki::new());
    let (_queue, port) = over_tls(&app, &pki, &[]);
    let mut client = Raw::tls(port, pki.client(&[&TLS13], &["http/1.1"]), NAME);
    let page = client.get("/metrics", "").reply();
    assert_eq!(page.status(), 200);
    assert!(page.text().contains("target_info{"));
    let plain = get(port, "/metrics", "");
    assert_eq!((plain.status(), plain.text().as_str()), (400, "Client sent an HTTP request to an HTTPS server.\n"));
    assert_eq!(status(port, pki.client(&[&TLS12], &[])), None, "1.3 is the least by default");
}

/// 8.2: the knobs of this port have their own prefix.
#[test]
fn given_tls_1_2_is_allowed_on_this_port_when_scraped_with_it_then_it_is_served() {
    let (app, pki) = (App::ok(), Pki::new());
    let (_queue, port) = over_tls(&app, &pki, &[("TLS_MIN_VERSION", "1.2"), ("TLS_CURVE_PREFERENCES", "P-256")]);
    assert_eq!(status(port, pki.client(&[&TLS12], &[])), Some(200));
}

/// Client authentication: `require` takes any certificate of the authority, `optional` none as well, never a stranger's.
#[test]
fn given_client_authentication_when_scraped_then_only_certificates_of_the_authority_count() {
    let (app, pki) = (App::ok(), Pki::new());
    let stranger = Pki::new();
    let authority = pki.dir().join("ca.crt").display().to_string();
    for (mode, without) in [("require", None), ("Optional", Some(200))] {
        let (_queue, port) =
            over_tls(&app, &pki, &[("TLS_CLIENT_AUTH", mode), ("TLS_CLIENT_CA_FILE", authority.as_str())]);
        assert_eq!(status(port, pki.client_as(&pki.authority, "any-name")), Some(200), "{mode}");
        assert_eq!(status(port, pki.client(&[&TLS13], &[])), without, "{mode}, without a certificate");
        assert_eq!(status(port, pki.client_as(&stranger.authority, "any-name")), None, "{mode}, a stranger");
    }
}

/// Better than the original, which serves its first certificate for life.
#[test]
fn given_a_renewed_certificate_when_scraped_then_it_is_the_new_one() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let (_queue, port) = over_tls(&app, &pki, &[]);
    let serial = |pki: &Pki| {
        let trust = pki.trust();
        run(dial(local(port), Some(&trust), Protocol::Http1)).map(|(_, peer)| peer.unwrap().serial)
    };
    assert_eq!(serial(&pki).unwrap(), "1001");
    let wanted = pki.rotate();
    eventually("the new serial", || serial(&pki).is_ok_and(|serial| serial == wanted));
}

/// What can't be meant ends the start, in Go's words.
#[test]
fn given_settings_that_contradict_each_other_when_started_then_they_are_refused() {
    let pki = Pki::new();
    let file = |name: &str| pki.dir().join(name).display().to_string();
    let (cert, key, ca) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
    let junk = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").display().to_string();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        (&[("PORT", "80")], "prometheus port 80, should be between 1024 and 65535"),
        (&[("PORT", "x")], "could not be parsed as a port number"),
        (&[("TLS_CERT", &cert)], "must be set or neither"),
        (&[("TLS_CLIENT_AUTH", "require")], "require TLS to be enabled"),
        (
            &[("TLS_CERT", &cert), ("TLS_KEY", &key), ("TLS_CLIENT_AUTH", "yes")],
            "invalid METRICS_PROMETHEUS_TLS_CLIENT_AUTH",
        ),
        (&[("TLS_CERT", &cert), ("TLS_KEY", &key), ("TLS_CLIENT_AUTH", "require")], "must be set when"),
        (&[("TLS_CERT", &cert), ("TLS_KEY", &key), ("TLS_CLIENT_CA_FILE", &ca)], "TLS_CLIENT_CA_FILE is set but"),
        (
            &[("TLS_CERT", &cert), ("TLS_KEY", &key), ("TLS_CLIENT_AUTH", "require"), ("TLS_CLIENT_CA_FILE", &junk)],
            "no valid CA certificates found",
        ),
        (
            &[("TLS_CERT", &cert), ("TLS_KEY", &key), ("TLS_MIN_VERSION", "1.1")],
            "invalid METRICS_PROMETHEUS_TLS_MIN_VERSION",
        ),
    ];
    for (settings, words) in cases {
        let mut builder = queue(8080).env("OBSERVABILITY_CONFIG", scraped(free_port()));
        for (name, value) in *settings {
            builder = builder.env(&format!("METRICS_PROMETHEUS_{name}"), value);
        }
        let (code, log) = builder.finish();
        assert_eq!(code, Some(1), "{settings:?}: {log}");
        assert!(log.contains("Failed to setup meter provider") && log.contains(words), "{settings:?}: {log}");
    }
}

/// A file that is missing costs the port, not the process.
#[test]
fn given_a_certificate_file_that_is_missing_when_started_then_the_port_alone_is_missing() {
    let (app, port) = (App::ok(), free_port());
    let mut queue = queue(app.port())
        .env("OBSERVABILITY_CONFIG", scraped(port))
        .env("METRICS_PROMETHEUS_TLS_CERT", "/nonexistent/tls.crt")
        .env("METRICS_PROMETHEUS_TLS_KEY", "/nonexistent/tls.key")
        .start();
    assert!(queue.logs("metrics server error: ").contains("/nonexistent/tls.crt"));
    assert_eq!(get(queue.http(), "/", "").status(), 200);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// 8.2: gzip on demand, GET and HEAD only, one path.
#[test]
fn given_a_scraper_when_it_asks_then_gzip_methods_and_paths_are_as_the_originals() {
    let (app, port) = (App::ok(), free_port());
    let _queue = queue(app.port()).env("OBSERVABILITY_CONFIG", scraped(port)).start();
    eventually("the metrics port is open", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let packed = get(port, "/metrics", "Accept-Encoding: gzip\r\n");
    assert_eq!((packed.status(), packed.header("content-encoding")), (200, Some("gzip")));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.body.bytes[..]), &mut text).unwrap();
    assert!(text.contains("# TYPE target_info gauge"), "{text}");
    assert!(packed.body.bytes.len() < text.len() / 2);

    let plain = get(port, "/metrics", "Accept-Encoding: identity\r\n");
    assert_eq!(plain.header("content-encoding"), None);
    let posted = Raw::plain(port).post("/metrics", "").reply();
    assert_eq!((posted.status(), posted.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(get(port, "/", "").status(), 404);
}
