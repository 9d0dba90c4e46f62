//! Makes the certificates in `certs-fixtures/`: good ones of each kind, and one for each way to be bad.
//!
//! Called by `certs mint --fixtures DIR`. Good ones are valid for a century. Weak ones (RSA 1024, SHA-1) can't be made
//! with a library that refuses them: `certs-fixtures/weak.sh` does it.
use std::fs;
use std::path::Path;

use crate::certs::encoding::Encoding;
use crate::certs::mint::{CENTURY_DAYS, Ca, Error, KeyKind, LeafSpec, Usages, Validity, write_dir};
use crate::knative::names;

/// The name on every good leaf: a queue in namespace `demo`.
pub const NAME: &str = "kn-user-demo";

/// Writes all of them below `dir`.
///
/// # Errors
/// One can't be made or written.
pub fn write(dir: &Path) -> Result<(), Error> {
    let root = Ca::new("lockkeeper fixtures root", KeyKind::P256)?;
    let other = Ca::new("lockkeeper fixtures other root", KeyKind::P256)?;
    let good = || LeafSpec { validity: Validity::days(CENTURY_DAYS), ..LeafSpec::new([NAME]) };
    let put = |name: &str, ca: &Ca, spec: &LeafSpec| -> Result<(), Error> {
        Ok(write_dir(&dir.join(name), &ca.leaf(spec)?, root.root_pem())?)
    };

    for kind in KeyKind::ALL {
        put(&format!("good/{}", kind.name()), &root, &LeafSpec { key_kind: kind, ..good() })?;
        if kind != KeyKind::Ed25519 {
            let spec = LeafSpec { key_kind: kind, encoding: Encoding::Traditional, ..good() };
            put(&format!("good/{}-traditional", kind.name()), &root, &spec)?;
        }
    }
    let intermediate = root.intermediate("lockkeeper fixtures intermediate", KeyKind::P384)?;
    put("good/intermediate", &intermediate, &good())?;
    let longest = format!("kn-user-{}", "n".repeat(63));
    put("good/longest-namespace", &root, &LeafSpec { sans: vec![longest], ..good() })?;
    put("good/routing", &root, &LeafSpec { sans: vec![names::SAN_ROUTING.to_owned()], ..good() })?;
    let legacy = names::SAN_LEGACY.to_owned();
    put("good/legacy-name", &root, &LeafSpec { sans: vec![NAME.to_owned(), legacy.clone()], ..good() })?;

    put("broken/expired", &root, &LeafSpec { validity: Validity::expired(), ..good() })?;
    let begins = time::OffsetDateTime::now_utc() + time::Duration::days(CENTURY_DAYS);
    let later = Validity { not_before: begins, not_after: begins + time::Duration::days(1) };
    put("broken/not-yet-valid", &root, &LeafSpec { validity: later, ..good() })?;
    put("broken/wrong-san", &root, &LeafSpec { sans: vec!["kn-user-other".to_owned()], ..good() })?;
    put("broken/legacy-only", &root, &LeafSpec { sans: vec![legacy], ..good() })?;
    put("broken/no-san", &root, &LeafSpec { sans: Vec::new(), ..good() })?;
    put("broken/other-ca", &other, &good())?;
    put("broken/client-only", &root, &LeafSpec { usages: Usages::Client, ..good() })?;

    let mut pair = intermediate.leaf(&good())?;
    let end = pair.cert_pem.find(END).map_or(0, |at| at + END.len());
    pair.cert_pem.truncate(end);
    write_dir(&dir.join("broken/missing-intermediate"), &pair, root.root_pem())?;

    let mut pair = root.leaf(&good())?;
    pair.key_pem = root.leaf(&good())?.key_pem;
    write_dir(&dir.join("broken/mismatched-key"), &pair, root.root_pem())?;
    pair.cert_pem = "this is no certificate\n".to_owned();
    write_dir(&dir.join("broken/junk"), &pair, root.root_pem())?;

    fs::create_dir_all(dir.join("bundle"))?;
    fs::write(dir.join("bundle/two.crt"), format!("{}{}", root.root_pem(), other.root_pem()))?;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(dir.join("bundle/one-invalid.crt"), format!("{}{broken}{}", root.root_pem(), other.root_pem()))?;
    fs::write(dir.join("bundle/none-valid.crt"), broken)?;
    Ok(())
}

const END: &str = "-----END CERTIFICATE-----\n";
