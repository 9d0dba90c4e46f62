//! `certs mint`: what it makes works for the role that it was made for, and what it can't make is refused.
use std::path::Path;

use lockkeeper::local::client::{Protocol, Trust, dial};

use super::{arg, certs};
use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{local, run};
use crate::support::pki::authorities;

#[track_caller]
fn mint(dir: &Path, more: &[&str]) -> String {
    let (code, said) = certs(&[&["mint", "--dir", arg(dir)], more].concat());
    assert_eq!(code, Some(0), "{said}");
    said
}

/// Every kind of key that cert-manager issues, for leaf and authority, in both encodings: shown, checked, and served by
/// the queue to a client that verifies it.
#[test]
fn given_each_kind_of_key_when_minted_then_it_is_shown_checked_and_served() {
    let app = App::ok();
    let kinds = [
        ("rsa2048", "RSA 2048", "RSA PRIVATE KEY"),
        ("rsa3072", "RSA 3072", "RSA PRIVATE KEY"),
        ("rsa4096", "RSA 4096", "RSA PRIVATE KEY"),
        ("p256", "ECDSA P-256", "EC PRIVATE KEY"),
        ("p384", "ECDSA P-384", "EC PRIVATE KEY"),
        ("p521", "ECDSA P-521", "EC PRIVATE KEY"),
        ("ed25519", "Ed25519", "PRIVATE KEY"),
    ];
    for (kind, words, label) in kinds {
        let temporary = tempfile::tempdir().unwrap();
        let authority = temporary.path().join("authority");
        mint(&authority, &["--ca-key-type", kind]);
        for traditional in [false, true] {
            let dir = temporary.path().join(format!("new/{traditional}"));
            let kinds = ["--namespace", "demo", "--legacy-name", "--key-type", kind, "--ca", arg(&authority)];
            let more: &[&str] = if traditional { &["--traditional", "--intermediate"] } else { &[] };
            let said = mint(&dir, &[&kinds[..], more].concat());
            assert!(said.contains("for kn-user-demo, data-plane.knative.dev, valid for 90 days"), "{said}");
            let key = std::fs::read_to_string(dir.join("tls.key")).unwrap();
            let label = if traditional { label } else { "PRIVATE KEY" };
            assert!(key.starts_with(&format!("-----BEGIN {label}-----")), "{kind} traditional: {traditional}");

            let (code, said) = certs(&["show", arg(&dir)]);
            assert_eq!(code, Some(0), "{said}");
            for first in [&said[..], said.split("ca.crt:\n").nth(1).unwrap()] {
                let key = first.lines().find(|line| line.starts_with("     key: ")).unwrap();
                assert_eq!(key, format!("     key: {words}"), "{kind}\n{said}");
            }
            let (code, said) = certs(&["check", arg(&dir), "--namespace", "demo", "--legacy-name"]);
            assert_eq!(code, Some(0), "{kind}\n{said}");
            assert!(!said.contains("warning"), "{kind}\n{said}");

            let mut queue = queue(app.port()).certs(&dir).start();
            for name in ["kn-user-demo", "data-plane.knative.dev"] {
                let trust = Trust { roots: authorities(&dir.join("ca.crt")), ..Trust::exact(&[], name) };
                let served = run(dial(local(queue.tls()), Some(&trust), Protocol::Http1));
                assert!(served.is_ok(), "{kind}: {:?}", served.err());
            }
        }
    }
}

#[test]
fn given_an_authority_when_named_then_leaves_for_every_role_are_issued_by_it() {
    let temporary = tempfile::tempdir().unwrap();
    let (queue, routing) = (temporary.path().join("queue"), temporary.path().join("routing"));
    let said = mint(&queue, &[]);
    assert!(said.contains("ca.key to issue more with"), "{said}");
    mint(&routing, &["--role", "activator", "--ca", arg(&queue), "--san", "127.0.0.1"]);
    mint(&queue, &["--ca", arg(&queue), "--days", "30"]);

    let read = |dir: &Path| std::fs::read_to_string(dir.join("ca.crt")).unwrap();
    assert_eq!(read(&queue), read(&routing));
    assert!(!routing.join("ca.key").exists());
    for (dir, role) in [(&queue, "queue"), (&routing, "activator"), (&routing, "gateway")] {
        let (code, said) = certs(&["check", arg(dir), "--role", role, "--namespace", "default"]);
        assert_eq!(code, Some(0), "{said}");
    }
    let (_, said) = certs(&["show", arg(&routing)]);
    assert!(said.contains("names: kn-routing\n     addresses: 127.0.0.1\n"), "{said}");
}

/// The key of an authority that others trust already is not to be lost by a second run, nor any other file.
#[test]
fn given_files_that_are_there_when_minted_without_an_authority_then_they_stay() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    mint(dir, &[]);
    for file in ["ca.key", "tls.key", "tls.crt", "ca.crt"] {
        let before = std::fs::read(dir.join(file)).unwrap();
        let (code, said) = certs(&["mint", "--dir", arg(dir)]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("{file} is there already and would be lost")), "{said}");
        assert_eq!(std::fs::read(dir.join(file)).unwrap(), before);
        std::fs::remove_file(dir.join(file)).unwrap();
    }
    mint(dir, &[]);
}

#[test]
fn given_an_authority_that_is_none_when_named_then_the_reason_is_told_and_nothing_is_written() {
    let temporary = tempfile::tempdir().unwrap();
    let (one, two, new) = (temporary.path().join("one"), temporary.path().join("two"), temporary.path().join("new"));
    mint(&one, &[]);
    mint(&two, &[]);
    let refused = |expected: &str| {
        let (code, said) = certs(&["mint", "--dir", arg(&new), "--ca", arg(&one)]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected), "{expected}\n{said}");
        assert!(!new.exists());
    };

    std::fs::copy(two.join("ca.key"), one.join("ca.key")).unwrap();
    refused("the key is not that of CN=lockkeeper");
    std::fs::copy(one.join("tls.crt"), one.join("ca.crt")).unwrap();
    std::fs::copy(one.join("tls.key"), one.join("ca.key")).unwrap();
    refused("CN=kn-user-default may not issue certificates");
    std::fs::write(one.join("ca.key"), "junk").unwrap();
    refused("no PEM block with a private key was found");
    std::fs::remove_file(one.join("ca.crt")).unwrap();
    refused("one/ca.crt: No such file or directory");
}

/// As scripts see it: 2 is a mistake in the arguments, 1 a set that does not work.
#[test]
fn given_wrong_arguments_then_the_status_is_2_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let here = arg(dir.path());
    let long = "n".repeat(64);
    for (args, expected) in [
        (&["mint", "--dir", here, "--namespace", ""][..], "--namespace"),
        (&["mint", "--dir", here, "--namespace", "Demo"], "expected a namespace: 1 to 63 of a-z, 0-9 and -"),
        (&["mint", "--dir", here, "--namespace", &long], "expected a namespace"),
        (&["mint", "--dir", here, "--key-type", "rsa1024"], "must be one of rsa2048, rsa3072"),
        (&["mint", "--dir", here, "--days", "0"], "--days"),
        (&["mint", "--dir", here, "--san", ""], "--san"),
        (&["check", here], "--namespace is required for the role queue"),
        (&["check", here, "--role", "queue", "--namespace", "a_b"], "expected a namespace"),
        (&["check", here, "--role", "autoscaler"], "possible values: queue, activator, gateway"),
        (&["check"], "<DIR>"),
    ] {
        let (code, log) = certs(args);
        assert_eq!(code, Some(2), "{args:?}\n{log}");
        assert!(log.contains(expected), "{args:?}\n{log}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn given_missing_files_when_checked_then_each_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let check = || certs(&["check", arg(dir.path()), "--namespace", "default"]);
    let (code, said) = check();
    assert_eq!(code, Some(1), "{said}");
    for file in ["tls.crt", "tls.key"] {
        assert!(said.contains(&format!("{}: it is missing", dir.path().join(file).display())), "{said}");
    }

    mint(dir.path(), &[]);
    std::fs::remove_file(dir.path().join("ca.crt")).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning  there is no ca.crt"), "{said}");

    for (path, why) in [("missing", "No such file or directory"), ("tls.crt", "it is not a directory")] {
        let (code, said) = certs(&["check", arg(&dir.path().join(path)), "--namespace", "default"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("{path}: {why}")), "{said}");
    }
}
