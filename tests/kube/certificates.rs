//! Certificates and authorities from Secrets and ConfigMaps.
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockkeeper::knative::certificates::Certificates;
use lockkeeper::local::pki::{Authority, Leaf};
use lockkeeper::tls::{identity, trust};

use super::{on_the_control_side, source, until, within};
use crate::support::apiserver::ApiServer;
use crate::support::objects::{Object, config_map, routing_certs, trust_bundle};

const SYSTEM: &str = "knative-serving";

fn leaf(authority: &Authority, serial: u64) -> Leaf {
    authority.leaf(&["kn-routing"], serial).unwrap()
}

fn secret(leaf: &Leaf, authorities: &str) -> Object {
    routing_certs(SYSTEM, &leaf.chain, &leaf.key, authorities)
}

struct Stores {
    identity: Arc<identity::Store>,
    trust: Arc<trust::Store>,
}

impl Stores {
    fn new() -> Self {
        Self { identity: identity::Store::new(), trust: trust::Store::new() }
    }

    fn follow(&self, server: &ApiServer) -> Certificates {
        Certificates::follow(&source(server), SYSTEM, Arc::clone(&self.identity), Arc::clone(&self.trust))
    }

    fn serial(&self) -> Option<String> {
        self.identity.current().map(|current| current.leaf.serial.clone())
    }

    fn anchors(&self) -> usize {
        self.trust.snapshot().map_or(0, |snapshot| snapshot.anchors.len())
    }
}

/// Nothing at start: not ready, and why; then ready when it comes.
#[test]
fn given_no_secret_when_it_comes_later_then_it_is_in_use_within_a_second() {
    let server = ApiServer::start();
    let (authority, stores) = (Authority::mint("a").unwrap(), Stores::new());
    on_the_control_side(async {
        let certificates = stores.follow(&server);
        within("the sets are read", certificates.synced()).await;
        assert_eq!(certificates.missing().unwrap(), "there is no Secret knative-serving/routing-serving-certs");

        server.apply(secret(&leaf(&authority, 0x51), ""));
        until("the pair is in use", || stores.serial().is_some()).await;
        let missing = certificates.missing().unwrap();
        assert!(missing.contains("certificate authority"), "{missing}");

        server.apply(trust_bundle(SYSTEM, "bundle", authority.pem()));
        within("it is ready", certificates.ready()).await;
        assert_eq!(certificates.missing(), None);

        let begun = Instant::now();
        server.apply(secret(&leaf(&authority, 0x52), ""));
        until("the new pair is in use", || stores.serial().as_deref() == Some("52")).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    });
    // RBAC: one Secret by name, bundles by label, in one namespace.
    for (plural, parameter, value) in [
        ("secrets", "fieldSelector", "metadata.name=routing-serving-certs"),
        ("configmaps", "labelSelector", "networking.knative.dev/trust-bundle"),
    ] {
        let asked = server.requests_for(plural);
        assert!(!asked.is_empty());
        for audit in asked {
            assert_eq!(
                (audit.path.as_str(), audit.parameter(parameter)),
                (&*format!("/api/v1/namespaces/{SYSTEM}/{plural}"), value)
            );
        }
    }
}

/// Every block of `ca.crt` counts, the Go activator read the first only; bad blocks cost themselves.
#[test]
fn given_bundles_with_several_and_with_bad_blocks_when_read_then_every_good_one_is_trusted() {
    let server = ApiServer::start();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| Authority::mint(name).unwrap());
    let stores = Stores::new();
    let bad = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
    server.apply(secret(&leaf(&a, 1), &format!("{}{bad}{}", a.pem(), b.pem())));
    server.apply(
        trust_bundle(SYSTEM, "one", &format!("# comment\n{}\n\n{bad}", c.pem()))
            .entry("more", d.pem())
            .entry("none", "text"),
    );
    server.apply(config_map(SYSTEM, "unlabelled").entry("ca", Authority::mint("e").unwrap().pem()));
    server.apply(trust_bundle("elsewhere", "two", Authority::mint("f").unwrap().pem()));
    on_the_control_side(async {
        let certificates = stores.follow(&server);
        within("it is ready", certificates.ready()).await;
        until("all are trusted", || stores.anchors() == 4).await;
        assert_eq!(stores.trust.skipped(), 3);
    });
}

/// A rotation of the authority: the new one beside the old one, then without it. The withdrawal is a generation.
#[test]
fn given_a_rotation_of_the_authority_when_the_old_one_is_withdrawn_then_what_it_verified_is_no_longer_current() {
    let server = ApiServer::start();
    let (old, new, stores) = (Authority::mint("old").unwrap(), Authority::mint("new").unwrap(), Stores::new());
    server.apply(secret(&leaf(&old, 1), old.pem()));
    server.apply(trust_bundle(SYSTEM, "bundle", old.pem()));
    on_the_control_side(async {
        let _certificates = stores.follow(&server);
        until("the old one is trusted", || stores.anchors() == 1).await;
        let first = stores.trust.generation();

        server.apply(trust_bundle(SYSTEM, "bundle", &format!("{}{}", old.pem(), new.pem())));
        until("both are trusted", || stores.anchors() == 2).await;
        server.apply(secret(&leaf(&new, 0x22), &format!("{}{}", new.pem(), old.pem())));
        until("the new pair is in use", || stores.serial().as_deref() == Some("22")).await;
        assert!(stores.trust.is_current(first));

        server.delete("configmaps", SYSTEM, "bundle");
        server.apply(secret(&leaf(&new, 0x23), new.pem()));
        until("the old one is no longer trusted", || stores.anchors() == 1).await;
        assert!(!stores.trust.is_current(first));
    });
}

/// A bad pair keeps the good one; the Secret's deletion keeps it too.
#[test]
fn given_a_pair_in_use_when_the_secret_breaks_or_goes_then_the_pair_stays() {
    let server = ApiServer::start();
    let (a, stores) = (Authority::mint("a").unwrap(), Stores::new());
    server.apply(secret(&leaf(&a, 0x11), a.pem()));
    server.apply(trust_bundle(SYSTEM, "bundle", Authority::mint("b").unwrap().pem()));
    on_the_control_side(async {
        let _certificates = stores.follow(&server);
        until("the pair is in use", || stores.serial().is_some() && stores.anchors() == 2).await;
        let mut mixed = leaf(&a, 0x12);
        mixed.key = leaf(&a, 0x13).key;
        server.apply(secret(&mixed, a.pem()));
        until("the mismatch was seen", || stores.identity.failures(identity::Reason::KeyMismatch) == 1).await;
        assert_eq!(stores.serial().as_deref(), Some("11"));

        server.apply(secret(&leaf(&a, 0x14), a.pem()).set("/data/tls.crt", "%%%"));
        server.delete("secrets", SYSTEM, "routing-serving-certs");
        until("its authority is gone", || stores.anchors() == 1).await;
        assert_eq!(stores.serial().as_deref(), Some("11"));

        server.apply(secret(&leaf(&a, 0x15), a.pem()));
        until("a new pair is in use", || stores.serial().as_deref() == Some("15")).await;
    });
}
