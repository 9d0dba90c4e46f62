//! Every set in `certs-fixtures`: good ones are accepted by `certs check`, served, and verified by clients; bad ones are
//! refused, each with its own reason.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lockkeeper::local::client::{Protocol, Trust, dial};

use super::{arg, certs};
use crate::support::binary::command;
use crate::support::client::{local, run};
use crate::support::pki::authorities;

/// The sets of a kind, by name.
fn sets(kind: &str) -> BTreeMap<String, PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs-fixtures").join(kind);
    let sets = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
    sets.map(|set| (set.file_name().into_string().unwrap(), set.path())).collect()
}

/// Role, namespace and the name that a good set bears.
fn purpose(set: &str) -> (&'static str, String, String) {
    let namespace = match set {
        "longest-namespace" => "n".repeat(63),
        _ => "demo".to_owned(),
    };
    match set {
        "routing" => ("activator", namespace, "kn-routing".to_owned()),
        _ => ("queue", namespace.clone(), format!("kn-user-{namespace}")),
    }
}

/// What `certs show` says of the leaf's key.
fn key(set: &str) -> &'static str {
    match set.trim_end_matches("-traditional") {
        "rsa2048" => "key: RSA 2048",
        "rsa3072" => "key: RSA 3072",
        "rsa4096" => "key: RSA 4096",
        "p384" => "key: ECDSA P-384",
        "p521" => "key: ECDSA P-521",
        "ed25519" => "key: Ed25519",
        _ => "key: ECDSA P-256",
    }
}

#[test]
fn given_each_good_set_when_checked_and_shown_then_it_works_and_its_name_and_key_are_told() {
    for (set, dir) in sets("good") {
        let (role, namespace, name) = purpose(&set);
        let (code, said) = certs(&["check", arg(&dir), "--role", role, "--namespace", &namespace]);
        assert_eq!(code, Some(0), "{set}\n{said}");
        for expected in
            ["tls.crt and tls.key are a pair", &format!("bears the name {name}"), "its chain leads to an authority"]
        {
            assert!(said.contains(expected), "{set}: {expected}\n{said}");
        }

        let (code, said) = certs(&["show", arg(&dir)]);
        assert_eq!(code, Some(0), "{set}\n{said}");
        let leaf = said.split("  2. ").next().unwrap();
        assert!(leaf.contains(&format!("names: {name}")) && leaf.contains(key(&set)), "{set}\n{said}");
        assert!(leaf.contains("for: servers and clients"), "{set}\n{said}");
        assert!(said.contains("tls.key: the key of the first certificate (not shown)\n"), "{set}\n{said}");
    }
}

/// The name of a namespace of 63 characters is longer than a DNS label may be; clients compare it as the roles do.
#[test]
fn given_each_good_set_when_local_serves_it_then_clients_verify_it_and_the_printed_line_works() {
    for (set, dir) in sets("good") {
        let (_, _, name) = purpose(&set);
        let mut running = command(&["local", "--json", "--certs-dir", arg(&dir)]).spawn();
        let started: serde_json::Value = serde_json::from_str(&running.logs(r#""started""#)).unwrap();
        assert_eq!(started["san"], name.as_str(), "{set}");

        let port = started["tls_port"].as_u64().unwrap().try_into().unwrap();
        let roots = authorities(&dir.join("ca.crt"));
        let trust = Trust { roots: roots.clone(), ..Trust::exact(&[], &name) };
        let (_, peer) = run(dial(local(port), Some(&trust), Protocol::Http2)).unwrap();
        assert_eq!(started["serial"], peer.unwrap().serial.as_str(), "{set}");
        let other = Trust { roots, ..Trust::exact(&[], "kn-user-somebody-else") };
        let refused = run(dial(local(port), Some(&other), Protocol::Http2)).err().unwrap().to_string();
        assert!(refused.contains(&format!("expected kn-user-somebody-else, presented {name}")), "{set}: {refused}");

        let curl = started["curl"].as_str().map(|line| line.replacen("curl ", "curl --silent --show-error ", 1));
        let line = curl.or_else(|| Some(started["openssl"].as_str()?.to_owned())).unwrap();
        let output = Command::new("sh").args(["-c", &line]).output().expect("a shell");
        let answer = String::from_utf8_lossy(&output.stdout);
        // 127: a machine without openssl; the client above has verified the set.
        let absent = line.contains("openssl") && output.status.code() == Some(127);
        assert!(answer.contains("hello from the sample application") || absent, "{set}: {line}\n{output:?}");

        running.signal("INT");
        assert_eq!(running.exit().code(), Some(0), "{set}");
    }
}

#[test]
fn given_each_good_set_when_local_checks_itself_with_it_then_every_line_is_ok() {
    for (set, dir) in sets("good") {
        let (_, _, name) = purpose(&set);
        let (code, log) = command(&["local", "--check", "--json", "--certs-dir", arg(&dir)]).finish();
        assert_eq!(code, Some(0), "{set}\n{log}");
        let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(lines.len(), 10, "{set}\n{log}");
        assert!(lines.iter().all(|line| line["ok"] == true), "{set}\n{log}");
        assert_eq!(lines[0]["san"][0], name.as_str(), "{set}");
    }
}

/// The file that is wrong in a bad set, and what is said of it.
fn wrong(set: &str) -> (&'static str, &'static str) {
    match set {
        "client-only" => ("tls.crt", "certificate does not allow extended key usage for server authentication"),
        "expired" => ("tls.crt", "it expired at "),
        "junk" => ("tls.crt", "no PEM block with a certificate was found"),
        "legacy-only" => ("tls.crt", "it does not bear the name kn-user-demo, but: data-plane.knative.dev"),
        "mismatched-key" => ("tls.key", "private key does not match public key"),
        "missing-intermediate" => ("tls.crt", "its chain ends with the issuer CN=lockkeeper fixtures intermediate"),
        "no-san" => ("tls.crt", "it does not bear the name kn-user-demo, but: none"),
        "not-yet-valid" => ("tls.crt", "it is not valid before "),
        "other-ca" => ("tls.crt", "its chain ends with the issuer CN=lockkeeper fixtures other root"),
        "rsa1024" => ("tls.key", "the key of tls.crt is RSA 1024"),
        "sha1" => ("tls.crt", "(tls_weak_algorithm)"),
        "wrong-san" => ("tls.crt", "it does not bear the name kn-user-demo, but: kn-user-other"),
        other => panic!("{other}: this test does not know what is wrong with it"),
    }
}

/// One reason each, which names the file, what is wrong with it, and what was expected; `local` says the same.
#[test]
fn given_each_bad_set_when_checked_or_served_then_it_is_refused_for_its_own_reason() {
    for (set, dir) in sets("broken") {
        let (file, reason) = wrong(&set);
        let (code, said) = certs(&["check", arg(&dir), "--namespace", "demo"]);
        assert_eq!(code, Some(1), "{set}\n{said}");
        let bad: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("BAD      ")).collect();
        assert_eq!(bad.len(), 1, "{set}\n{said}");
        assert!(bad[0].starts_with(&format!("{}: ", dir.join(file).display())), "{set}\n{said}");
        assert!(bad[0].contains(reason), "{set}: {reason}\n{said}");
        assert_eq!(said.lines().filter(|line| line.trim_start().starts_with("-> ")).count(), 1, "{set}\n{said}");

        let (code, log) = command(&["local", "--certs-dir", arg(&dir), "--namespace", "demo"]).finish();
        assert_eq!(code, Some(1), "{set}\n{log}");
        assert!(log.starts_with(&format!("lockkeeper local: {}\n  -> ", bad[0])), "{set}\n{log}");
    }
}

/// Bad sets are what `certs show` is for.
#[test]
fn given_each_bad_set_when_shown_then_what_is_wrong_can_be_seen_and_only_junk_is_an_error() {
    for (set, dir) in sets("broken") {
        let (code, said) = certs(&["show", arg(&dir)]);
        assert_eq!(code, Some(i32::from(set == "junk")), "{set}\n{said}");
        let leaf = said.split("ca.crt:").next().unwrap();
        let seen = match set.as_str() {
            "client-only" => "for: clients only",
            "expired" => "(EXPIRED)",
            "junk" => "no PEM block: expected certificates",
            "legacy-only" => "names: data-plane.knative.dev\n",
            "missing-intermediate" => "issuer: CN=lockkeeper fixtures intermediate",
            "no-san" => "names: none",
            "not-yet-valid" => "(NOT YET VALID)",
            "other-ca" => "issuer: CN=lockkeeper fixtures other root",
            "rsa1024" => "key: RSA 1024 (too weak or unknown: peers refuse it)",
            "sha1" => "signature: RSA with SHA-1 (too weak or unknown: peers refuse it)",
            "wrong-san" => "names: kn-user-other",
            "mismatched-key" => "tls.key: NOT the key of the first certificate\n",
            other => panic!("{other}: this test does not know what is to be seen"),
        };
        assert!(leaf.contains(seen), "{set}: {seen}\n{said}");
    }
}

/// Knative's own activator asks for both names, older releases for the legacy one.
#[test]
fn given_callers_that_expect_the_legacy_name_when_checked_then_the_set_must_bear_it_too() {
    let good = sets("good");
    let check = |set: &str, more: &[&str]| {
        let (role, namespace, _) = purpose(set);
        let args = ["check", arg(&good[set]), "--role", role, "--namespace", &namespace];
        certs(&[&args[..], more].concat())
    };

    let (code, said) = check("legacy-name", &["--legacy-name"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ok       tls.crt bears the legacy name data-plane.knative.dev"), "{said}");

    let (code, said) = check("p256", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning  tls.crt does not bear the legacy name data-plane.knative.dev"), "{said}");
    for set in ["p256", "routing"] {
        let (code, said) = check(set, &["--legacy-name"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("tls.crt: it does not bear the legacy name data-plane.knative.dev"), "{said}");
    }

    let (_, said) = certs(&["check", arg(&sets("broken")["legacy-only"]), "--namespace", "demo"]);
    assert!(said.contains("LOCKKEEPER_ACCEPT_LEGACY_SAN=true"), "{said}");
}

/// What a role does with its certificate decides for what it must have been issued.
#[test]
fn given_a_set_for_clients_only_when_checked_then_the_gateway_can_use_it_and_the_activator_can_not() {
    let dir = sets("broken")["client-only"].clone();
    let (_, gateway) = certs(&["check", arg(&dir), "--role", "gateway"]);
    assert!(!gateway.contains("key usage"), "{gateway}");
    let (_, activator) = certs(&["check", arg(&dir), "--role", "activator"]);
    assert!(activator.contains("issue it for server authentication"), "{activator}");
}
