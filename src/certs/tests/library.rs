//! Minting, checking and trust bundles.
#![allow(clippy::unwrap_used)]
use super::fixture;
use crate::certs::check::Purpose;
use crate::certs::mint::{Ca, KeyKind, LeafSpec};
use crate::certs::{check, fixtures, inspect};
use crate::knative::names;
use crate::tls::identity::Identity;
use crate::tls::policy::{Group, Policy, PolicyError};
use crate::tls::trust;

#[test]
fn given_the_fixtures_when_checked_then_the_good_ones_work_and_the_broken_ones_do_not() {
    let names = |kind: &str| {
        let mut found: Vec<String> = std::fs::read_dir(fixture(kind))
            .unwrap()
            .map(|entry| format!("{kind}/{}", entry.unwrap().file_name().into_string().unwrap()))
            .collect();
        found.sort();
        found
    };
    for name in names("good") {
        let expected = match name.as_str() {
            "good/longest-namespace" => names::san_user(&"N".repeat(63)),
            "good/routing" => names::SAN_ROUTING.to_owned(),
            _ => fixtures::NAME.to_owned(),
        };
        let findings = check::directory(&fixture(&name), &Purpose::queue(expected));
        assert!(check::works(&findings), "{name}: {findings:?}");
    }
    let broken = names("broken");
    assert_eq!(broken.len(), 12);
    for name in broken {
        let findings = check::directory(&fixture(&name), &Purpose::queue(fixtures::NAME));
        assert!(!check::works(&findings), "{name}: {findings:?}");
    }
}

#[test]
fn given_no_files_when_checked_then_it_does_not_work() {
    let empty = tempfile::tempdir().unwrap();
    assert!(!check::works(&check::directory(empty.path(), &Purpose::queue(fixtures::NAME))));
}

#[test]
fn given_an_authority_from_its_files_when_it_signs_then_its_leaves_are_accepted() {
    let made = Ca::new("made", KeyKind::Rsa2048).unwrap();
    let read = Ca::from_pem(made.cert_pem(), &made.key_pem()).unwrap();
    let dir = tempfile::tempdir().unwrap();

    let pair = read.leaf(&LeafSpec::new(["kn-user-demo"])).unwrap();
    crate::certs::mint::write_dir(dir.path(), &pair, made.root_pem()).unwrap();

    let findings = check::directory(dir.path(), &Purpose::queue("kn-user-demo"));
    assert!(check::works(&findings), "{findings:?}");
}

/// `Kind` is read from the certificate; each kind that is minted must be recognised.
#[test]
fn given_a_leaf_of_each_kind_when_loaded_then_its_kind_is_told() {
    let words = [
        ("rsa2048", "RSA 2048"),
        ("rsa3072", "RSA 3072"),
        ("rsa4096", "RSA 4096"),
        ("p256", "ECDSA P-256"),
        ("p384", "ECDSA P-384"),
        ("p521", "ECDSA P-521"),
        ("ed25519", "Ed25519"),
    ];
    for (name, expected) in words {
        let dir = fixture("good").join(name);
        let read = |file| std::fs::read(dir.join(file)).unwrap();
        let identity = Identity::from_pem(&read("tls.crt"), &read("tls.key")).unwrap();
        assert_eq!(identity.leaf.key.to_string(), expected);
        assert!(inspect::show(&dir.to_string_lossy(), None).unwrap().text.contains(expected));
    }
}

#[test]
fn given_a_bundle_with_an_invalid_block_when_read_then_the_others_are_trusted() {
    let read = |name| std::fs::read(fixture("bundle").join(name)).unwrap();
    let store = trust::Store::new();

    let outcome = store.set_source("bundle", &read("one-invalid.crt"));

    assert_eq!(outcome, trust::Outcome { valid: 2, skipped: 1, kept: false });
    assert_eq!(store.snapshot().unwrap().anchors.len(), 2);
}

/// An empty result never replaces one that is not.
#[test]
fn given_good_anchors_when_their_source_turns_bad_then_they_stay() {
    let read = |name| std::fs::read(fixture("bundle").join(name)).unwrap();
    let store = trust::Store::new();
    store.set_source("bundle", &read("two.crt"));

    for text in [read("none-valid.crt"), Vec::new(), b"junk".to_vec()] {
        assert!(store.set_source("bundle", &text).kept);
    }
    assert!(!store.remove_source("bundle"));

    assert_eq!(store.generation(), 1);
    assert_eq!(store.snapshot().unwrap().anchors.len(), 2);
    assert_eq!(store.kept(), 4);
}

#[test]
fn given_two_sources_when_one_goes_then_what_was_removed_is_told() {
    let (a, b) = (Ca::new("a", KeyKind::P256).unwrap(), Ca::new("b", KeyKind::P256).unwrap());
    let store = trust::Store::new();
    store.set_source("one", a.root_pem().as_bytes());
    store.set_source("two", format!("{}{}", a.root_pem(), b.root_pem()).as_bytes());
    assert_eq!((store.generation(), store.snapshot().unwrap().anchors.len()), (2, 2));

    // The first source's anchor is in the second one too: nothing changes.
    assert!(store.remove_source("one"));
    assert_eq!(store.generation(), 2);
    store.set_source("two", a.root_pem().as_bytes());

    let snapshot = store.snapshot().unwrap();
    assert_eq!((snapshot.generation, snapshot.removed.len(), snapshot.last_removal), (3, 1, 3));
    assert!(snapshot.removed[0].subject.contains('b'));
    assert!(!store.is_current(2) && store.is_current(3));
}

/// Contract, 10.3: texts and rules of Go.
#[test]
fn given_settings_when_parsed_then_go_decides() {
    let parse = |min, max, ciphers, curves| Policy::parse("QUEUE_PROXY_", min, max, ciphers, curves);
    let text = |result: Result<Policy, PolicyError>| result.unwrap_err().to_string();

    assert_eq!(parse(Some(""), Some(""), Some(""), Some("")).unwrap(), Policy::default());
    assert_eq!(
        text(parse(Some("1.1"), None, None, None)),
        r#"invalid QUEUE_PROXY_TLS_MIN_VERSION "1.1": unsupported TLS version "1.1": must be "1.2" or "1.3""#
    );
    assert!(text(parse(None, Some("TLS1.3"), None, None)).starts_with("invalid QUEUE_PROXY_TLS_MAX_VERSION"));
    assert!(!parse(None, Some("1.2"), None, None).unwrap().is_satisfiable());
    assert_eq!(
        text(parse(None, None, Some("TLS_RSA_WITH_AES_128_CBC_SHA"), None)),
        r#"invalid QUEUE_PROXY_TLS_CIPHER_SUITES: unknown cipher suite "TLS_RSA_WITH_AES_128_CBC_SHA": expected Go's names, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"#
    );
    let chacha = Some("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256");
    assert!(matches!(parse(Some("1.2"), None, chacha, None), Err(PolicyError::Http2(_))));
    assert!(parse(None, None, chacha, None).is_ok());
    let both =
        " TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 , TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256";
    assert!(parse(Some("1.2"), None, Some(both), None).is_ok());
    assert_eq!(
        text(parse(None, None, None, Some("x25519"))),
        r#"invalid QUEUE_PROXY_TLS_CURVE_PREFERENCES: unknown curve "x25519": expected X25519MLKEM768, X25519, P-256, P-384 or P-521"#
    );
    let curves = parse(None, None, None, Some("CurveP384, X25519MLKEM768,P-384")).unwrap();
    assert_eq!(curves.groups(), [Group::P384, Group::X25519MlKem768]);
}

/// Makes the fixtures in a scratch directory: the command in their README works.
#[test]
fn given_the_command_when_fixtures_are_made_then_they_are_those_of_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    fixtures::write(dir.path()).unwrap();
    for kind in ["good", "broken", "bundle"] {
        for entry in std::fs::read_dir(dir.path().join(kind)).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(fixture(kind).join(&name).exists(), "{name:?}");
        }
    }
}
