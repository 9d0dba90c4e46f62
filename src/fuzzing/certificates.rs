//! Certificates, keys and bundles of them.

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, UnixTime,
};

use super::parts;
use crate::tls::identity::{Identity, Leaf};
use crate::tls::pem::Content;
use crate::tls::verifier::{ExpectedSan, Verifier};
use crate::tls::{key, pem as reader, provider, san, trust};

/// Blocks are numbered and stand in the order of their lines; what reads them agrees with them.
pub(super) fn pem(data: &[u8]) {
    let blocks = reader::blocks(data);
    let lines = data.split(|byte| *byte == b'\n').count();
    let mut line = 0;
    for (index, block) in blocks.iter().enumerate() {
        assert_eq!(block.number, index + 1);
        assert!(block.line > line && block.line <= lines);
        line = block.line;
    }
    let broken = blocks.iter().any(|block| matches!(block.content, Content::Broken(_)));
    let certificates = blocks.iter().filter(|block| matches!(block.content, Content::Certificate(_))).count();
    match reader::certificates(data) {
        Ok(found) => assert!(!broken && found.len() == certificates),
        Err(_) => assert!(broken),
    }
    if let Ok(found) = reader::private_key(data) {
        let _ = key::signing_key(&found);
    }
}

/// Names are read the same way whoever asks, and nothing that parses can't be verified or shown.
pub(super) fn certificate(data: &[u8]) {
    let der = CertificateDer::from(data);
    let names = san::dns_names(&der);
    if let Ok(leaf) = Leaf::of(&der) {
        assert_eq!(Ok(&leaf.names), names.as_ref());
        let _ = (leaf.key.to_string(), leaf.is_valid_at(leaf.not_before), san::in_words(&leaf.names));
    }
    let store = trust::Store::new();
    let authority = include_bytes!("../../certs-fixtures/good/p256/ca.crt");
    store.set_source("fixture", authority);
    let algorithms = provider::provider(&Default::default()).signature_verification_algorithms;
    let verifier = Verifier::new(store.roots().unwrap(), ExpectedSan::new("kn-user-default"), algorithms);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    if verifier.verify(&der, &[], now).is_ok() {
        assert!(names.is_ok_and(|names| names.iter().any(|name| san::same(b"kn-user-default", name))));
    }
}

/// Bytes as a key in each of the three encodings.
pub(super) fn key(data: &[u8]) {
    let leaf = CertificateDer::from(&include_bytes!("../../certs-fixtures/good/p256/tls.crt")[..]);
    for der in [
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(data)),
        PrivateKeyDer::from(PrivatePkcs1KeyDer::from(data)),
        PrivateKeyDer::from(PrivateSec1KeyDer::from(data)),
    ] {
        if let Ok(key) = key::signing_key(&der.clone_key()) {
            let _ = key::belongs_to(key.as_ref(), &leaf);
        }
    }
}

/// Certificate and key, a NUL byte between.
pub(super) fn identity(data: &[u8]) {
    let [certificate, private] = parts(data);
    if let Ok(identity) = Identity::from_pem(certificate, private) {
        let key = &identity.certified.key;
        assert!(identity.certified.cert.first().is_some_and(|leaf| key::belongs_to(key.as_ref(), leaf)));
        assert!(identity.leaf.key.is_supported());
    }
}

/// What a source says of itself is what is published, and a good bundle survives any that comes after it.
pub(super) fn bundle(data: &[u8]) {
    let store = trust::Store::new();
    let outcome = store.set_source("first", data);
    let anchors = store.snapshot().map_or(0, |snapshot| snapshot.anchors.len());
    assert!(anchors <= outcome.valid && (anchors > 0) == (outcome.valid > 0));
    assert_eq!(store.skipped(), outcome.skipped as u64);

    let store = trust::Store::new();
    store.set_source("bundle", include_bytes!("../../certs-fixtures/good/p256/ca.crt"));
    store.set_source("bundle", data);
    assert!(store.roots().is_some_and(|roots| !roots.is_empty()));
}
