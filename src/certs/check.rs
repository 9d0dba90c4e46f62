//! Says whether a directory of certificates would work for a role, and if not, why and what to do.
//!
//! Called by `certs check` and by `local --certs-dir`. Pairs, authorities and chains are judged by the very functions
//! and verifiers of [`crate::tls`], so that what is accepted here is what a role serves and what a peer verifies.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use time::OffsetDateTime;

use crate::certs::words::printable;
use crate::knative::names::{FILE_CA, FILE_CERTIFICATE, FILE_KEY, SAN_LEGACY};
use crate::tls::client_auth::{Allowed, ClientAuth};
use crate::tls::error::{Error, Reason};
use crate::tls::expiry::date;
use crate::tls::identity::{self, Identity, Leaf};
use crate::tls::policy::Policy;
use crate::tls::verifier::{ExpectedSan, Verifier};
use crate::tls::{expiry, pem, provider, san, trust};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Good.
    Good(String),
    /// It works, but not for long or not for everybody.
    Warning(String),
    /// It would not work: what is wrong, and what to do.
    Bad {
        /// What is wrong; begins with the path of the file.
        what: String,
        /// What was expected, or what to do.
        remedy: String,
    },
}

/// What a directory has to be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The name that peers compare, exactly.
    pub name: String,
    /// What the role does with its certificate.
    pub shown_to: Peers,
    /// Whether it has to work for callers that expect the legacy name as well.
    pub legacy_name: bool,
}

/// To whom a role shows its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// To callers: the queue.
    Callers,
    /// To callers, and to the queues that it calls and that ask for one (`LOCKKEEPER_CLIENT_AUTH`): the activator.
    CallersAndCalled,
    /// Only to those that it calls and that ask for one: the gateway.
    Called,
}

impl Purpose {
    /// A queue's, which has to bear `name`.
    pub fn queue(name: impl Into<String>) -> Self {
        Self { name: name.into(), shown_to: Peers::Callers, legacy_name: false }
    }
}

/// Whether nothing of it is bad.
pub fn works(findings: &[Finding]) -> bool {
    !findings.iter().any(|finding| matches!(finding, Finding::Bad { .. }))
}

/// Looks at `dir` as a role and its peers would.
pub fn directory(dir: &Path, purpose: &Purpose) -> Vec<Finding> {
    let mut set = Set { dir, purpose, findings: Vec::new() };
    set.look();
    set.findings
}

/// A directory that is being looked at.
struct Set<'a> {
    dir: &'a Path,
    purpose: &'a Purpose,
    findings: Vec<Finding>,
}

impl Set<'_> {
    fn look(&mut self) {
        match fs::metadata(self.dir) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return self.no_directory("it is not a directory"),
            Err(error) => return self.no_directory(&error.to_string()),
        }
        let (certificate, key) = (self.read(FILE_CERTIFICATE), self.read(FILE_KEY));
        let trusted = self.authorities();
        let (Some(certificate), Some(key)) = (certificate, key) else { return };
        match Identity::from_pem(&certificate, &key) {
            Ok(identity) => {
                self.good("tls.crt and tls.key are a pair");
                self.name(&identity.leaf);
                self.time(&identity.leaf);
                if let Some(trusted) = trusted {
                    self.chain(&identity, &trusted);
                }
            }
            Err(rejection) => self.no_pair(&certificate, &rejection),
        }
    }

    fn no_directory(&mut self, why: &str) {
        let what = format!("{}: {why}", self.dir.display());
        self.bad(what, "expected a directory with tls.crt, tls.key and ca.crt");
    }

    /// The bytes of a file of the pair, without which a role has no TLS.
    fn read(&mut self, file: &str) -> Option<Vec<u8>> {
        match fs::read(self.dir.join(file)) {
            Ok(bytes) => return Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let remedy =
                    "mount the Secret that the certificate is stored in: its keys are tls.crt, tls.key and ca.crt";
                self.bad_file(file, "it is missing, so TLS would be off", remedy);
            }
            Err(error) => self.bad_file(file, &error.to_string(), "make it readable to the role's user"),
        }
        None
    }

    /// The authorities in `ca.crt`, if there is a valid one.
    fn authorities(&mut self) -> Option<Arc<trust::Store>> {
        let remedy = "store the certificate of the authority that issues the peers' certificates in it, as PEM";
        let text = match fs::read(self.dir.join(FILE_CA)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let consequence = match self.purpose.shown_to {
                    Peers::Callers => "",
                    Peers::CallersAndCalled | Peers::Called => {
                        ", and without a trust bundle this role can verify nobody"
                    }
                };
                let what = format!("there is no ca.crt: whether peers trust tls.crt can't be said{consequence}");
                self.findings.push(Finding::Warning(what));
                return None;
            }
            Err(error) => {
                self.bad_file(FILE_CA, &error.to_string(), "make it readable to the role's user");
                return None;
            }
        };
        let trusted = trust::Store::new();
        trusted.set_source(FILE_CA, &text);
        if trusted.roots().is_none() {
            self.bad_file(FILE_CA, "it holds no valid certificate authority", remedy);
            return None;
        }
        if trusted.skipped() > 0 {
            let what = format!("{} block(s) of ca.crt are not valid and are skipped", trusted.skipped());
            self.findings.push(Finding::Warning(what));
        }
        Some(trusted)
    }

    fn no_pair(&mut self, certificate: &[u8], rejection: &identity::Rejection) {
        use identity::Reason as R;
        let kind =
            pem::certificates(certificate).ok().and_then(|chain| Leaf::of(chain.first()?).ok()).map(|leaf| leaf.key);
        let detail = match kind.filter(|kind| rejection.reason == R::BadKey && !kind.is_supported()) {
            Some(kind) => format!("the key of tls.crt is {kind}, which is too weak or unknown"),
            None => rejection.detail.clone(),
        };
        let (file, remedy) = match rejection.reason {
            R::BadKey => (
                FILE_KEY,
                "expected the private key of tls.crt as PEM, without a password: RSA from 2048 bits, ECDSA on P-256, P-384 \
                 or P-521, or Ed25519",
            ),
            R::KeyMismatch => (
                FILE_KEY,
                "expected the private key of the first certificate in tls.crt; store both as they were issued",
            ),
            R::Unreadable | R::BadCertificate | R::Expired | R::NotYetValid => (
                FILE_CERTIFICATE,
                "expected PEM, each certificate from -----BEGIN CERTIFICATE-----: the role's own one, then its \
                 intermediates",
            ),
        };
        self.bad_file(file, &printable(&detail), remedy);
    }

    fn name(&mut self, leaf: &Leaf) {
        let expected = self.purpose.name.as_str();
        let legacy = leaf.has_name(SAN_LEGACY.as_bytes());
        let serves = self.purpose.shown_to == Peers::Callers;
        if leaf.has_name(expected.as_bytes()) {
            self.good(&format!("tls.crt bears the name {expected}"));
        } else {
            let what = format!("it does not bear the name {expected}, but: {}", san::in_words(&leaf.names));
            let mut remedy = format!("issue a certificate whose dNSNames contain {expected}");
            if legacy && serves {
                remedy += &format!(
                    "; {SAN_LEGACY} alone is accepted by lockkeeper's activator with LOCKKEEPER_ACCEPT_LEGACY_SAN=true"
                );
            }
            self.bad_file(FILE_CERTIFICATE, &what, &remedy);
        }
        let who = match serves {
            true => "Knative's own activator and older releases",
            false => "older releases",
        };
        if legacy {
            self.good(&format!("tls.crt bears the legacy name {SAN_LEGACY}, which {who} expect too"));
        } else if self.purpose.legacy_name {
            let what = format!("it does not bear the legacy name {SAN_LEGACY}, which {who} expect too");
            let remedy = format!("issue a certificate whose dNSNames contain {SAN_LEGACY} beside {expected}");
            self.bad_file(FILE_CERTIFICATE, &what, &remedy);
        } else if serves {
            let what = format!(
                "tls.crt does not bear the legacy name {SAN_LEGACY}: {who} refuse it; lockkeeper's roles and Kourier do not \
                 need it"
            );
            self.findings.push(Finding::Warning(what));
        }
    }

    fn time(&mut self, leaf: &Leaf) {
        let now = OffsetDateTime::now_utc();
        if leaf.not_after < now {
            self.bad_file(FILE_CERTIFICATE, &format!("it expired at {}", date(leaf.not_after)), "renew it");
        } else if now < leaf.not_before {
            let what = format!("it is not valid before {}", date(leaf.not_before));
            self.bad_file(FILE_CERTIFICATE, &what, "wait, or compare the clocks");
        } else if let Some(warning) = expiry::Watch::default().due(leaf, now) {
            self.findings.push(Finding::Warning(warning));
        } else {
            self.good(&format!("tls.crt is valid until {}", date(leaf.not_after)));
        }
    }

    fn chain(&mut self, identity: &Identity, trusted: &Arc<trust::Store>) {
        if self.purpose.shown_to != Peers::Called {
            match as_server(identity, trusted, &self.purpose.name) {
                Ok(()) => self.good("its chain leads to an authority in ca.crt, for a server"),
                Err(error) => {
                    let (what, remedy) = refused("a caller", &error, identity, trusted, "server");
                    return self.bad_file(FILE_CERTIFICATE, &what, &remedy);
                }
            }
        }
        if self.purpose.shown_to == Peers::Callers {
            return;
        }
        let Err(error) = as_client(identity, trusted) else {
            return self.good("its chain leads to an authority in ca.crt, for a client");
        };
        let who = "a queue or activator with LOCKKEEPER_CLIENT_AUTH";
        let (what, remedy) = refused(who, &error, identity, trusted, "client");
        match self.purpose.shown_to {
            Peers::Called => self.bad_file(FILE_CERTIFICATE, &what, &remedy),
            _ => self.findings.push(Finding::Warning(format!("tls.crt: {what}; {remedy}"))),
        }
    }

    fn good(&mut self, what: &str) {
        self.findings.push(Finding::Good(what.to_owned()));
    }

    fn bad_file(&mut self, file: &str, what: &str, remedy: &str) {
        let path: PathBuf = self.dir.join(file);
        self.bad(format!("{}: {what}", path.display()), remedy);
    }

    fn bad(&mut self, what: String, remedy: &str) {
        self.findings.push(Finding::Bad { what, remedy: remedy.to_owned() });
    }
}

/// Whether a caller that trusts `trusted` accepts the chain. Name and time of the leaf have findings of their own.
fn as_server(identity: &Identity, trusted: &trust::Store, name: &str) -> Result<(), Error> {
    let (Some(roots), Some((first, rest))) = (trusted.roots(), identity.certified.cert.split_first()) else {
        return Ok(());
    };
    let algorithms = provider::provider(&Policy::default()).signature_verification_algorithms;
    let verified = Verifier::new(roots, ExpectedSan::new(name), algorithms).verify(first, rest, within(&identity.leaf));
    match verified.map_err(|error| Error::from_rustls(&error)) {
        Err(error) if error.reason() == Reason::SanMismatch => Ok(()),
        verified => verified,
    }
}

/// Whether a server that asks its callers for certificates accepts the chain, whatever its names.
fn as_client(identity: &Identity, trusted: &Arc<trust::Store>) -> Result<(), Error> {
    let provider = provider::provider(&Policy::default());
    let verifier = ClientAuth::Require(Allowed::anybody(Arc::clone(trusted))).verifier(&provider);
    let (Some(verifier), Some((first, rest))) = (verifier, identity.certified.cert.split_first()) else {
        return Ok(());
    };
    let verified = verifier.verify_client_cert(first, rest, within(&identity.leaf));
    verified.map(|_| ()).map_err(|error| Error::from_rustls(&error))
}

/// Now, or the nearest moment at which the leaf is valid, so that a chain can be judged apart from the leaf's dates.
fn within(leaf: &Leaf) -> UnixTime {
    let moment = OffsetDateTime::now_utc().min(leaf.not_after).max(leaf.not_before);
    let seconds = u64::try_from(moment.unix_timestamp()).unwrap_or_default();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

/// What is wrong with a chain that `who` refuses, and what to do.
fn refused(who: &str, error: &Error, identity: &Identity, trusted: &trust::Store, usage: &str) -> (String, String) {
    let mut what = format!("{who} refuses it: {error} ({})", error.token());
    let remedy = match error.reason() {
        Reason::UnknownCa => {
            let last = identity.certified.cert.last().and_then(|der| Leaf::of(der).ok());
            let anchors = trusted.snapshot().map(|snapshot| {
                snapshot.anchors.iter().map(|anchor| printable(&anchor.subject)).collect::<Vec<_>>().join("; ")
            });
            if let (Some(last), Some(anchors)) = (last, anchors) {
                what +=
                    &format!("; its chain ends with the issuer {}, ca.crt holds {anchors}", printable(&last.issuer));
            }
            "append that issuer's certificate to tls.crt if it is an intermediate, or store it in ca.crt if it is the \
             authority"
                .to_owned()
        }
        Reason::WrongUsage => format!("issue it for {usage} authentication (extended key usage {usage}Auth)"),
        Reason::WeakAlgorithm => "have it signed with SHA-256 or better, by a key that is not weak".to_owned(),
        _ => "make tls.crt the role's certificate, then its intermediates, issued by an authority in ca.crt".to_owned(),
    };
    (what, remedy)
}
