//! `LOCKKEEPER_METRICS_TLS`: the autoscaler's statistics over TLS. Plaintext stays, since Knative's autoscaler asks in it.
use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::local::pki::Authority;
use rustls::version::{TLS12, TLS13};

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, Reply, get, local, run};
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::{decode, stat};
use crate::support::wait::eventually;

const POD: &str = "hello-00001-deployment-0";

fn serial(port: u16, trust: &Trust) -> std::io::Result<String> {
    run(dial(local(port), Some(trust), Protocol::Http1)).map(|(_, peer)| peer.unwrap().serial)
}

#[track_caller]
fn assert_is_the_message(reply: &Reply) {
    assert_eq!((reply.status(), reply.header("content-type")), (200, Some("application/protobuf")));
    assert_eq!(decode(&reply.body.bytes).pod_name, POD);
}

#[test]
fn given_no_word_of_it_when_the_statistics_are_asked_for_over_tls_then_the_port_does_not_speak_it() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    queue.tls();
    let port = queue.stats();
    assert!(serial(port, &pki.trust()).is_err());
    assert_eq!(stat(port).pod_name, POD);
}

/// The port asks nobody for a certificate, whatever the data port demands; the policy is that of the data port.
#[test]
fn given_it_is_on_when_the_statistics_are_asked_for_then_verified_tls_and_plaintext_both_answer() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port())
        .certs(pki.dir())
        .env("LOCKKEEPER_METRICS_TLS", "true")
        .env("LOCKKEEPER_CLIENT_AUTH", "require")
        .start();
    queue.tls();
    let port = queue.stats();

    let mut client = Raw::tls(port, pki.client(&[&TLS13], &["http/1.1"]), NAME);
    assert_is_the_message(&client.get("/metrics", "").reply());
    assert_eq!(stat(port).pod_name, POD, "in plaintext");

    assert!(Raw::tls(port, pki.client(&[&TLS12], &[]), NAME).get("/metrics", "").try_reply().is_none(), "TLS 1.2");
    let stranger = Authority::mint("stranger").unwrap();
    assert!(serial(port, &Trust::new(stranger.der(), NAME)).is_err(), "another authority's");
    assert!(serial(port, &Trust { name: "kn-user-other".to_owned(), ..pki.trust() }).is_err(), "another name");
    assert_is_the_message(&client.get("/metrics", "").reply());
}

/// The port's certificate is the pod's: it follows the directory, from nothing through a rotation to nothing, and neither
/// plaintext nor an open connection notices.
#[test]
fn given_certificates_that_come_change_and_go_when_the_statistics_are_asked_for_then_tls_follows() {
    let (app, mut pki) = (App::ok(), Pki::empty());
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_METRICS_TLS", "true").start();
    let (port, trust) = (queue.stats(), pki.trust());
    assert!(serial(port, &trust).is_err());
    assert_eq!(stat(port).pod_name, POD);

    let mut open = None;
    for _ in 0..2 {
        let wanted = pki.rotate();
        eventually("the pair serves", || serial(port, &trust).is_ok_and(|serial| serial == wanted));
        let client = open.get_or_insert_with(|| Raw::tls(port, pki.client(&[&TLS13], &["http/1.1"]), NAME));
        assert_is_the_message(&client.get("/metrics", "").reply());
    }

    pki.mount.publish(&[]).unwrap();
    eventually("TLS is off", || serial(port, &trust).is_err());
    assert_is_the_message(&open.unwrap().get("/metrics", "").reply());
    assert_eq!(stat(port).pod_name, POD);
    assert_eq!(get(port, "/other", "").status(), 404);
}
