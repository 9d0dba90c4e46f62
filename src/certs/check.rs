//! Says whether a directory of certificates would work for a role, and if not, why and what to do.
//!
//! Called by `certs check`. It uses the very loaders and the very verifier of [`crate::tls`], so that what it accepts is
//! what a role serves and what a peer verifies.
use std::fs;
use std::path::Path;

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use crate::tls::error::{Error, Reason};
use crate::tls::expiry::date;
use crate::tls::identity::{self, Identity};
use crate::tls::policy::Policy;
use crate::tls::source_dir::{Directory, Found};
use crate::tls::verifier::{ExpectedSan, Verifier};
use crate::tls::{expiry, provider, san, trust};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Good.
    Good(String),
    /// It works, but not for long or not for everybody.
    Warning(String),
    /// It would not work: what is wrong, and what to do.
    Bad {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
}

/// Whether nothing of it is bad.
pub fn works(findings: &[Finding]) -> bool {
    !findings.iter().any(|finding| matches!(finding, Finding::Bad { .. }))
}

/// Looks at `dir` as a role would that must present `expected`.
pub fn directory(dir: &Path, expected: &str) -> Vec<Finding> {
    let identities = identity::Store::new();
    let trusted = trust::Store::new();
    let source = Directory::new(dir, identities.clone()).trust(trusted.clone());
    let mut findings = Vec::new();
    match source.load_once() {
        Ok(Found::Pair) => findings.push(Finding::Good("tls.crt and tls.key are a pair".to_owned())),
        Ok(Found::Nothing) => findings.push(bad(
            format!("tls.crt or tls.key is missing in {}: TLS would be off", dir.display()),
            "mount the Secret that the certificate is stored in (its keys are tls.crt, tls.key and ca.crt)",
        )),
        Err(error) => {
            findings.push(bad(error.to_string(), "issue the certificate again and store it with its own key"))
        }
    }
    if let Some(identity) = identities.current() {
        leaf(&identity, expected, &mut findings);
        chain(&identity, &trusted, dir, expected, &mut findings);
    }
    findings
}

fn leaf(identity: &Identity, expected: &str, findings: &mut Vec<Finding>) {
    let now = OffsetDateTime::now_utc();
    let leaf = &identity.leaf;
    if leaf.has_name(expected.as_bytes()) {
        findings.push(Finding::Good(format!("it bears the name {expected}")));
    } else {
        let what = format!("it does not bear the name {expected}, but: {}", san::in_words(&leaf.names));
        findings.push(bad(what, &format!("issue a certificate whose dNSNames contain {expected}")));
    }
    if !leaf.key.is_supported() {
        findings.push(bad(format!("its key is {}", leaf.key), "use RSA from 2048 bits, ECDSA or Ed25519"));
    }
    if leaf.not_after < now {
        findings.push(bad(format!("it expired at {}", date(leaf.not_after)), "renew it"));
    } else if now < leaf.not_before {
        findings.push(bad(format!("it is not valid before {}", date(leaf.not_before)), "wait, or compare the clocks"));
    } else if let Some(warning) = expiry::Watch::default().due(leaf, now) {
        findings.push(Finding::Warning(warning));
    } else {
        findings.push(Finding::Good(format!("it is valid until {}", date(leaf.not_after))));
    }
}

fn chain(identity: &Identity, trusted: &trust::Store, dir: &Path, expected: &str, findings: &mut Vec<Finding>) {
    let Some(roots) = trusted.roots() else {
        findings.push(match fs::exists(dir.join("ca.crt")) {
            Ok(true) => bad("ca.crt holds no valid authority".to_owned(), "store the authority's certificate in it"),
            _ => Finding::Warning("there is no ca.crt: whether peers trust this certificate can't be said".to_owned()),
        });
        return;
    };
    if trusted.skipped() > 0 {
        let what = format!("{} block(s) of ca.crt are not valid and are skipped", trusted.skipped());
        findings.push(Finding::Warning(what));
    }
    let algorithms = provider::provider(&Policy::default()).signature_verification_algorithms;
    let verifier = Verifier::new(roots, ExpectedSan::new(expected), algorithms);
    let Some((first, rest)) = identity.certified.cert.split_first() else { return };
    match verifier.verify(first, rest, UnixTime::now()) {
        Ok(()) => findings.push(Finding::Good("a peer that trusts ca.crt accepts it".to_owned())),
        Err(error) => {
            let error = Error::from_rustls(&error);
            // The name is the last thing that is checked, and has its finding already.
            if error.reason() == Reason::SanMismatch {
                findings.push(Finding::Good("its chain leads to ca.crt".to_owned()));
                return;
            }
            let remedy = "make tls.crt the leaf followed by its intermediates, issued by an authority in ca.crt, for \
                          server authentication";
            findings.push(bad(format!("a peer that trusts ca.crt refuses it: {error} ({})", error.token()), remedy));
        }
    }
}

fn bad(what: String, remedy: &str) -> Finding {
    Finding::Bad { what, remedy: remedy.to_owned() }
}
