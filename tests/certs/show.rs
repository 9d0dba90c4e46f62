//! `certs show`: files, directories and servers, and what is neither.
use lockkeeper::certs::mint::{Ca, KeyKind};

use super::{arg, certs};
use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::pki::Pki;

#[test]
fn given_a_file_without_pem_when_shown_then_it_fails_and_says_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk");
    std::fs::write(&junk, "nothing").unwrap();
    let (code, log) = certs(&["show", arg(&junk)]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("junk: no PEM block: expected certificates"), "{log}");
}

#[test]
fn given_nothing_to_show_then_it_fails_and_says_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for (target, expected) in [
        (arg(dir.path()), "neither tls.crt nor ca.crt is in this directory"),
        (arg(&missing), "no such file or directory, and not HOST:PORT"),
        ("127.0.0.1:port", "127.0.0.1:port: "),
    ] {
        let (code, log) = certs(&["show", target]);
        assert_eq!(code, Some(1), "{target}\n{log}");
        assert!(log.contains(expected), "{target}\n{log}");
    }
}

#[test]
fn given_a_bundle_with_a_broken_block_when_shown_then_the_others_are_and_the_status_tells() {
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/certs-fixtures/bundle/one-invalid.crt");
    let (code, said) = certs(&["show", bundle]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(said.matches("for: issuing certificates").count(), 2, "{said}");
    assert!(said.contains("  2. "), "{said}");
}

/// Also one that would not serve us: it asks for a certificate that we have not got.
#[test]
fn given_a_server_when_shown_then_its_chain_is_seen_though_nothing_is_verified() {
    let (app, pki) = (App::ok(), Pki::new());
    for asks in ["off", "require"] {
        let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", asks).start();
        let (code, said) = certs(&["show", &format!("localhost:{}", queue.tls())]);
        assert_eq!(code, Some(0), "{asks}\n{said}");
        assert!(said.contains("names: kn-user-default, localhost") && said.contains("key: ECDSA P-256"), "{said}");

        let (code, said) = certs(&["show", &format!("127.0.0.1:{}", queue.http())]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("what came is not TLS"), "{said}");
    }
}

/// Who made a certificate must not steer the terminal of whoever looks at it.
#[test]
fn given_a_subject_with_control_characters_when_shown_then_they_are_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new("evil\u{1b}[2J\nnames: kn-routing", KeyKind::P256).unwrap();
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, ca.cert_pem()).unwrap();
    let (code, said) = certs(&["show", arg(&file)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains('\u{1b}') && said.contains(r"evil\u{1b}[2J\nnames: kn-routing"), "{said}");
}
