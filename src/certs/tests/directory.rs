//! A directory of certificates that changes as Kubernetes, people and accidents change it (T1, and the contract, 10.1
//! and 10.2).
#![allow(clippy::unwrap_used)]
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::{eventually, fixture};
use crate::certs::mint::{Ca, KeyKind, LeafSpec, Pair, Validity, write_dir};
use crate::certs::mount::Mount;
use crate::tls::source_dir::{Directory, Error, Found};
use crate::tls::{identity, trust};

const LOOK: Duration = Duration::from_millis(20);

struct World {
    _temporary: tempfile::TempDir,
    mount: Mount,
    root: Ca,
    identity: Arc<identity::Store>,
    trust: Arc<trust::Store>,
}

impl World {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mount = Mount::new(temporary.path().join("certs")).unwrap();
        let root = Ca::new("root", KeyKind::P256).unwrap();
        let (identity, trust) = (identity::Store::new(), trust::Store::new());
        Self { _temporary: temporary, mount, root, identity, trust }
    }

    fn directory(&self) -> Directory {
        Directory::new(self.mount.path(), self.identity.clone()).trust(self.trust.clone()).poll(LOOK)
    }

    fn pair(&self, name: &str) -> Pair {
        self.root.leaf(&LeafSpec::new([name])).unwrap()
    }

    fn swap(&mut self, pair: &Pair) {
        self.mount.swap(pair, self.root.root_pem()).unwrap();
    }

    fn serves(&self, name: &str) -> bool {
        self.identity.current().is_some_and(|identity| identity.leaf.has_name(name.as_bytes()))
    }
}

#[test]
fn given_both_files_when_loaded_then_the_pair_and_its_authority_are_in_use() {
    let mut world = World::new();
    let pair = world.pair("kn-user-one");
    world.swap(&pair);

    assert_eq!(world.directory().load_once().unwrap(), Found::Pair);

    assert!(world.serves("kn-user-one"));
    assert_eq!(world.identity.reloads(), 1);
    assert_eq!(world.trust.snapshot().unwrap().anchors.len(), 1);
}

#[test]
fn given_one_file_or_none_when_loaded_then_there_is_no_pair() {
    let mut world = World::new();
    assert_eq!(world.directory().load_once().unwrap(), Found::Nothing);
    let pair = world.pair("kn-user-one");
    for file in [("tls.crt", pair.cert_pem.as_bytes()), ("tls.key", pair.key_pem.as_bytes())] {
        world.mount.swap_files(&[file]).unwrap();
        assert_eq!(world.directory().load_once().unwrap(), Found::Nothing);
    }
    assert_eq!(Directory::new("/nowhere/at/all", identity::Store::new()).load_once().unwrap(), Found::Nothing);
}

#[test]
fn given_a_file_in_the_path_when_loaded_then_the_path_is_the_error() {
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("file"), "").unwrap();

    let error = Directory::new(temporary.path().join("file/certs"), identity::Store::new()).load_once().unwrap_err();

    assert!(error.to_string().starts_with("Failed to verify the file path"), "{error}");
}

#[test]
fn given_a_bad_first_pair_when_loaded_then_the_reason_is_the_error() {
    let reasons = [
        ("broken/mismatched-key", identity::Reason::KeyMismatch),
        ("broken/junk", identity::Reason::BadCertificate),
        ("broken/rsa1024", identity::Reason::BadKey),
    ];
    for (name, expected) in reasons {
        let store = identity::Store::new();
        match Directory::new(fixture(name), store.clone()).load_once() {
            Err(Error::Rejected(rejection)) => assert_eq!(rejection.reason, expected, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(store.failures(expected), 1);
        assert!(store.current().is_none());
    }
}

/// The Go queue-proxy serves it.
#[test]
fn given_an_expired_first_pair_when_loaded_then_it_is_served() {
    let store = identity::Store::new();
    assert_eq!(Directory::new(fixture("broken/expired"), store.clone()).load_once().unwrap(), Found::Pair);
    assert!(store.current().is_some());
}

#[tokio::test]
async fn given_a_running_source_when_the_volume_is_swapped_then_the_new_pair_is_served() {
    let mut world = World::new();
    let (one, two) = (world.pair("kn-user-one"), world.pair("kn-user-two"));
    world.swap(&one);
    let directory = world.directory();
    directory.load_once().unwrap();
    let run = tokio::spawn(directory.run());

    world.swap(&two);

    eventually("the second pair is served", || world.serves("kn-user-two")).await;
    assert_eq!(world.identity.reloads(), 2);
    run.abort();
}

/// T2: files that appear later turn TLS on without a restart.
#[tokio::test]
async fn given_no_directory_when_it_appears_then_its_pair_is_served() {
    let temporary = tempfile::tempdir().unwrap();
    let (store, path) = (identity::Store::new(), temporary.path().join("late/certs"));
    let directory = Directory::new(&path, store.clone()).poll(LOOK);
    assert_eq!(directory.load_once().unwrap(), Found::Nothing);
    let run = tokio::spawn(directory.run());

    let root = Ca::new("root", KeyKind::P256).unwrap();
    write_dir(&path, &root.leaf(&LeafSpec::new(["kn-user-late"])).unwrap(), root.root_pem()).unwrap();

    eventually("the pair is served", || store.current().is_some()).await;
    run.abort();
}

/// A bad pair never replaces a good one; it is counted once, and the next good one is taken.
#[tokio::test]
async fn given_a_good_pair_when_bad_ones_follow_then_it_stays_until_the_next_good_one() {
    let mut world = World::new();
    let (one, two) = (world.pair("kn-user-one"), world.pair("kn-user-two"));
    let expired = world.root.leaf(&LeafSpec { validity: Validity::expired(), ..LeafSpec::new(["x"]) }).unwrap();
    let not_yet = world.root.leaf(&LeafSpec { validity: Validity::not_yet(), ..LeafSpec::new(["x"]) }).unwrap();
    let mismatch = Pair { cert_pem: two.cert_pem.clone(), key_pem: one.key_pem.clone() };
    let junk = Pair { cert_pem: "junk".to_owned(), key_pem: two.key_pem.clone() };
    let no_key = Pair { cert_pem: two.cert_pem.clone(), key_pem: "junk".to_owned() };
    world.swap(&one);
    let directory = world.directory();
    directory.load_once().unwrap();
    let run = tokio::spawn(directory.run());

    for (pair, reason) in [
        (expired, identity::Reason::Expired),
        (not_yet, identity::Reason::NotYetValid),
        (mismatch, identity::Reason::KeyMismatch),
        (junk, identity::Reason::BadCertificate),
        (no_key, identity::Reason::BadKey),
    ] {
        world.swap(&pair);
        eventually("the pair is refused", || world.identity.failures(reason) > 0).await;
        assert!(world.serves("kn-user-one"), "{reason:?}");
    }
    world.mount.swap_files(&[("tls.crt", two.cert_pem.as_bytes())]).unwrap();
    eventually("the missing key is told", || world.identity.failures(identity::Reason::Unreadable) > 0).await;
    assert!(world.serves("kn-user-one"));

    world.swap(&two);
    eventually("the good pair is served", || world.serves("kn-user-two")).await;
    for reason in identity::Reason::ALL {
        assert_eq!(world.identity.failures(reason), 1, "{reason:?}");
    }
    run.abort();
}

#[tokio::test]
async fn given_a_pair_in_use_when_all_files_go_then_it_is_withdrawn_and_comes_back_with_them() {
    let mut world = World::new();
    let pair = world.pair("kn-user-one");
    world.swap(&pair);
    let directory = world.directory();
    directory.load_once().unwrap();
    let run = tokio::spawn(directory.run());

    world.mount.swap_files(&[]).unwrap();
    eventually("the identity is withdrawn", || world.identity.current().is_none()).await;
    assert!(world.trust.roots().is_some(), "the last good authorities stay");

    world.swap(&pair);
    eventually("the pair is served again", || world.serves("kn-user-one")).await;
    run.abort();
}

/// Certificate and key are always of one generation, whatever the moment of the read.
#[tokio::test]
async fn given_swaps_without_pause_when_read_then_no_pair_is_ever_torn() {
    let mut world = World::new();
    let pairs: Vec<Pair> = (0..4).map(|index| world.pair(&format!("kn-user-{index}"))).collect();
    world.swap(&pairs[0]);
    let directory = world.directory();
    directory.load_once().unwrap();
    let run = tokio::spawn(directory.run());

    for round in 0..200 {
        world.swap(&pairs[round % 4]);
        if round % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let last = world.pair("kn-user-last");
    world.swap(&last);

    eventually("the last pair is served", || world.serves("kn-user-last")).await;
    assert_eq!(world.identity.failures(identity::Reason::KeyMismatch), 0);
    run.abort();
}

/// Files written in place, one after the other, as people and other tools do it.
#[tokio::test]
async fn given_plain_files_when_rewritten_then_the_new_pair_is_served() {
    let world = World::new();
    let (one, two) = (world.pair("kn-user-one"), world.pair("kn-user-two"));
    write_dir(world.mount.path(), &one, world.root.root_pem()).unwrap();
    let directory = world.directory();
    directory.load_once().unwrap();
    let run = tokio::spawn(directory.run());

    write_dir(world.mount.path(), &two, world.root.root_pem()).unwrap();

    eventually("the second pair is served", || world.serves("kn-user-two")).await;
    run.abort();
}
