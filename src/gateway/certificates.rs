//! Which Secret serves which host, and the certificates in force.
//!
//! Control side; pure but for parsing certificates. A Secret is parsed once, however many hosts it serves. One that
//! can't be used never replaces the last good pair. A host's certificate counts for the object that owns the host: no
//! other object can claim its name.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::route::table::Side;
use crate::knative::names;
use crate::knative::secret::Secret;
use crate::kube::Key;
use crate::tls::identity::Identity;
use crate::tls::resolver::Names;

/// A host, on one side, with the Secret that serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// On which side.
    pub side: Side,
    /// The host, in lower case.
    pub host: String,
    /// The Secret.
    pub secret: Key,
}

/// Certificates in force, and what they follow from.
#[derive(Default)]
pub struct Certificates {
    secrets: HashMap<Key, Known>,
    entries: HashMap<Key, BTreeSet<Entry>>,
    users: HashMap<Key, BTreeSet<Key>>,
    defaults: BTreeMap<Side, Key>,
    external: Names,
    internal: Names,
    /// Secrets that are named, or are there, other than before.
    unsettled: BTreeSet<Key>,
    /// Secrets that are named and can't be used as they are.
    unusable: BTreeSet<Key>,
    read: u64,
}

/// What is known of a Secret.
#[derive(Default)]
struct Known {
    /// What was judged last.
    judged: Option<Arc<Secret>>,
    /// The last pair that could be used.
    good: Option<Arc<Identity>>,
    /// What is wrong with it now.
    wrong: Option<String>,
    present: bool,
}

impl Certificates {
    /// A Secret is as told, or gone; says which objects it matters to.
    pub fn secret(&mut self, key: &Key, secret: Option<&Arc<Secret>>) -> BTreeSet<Key> {
        let known = self.secrets.entry(key.clone()).or_default();
        if secret.is_some() && known.judged.as_ref() == secret {
            return BTreeSet::new();
        }
        known.judged = secret.cloned();
        if known.present != secret.is_some() {
            known.present = secret.is_some();
            self.unsettled.insert(key.clone());
        }
        match secret {
            None => known.wrong = Some(format!("Secret {key} does not exist")),
            Some(secret) => {
                self.read += 1;
                let pair = Identity::from_pem(secret.value(names::FILE_CERTIFICATE), secret.value(names::FILE_KEY));
                match pair {
                    Ok(identity) => {
                        known.good = Some(Arc::new(identity));
                        known.wrong = None;
                    }
                    Err(rejection) => {
                        let wrong = format!("Secret {key}: {rejection}");
                        let kept = if known.good.is_some() { "; its last good certificate stays in use" } else { "" };
                        tracing::error!("{wrong}{kept}");
                        known.wrong = Some(wrong);
                    }
                }
            }
        }
        let users = self.users.get(key).cloned().unwrap_or_default();
        let entries: Vec<Entry> = users.iter().filter_map(|user| self.entries.get(user)).flatten().cloned().collect();
        for entry in entries.iter().filter(|entry| entry.secret == *key) {
            self.apply(entry, true);
        }
        if self.is_default(key) {
            self.apply_defaults();
        }
        if secret.is_none() && !self.is_named(key) {
            self.secrets.remove(key);
        }
        self.judge(key);
        users
    }

    /// The hosts of an object are served by these; none when it is gone.
    pub fn object(&mut self, object: &Key, entries: BTreeSet<Entry>) {
        let before = self.entries.remove(object).unwrap_or_default();
        // A host whose new Secret is not there yet keeps the certificate that it has.
        let good = |secret: &Key| self.secrets.get(secret).is_some_and(|known| known.good.is_some());
        let bare: BTreeSet<(Side, String)> = entries
            .iter()
            .filter(|entry| !good(&entry.secret))
            .map(|entry| (entry.side, entry.host.clone()))
            .filter(|place| before.iter().any(|entry| (entry.side, &entry.host) == (place.0, &place.1)))
            .collect();
        let keeps = |entry: &Entry| bare.contains(&(entry.side, entry.host.clone()));
        for entry in before.difference(&entries).filter(|entry| !keeps(entry)) {
            self.apply(entry, false);
        }
        for entry in &before {
            if let Some(users) = self.users.get_mut(&entry.secret) {
                users.remove(object);
                if users.is_empty() {
                    self.users.remove(&entry.secret);
                }
            }
        }
        for entry in &entries {
            self.users.entry(entry.secret.clone()).or_default().insert(object.clone());
            self.unsettled.insert(entry.secret.clone());
            self.judge(&entry.secret);
            if !keeps(entry) {
                self.apply(entry, true);
            }
        }
        if !entries.is_empty() {
            self.entries.insert(object.clone(), entries);
        }
        let gone: BTreeSet<Key> = before.into_iter().map(|entry| entry.secret).collect();
        self.unsettled.extend(gone.iter().cloned());
        for key in &gone {
            if !self.users.contains_key(key) && self.secrets.get(key).is_some_and(|known| !known.present) {
                self.secrets.remove(key);
            }
            self.judge(key);
        }
    }

    /// Takes the certificates of those hosts of an object away that are not among `entries`. When hosts change hands, to be
    /// called for each object before any of them gets its new ones ([`Self::object`]).
    pub fn keep(&mut self, object: &Key, entries: &BTreeSet<Entry>) {
        let Some(before) = self.entries.get(object) else { return };
        let hosts: BTreeSet<(Side, &str)> = entries.iter().map(|entry| (entry.side, &*entry.host)).collect();
        let kept = before.iter().filter(|entry| hosts.contains(&(entry.side, &*entry.host))).cloned().collect();
        self.object(object, kept);
    }

    /// The Secret for hosts of a side without one of their own.
    pub fn set_default(&mut self, side: Side, secret: Option<Key>) {
        let before = match secret.clone() {
            Some(key) => self.defaults.insert(side, key),
            None => self.defaults.remove(&side),
        };
        for key in secret.into_iter().chain(before) {
            self.judge(&key);
            self.unsettled.insert(key);
        }
        self.apply_defaults();
    }

    /// What is wrong with the certificates of an object, for its status.
    #[must_use]
    pub fn wrong(&self, object: &Key) -> Option<String> {
        let entries = self.entries.get(object)?;
        entries.iter().find_map(|entry| match self.secrets.get(&entry.secret) {
            None => Some(format!("Secret {} does not exist", entry.secret)),
            Some(known) => known.wrong.as_ref().map(|wrong| match known.good {
                Some(_) => format!("{wrong}; its last good certificate stays in use"),
                None => wrong.clone(),
            }),
        })
    }

    /// Whether an object or a default names the Secret.
    #[must_use]
    pub fn is_named(&self, secret: &Key) -> bool {
        self.users.contains_key(secret) || self.is_default(secret)
    }

    /// How many Secrets are named and can't be used as they are: they don't exist, or hold no sound pair.
    #[must_use]
    pub fn unusable(&self) -> usize {
        self.unusable.len()
    }

    /// Secrets that may be named, or be there, other than when this was asked last.
    pub fn take_unsettled(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.unsettled)
    }

    /// How many certificates have been parsed so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Whether a Secret was found.
    #[must_use]
    pub fn has(&self, secret: &Key) -> bool {
        self.secrets.get(secret).is_some_and(|known| known.present)
    }

    /// The names in force, to be published.
    #[must_use]
    pub fn names(&self, side: Side) -> Names {
        self.of(side).clone()
    }

    /// The certificates in force with the hosts that they serve, for the admin port.
    pub fn list(&self) -> impl Iterator<Item = (&Entry, Option<&Arc<Identity>>)> {
        let good = |entry: &Entry| self.secrets.get(&entry.secret).and_then(|known| known.good.as_ref());
        self.entries.values().flatten().map(move |entry| (entry, good(entry)))
    }

    /// Whether a host of an object can be reached over TLS; `has_tls` says whether the object has a certificate on that side.
    #[must_use]
    pub fn reaches(&self, side: Side, host: &str, has_tls: bool) -> bool {
        reaches(self.of(side), host, has_tls)
    }

    fn of(&self, side: Side) -> &Names {
        match side {
            Side::External => &self.external,
            Side::Internal => &self.internal,
        }
    }

    fn is_default(&self, secret: &Key) -> bool {
        self.defaults.values().any(|default| default == secret)
    }

    fn judge(&mut self, secret: &Key) {
        let sound = self.secrets.get(secret).is_some_and(|known| known.wrong.is_none());
        if sound || !self.is_named(secret) {
            self.unusable.remove(secret);
        } else {
            self.unusable.insert(secret.clone());
        }
    }

    fn apply(&mut self, entry: &Entry, on: bool) {
        let good = self.secrets.get(&entry.secret).and_then(|known| known.good.clone());
        let names = match entry.side {
            Side::External => &mut self.external,
            Side::Internal => &mut self.internal,
        };
        names.set(&entry.host, good.filter(|_| on));
    }

    fn apply_defaults(&mut self) {
        let good = |side| {
            let key = self.defaults.get(&side)?;
            self.secrets.get(key)?.good.clone()
        };
        let (external, internal) = (good(Side::External), good(Side::Internal));
        self.external.set_default(external);
        self.internal.set_default(internal);
    }
}

/// Whether requests to a host are served over TLS: there is a certificate to shake hands with, and either the object that
/// has the host has one (`has_tls`), or there is a default.
#[must_use]
pub fn reaches(names: &Names, host: &str, has_tls: bool) -> bool {
    (has_tls || names.find(None).is_some()) && names.find(Some(host)).is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret(name: &str) -> Arc<Secret> {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let pair = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
        Arc::new(Secret { data: pair.into_iter().map(|(k, v)| (k.to_owned(), v.into_bytes())).collect() })
    }

    fn entry(host: &str, secret: &Key) -> Entry {
        Entry { side: Side::External, host: host.to_owned(), secret: secret.clone() }
    }

    fn shown(certificates: &Certificates, host: &str) -> Option<String> {
        let names = certificates.names(Side::External);
        names.find(Some(host)).map(|identity| String::from_utf8(identity.leaf.names[0].clone()).unwrap())
    }

    #[test]
    fn given_a_secret_that_comes_late_changes_and_goes_bad_then_the_last_good_one_is_served() {
        let (mut certificates, key, object) = (Certificates::default(), Key::new("ns", "s"), Key::new("ns", "app"));
        certificates.object(&object, BTreeSet::from([entry("a", &key)]));
        assert_eq!(certificates.wrong(&object).unwrap(), "Secret ns/s does not exist");
        assert_eq!((shown(&certificates, "a"), certificates.unusable()), (None, 1));

        assert_eq!(certificates.secret(&key, Some(&secret("first"))), BTreeSet::from([object.clone()]));
        assert_eq!((shown(&certificates, "a").as_deref(), certificates.wrong(&object)), (Some("first"), None));
        assert_eq!(certificates.unusable(), 0);
        certificates.secret(&key, Some(&secret("second")));
        assert_eq!(shown(&certificates, "a").as_deref(), Some("second"));
        assert_eq!(certificates.take_unsettled(), BTreeSet::from([key.clone()]));
        let (read, again) = (certificates.read(), certificates.secrets[&key].judged.clone());
        assert_eq!(certificates.secret(&key, again.as_ref()), BTreeSet::new());
        assert_eq!((certificates.read(), certificates.take_unsettled().len()), (read, 0), "the same is not read twice");

        certificates.secret(&key, Some(&Arc::new(Secret { data: BTreeMap::new() })));
        assert_eq!(shown(&certificates, "a").as_deref(), Some("second"));
        assert!(certificates.wrong(&object).unwrap().starts_with("Secret ns/s: "));
        assert_eq!(certificates.unusable(), 1);
        certificates.secret(&key, None);
        assert_eq!(shown(&certificates, "a").as_deref(), Some("second"));

        certificates.object(&object, BTreeSet::new());
        assert_eq!(shown(&certificates, "a"), None);
        assert!(certificates.secrets.is_empty() && certificates.users.is_empty());
        assert_eq!(certificates.unusable(), 0, "nobody asks for it any more");
    }

    #[test]
    fn given_an_object_that_names_another_secret_when_that_comes_later_then_the_old_certificate_serves_until_then() {
        let (mut certificates, object) = (Certificates::default(), Key::new("ns", "app"));
        let (one, two) = (Key::new("ns", "one"), Key::new("ns", "two"));
        certificates.secret(&one, Some(&secret("one")));
        certificates.object(&object, BTreeSet::from([entry("a", &one), entry("b", &one)]));
        certificates.object(&object, BTreeSet::from([entry("a", &two)]));
        assert_eq!((shown(&certificates, "a").as_deref(), shown(&certificates, "b")), (Some("one"), None));
        assert_eq!(certificates.wrong(&object).unwrap(), "Secret ns/two does not exist");
        certificates.object(&object, BTreeSet::from([entry("a", &two)]));
        assert_eq!(shown(&certificates, "a").as_deref(), Some("one"));

        certificates.secret(&two, Some(&secret("two")));
        assert_eq!((shown(&certificates, "a").as_deref(), certificates.wrong(&object)), (Some("two"), None));
        certificates.object(&object, BTreeSet::new());
        assert_eq!(shown(&certificates, "a"), None);
    }

    #[test]
    fn given_a_default_when_a_host_has_none_of_its_own_then_it_is_shown_and_follows_its_secret() {
        let (mut certificates, key) = (Certificates::default(), Key::new("ns", "default"));
        certificates.set_default(Side::External, Some(key.clone()));
        assert_eq!((shown(&certificates, "a"), certificates.unusable()), (None, 1));

        certificates.secret(&key, Some(&secret("one")));
        assert_eq!(shown(&certificates, "a").as_deref(), Some("one"));
        certificates.secret(&key, Some(&secret("two")));
        assert_eq!(shown(&certificates, "a").as_deref(), Some("two"));
        assert!(certificates.is_named(&key));

        certificates.set_default(Side::External, None);
        assert_eq!((shown(&certificates, "a"), certificates.unusable()), (None, 0));
    }
}
