//! Everything that the gateway knows, and what follows from it: the routing table, the backends, the certificates and
//! how far each object has come.
//!
//! Control side; pure: [`super::control`] feeds it and publishes what it holds. The work for a change is that of the
//! objects that the change touches.
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::backends::{self, Backend, Backends};
use super::certificates::{Certificates, Entry};
use super::objects::{EndpointSlice, Ingress, Service};
use super::route::compile::{self, Compiled, HostRoutes};
use super::route::owners::Owners;
use super::status::target::{self, ToProbe};
use super::status::{Outcome, RECONCILE_FAILED, SECRET_NOT_PERMITTED};
use crate::knative::ingress::{Spec, Tls, Visibility, hosts};
use crate::knative::secret::Secret;
use crate::kube::Key;

/// For how long new routes wait for the Services and addresses that they lead to. Kinds are watched apart, so that an
/// object may be told before what was written before it; a route that really leads nowhere is in force after that.
pub const HOLD: Duration = Duration::from_secs(5);

/// Everything that the gateway knows.
pub struct State {
    class: String,
    /// Namespaces whose Secrets every object may name; `*`: all.
    shared_secrets: Vec<String>,
    owners: Owners<Arc<Backend>>,
    /// Addresses and protocols.
    pub backends: Backends,
    /// Certificates by host.
    pub certificates: Certificates,
    objects: HashMap<Key, Known>,
    /// Routes that are not in force yet.
    held: BTreeMap<Key, Held>,
    /// Objects whose status has to be looked at again.
    touched: HashSet<Key>,
    /// Whether system-internal TLS is on, and whether there is anything to verify with.
    upstream_tls: (bool, bool),
    /// Whether the routing table or the certificates have changed since they were taken.
    changed: bool,
    compiled: u64,
}

/// An object of ours.
struct Known {
    ingress: Arc<Ingress>,
    /// The specification that was compiled last, after defaults; with what is wrong with the present one.
    spec: Option<Spec>,
    hash: String,
    invalid: Option<String>,
}

/// New routes of an object whose old ones serve meanwhile.
struct Held {
    compiled: Compiled<Arc<Backend>>,
    /// What they wait for.
    awaited: Vec<Weak<Backend>>,
    /// When they wait no longer.
    until: Instant,
}

impl State {
    /// Nothing known yet. Objects may name Secrets of their own namespace and of `shared_secrets` (`*`: of all).
    #[must_use]
    pub fn new(class: &str, system_namespace: &str, shared_secrets: &[String]) -> Self {
        Self {
            class: class.to_owned(),
            shared_secrets: shared_secrets.to_vec(),
            owners: Owners::default(),
            backends: Backends::new(system_namespace),
            certificates: Certificates::default(),
            objects: HashMap::new(),
            held: BTreeMap::new(),
            touched: HashSet::new(),
            upstream_tls: (false, false),
            changed: true,
            compiled: 0,
        }
    }

    /// An object is as told, or gone.
    pub fn ingress(&mut self, key: &Key, ingress: Option<&Arc<Ingress>>, at: Instant) {
        // One that is being deleted is served until it is gone.
        match ingress.filter(|ingress| ingress.class == self.class) {
            None => self.forget(key),
            Some(ingress) => self.take(key, ingress, at),
        }
    }

    /// A Service is as told, or gone.
    pub fn service(&mut self, key: &Key, service: Option<Arc<Service>>, at: Instant) {
        self.backends.service(key, service, at);
    }

    /// A slice is as told, or gone.
    pub fn slice(&mut self, key: &Key, slice: &Arc<EndpointSlice>, gone: bool, at: Instant) {
        self.backends.slice(key, slice, gone, at);
    }

    /// A Secret is as told, or gone.
    pub fn secret(&mut self, key: &Key, secret: Option<&Arc<Secret>>) {
        let users = self.certificates.secret(key, secret);
        self.touched.extend(users);
        self.changed = true;
    }

    /// System-internal TLS is on or off; `trusts` says whether there is an authority to verify with.
    pub fn set_upstream_tls(&mut self, on: bool, trusts: bool, at: Instant) {
        if self.upstream_tls == (on, trusts) {
            return;
        }
        if self.upstream_tls.0 != on {
            self.backends.set_tls(on, at);
        }
        self.upstream_tls = (on, trusts);
        self.touch_all();
    }

    /// The status of every object has to be looked at again.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.objects.keys().cloned());
    }

    /// The certificates have changed otherwise (defaults).
    pub fn touch_certificates(&mut self) {
        self.changed = true;
    }

    /// The routing table, if anything in it or in the certificates has changed since it was asked for.
    pub fn take_changed(&mut self) -> Option<super::live::Routes> {
        std::mem::take(&mut self.changed).then(|| self.owners.table())
    }

    /// Objects whose status has to be looked at again.
    pub fn take_touched(&mut self) -> Vec<Key> {
        self.touched.drain().collect()
    }

    /// An object of ours.
    #[must_use]
    pub fn object(&self, key: &Key) -> Option<&Arc<Ingress>> {
        self.objects.get(key).map(|known| &known.ingress)
    }

    /// How often an object's routes have been compiled so far.
    #[must_use]
    pub fn compiled(&self) -> u64 {
        self.compiled
    }

    /// The hosts that an object wants and another has.
    #[must_use]
    pub fn conflicts(&self, key: &Key) -> Vec<&str> {
        self.owners.conflicts(&owner(key))
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// How far an object has come, as far as this process knows: never [`Outcome::Ready`], which only probing tells.
    #[must_use]
    pub fn outcome(&self, key: &Key) -> Option<Outcome> {
        let known = self.objects.get(key)?;
        let failed = |message| Some(Outcome::Failed { reason: RECONCILE_FAILED, message, certificate: false });
        if let Some(invalid) = &known.invalid {
            return failed(invalid.clone());
        }
        if !self.owners.conflicts(&owner(key)).is_empty() {
            return Some(Outcome::Conflict);
        }
        if let Some(secret) = known.spec.as_ref().and_then(|spec| self.foreign(key, spec)) {
            let message = format!(
                "Secret {secret} is not used: an Ingress may name Secrets of its own namespace, and of those in \
                 LOCKKEEPER_SHARED_SECRET_NAMESPACES"
            );
            return Some(Outcome::Failed { reason: SECRET_NOT_PERMITTED, message, certificate: false });
        }
        if let Some(wrong) = self.certificates.wrong(key) {
            return Some(Outcome::Failed { reason: RECONCILE_FAILED, message: wrong, certificate: true });
        }
        if self.upstream_tls == (true, false) {
            return failed("failed to build trust-chain: no certificate authority is known".to_owned());
        }
        Some(Outcome::Waiting)
    }

    /// What has to be asked of each replica about an object.
    #[must_use]
    pub fn to_probe(&self, key: &Key) -> Option<ToProbe> {
        let known = self.objects.get(key)?;
        let targets = target::of(known.spec.as_ref()?, &self.certificates);
        Some(ToProbe { hash: known.hash.clone(), targets })
    }

    fn take(&mut self, key: &Key, ingress: &Arc<Ingress>, at: Instant) {
        if self.objects.get(key).is_some_and(|known| Arc::ptr_eq(&known.ingress, ingress)) {
            return;
        }
        self.touched.insert(key.clone());
        let mut known = self.objects.remove(key).unwrap_or_else(|| Known {
            ingress: ingress.clone(),
            spec: None,
            hash: String::new(),
            invalid: None,
        });
        known.ingress = ingress.clone();
        let spec = match &ingress.spec {
            Ok(spec) => {
                let mut spec = spec.clone();
                spec.default_fields();
                spec
            }
            Err(why) => return self.refuse(key, known, why.clone()),
        };
        let unchanged = known.invalid.is_none()
            && known.spec.as_ref() == Some(&spec)
            && self.owners.has(&owner(key), ingress.created, compile::http1_only(&ingress.annotations));
        if unchanged {
            self.objects.insert(key.clone(), known);
            return;
        }
        let compiled = match self.compile(key, ingress, &spec, at) {
            Ok(compiled) => compiled,
            Err(why) => return self.refuse(key, known, why),
        };
        known.invalid = None;
        known.hash = compiled.origin.hash.to_str().unwrap_or_default().to_owned();
        known.spec = Some(spec);
        self.objects.insert(key.clone(), known);
        // A further change begins no new wait.
        let until = self.held.remove(key).map_or(at + HOLD, |held| held.until);
        let awaited = self.awaited(key, &compiled);
        if awaited.is_empty() || at >= until || !self.owners.knows(&owner(key)) {
            self.put(compiled);
        } else {
            self.held.insert(key.clone(), Held { compiled, awaited, until });
        }
    }

    /// What was served of an object before goes on.
    fn refuse(&mut self, key: &Key, mut known: Known, why: String) {
        tracing::error!("Ingress {key} is not served as it is: {why}");
        known.invalid = Some(why);
        self.objects.insert(key.clone(), known);
    }

    /// Puts those routes in force that wait for nothing any more. To be called after changes, and when
    /// [`Self::next_release`] has come.
    pub fn release(&mut self, at: Instant) {
        let ripe = |held: &Held| {
            at >= held.until || held.awaited.iter().all(|backend| backend.upgrade().is_none_or(|b| b.leads_somewhere()))
        };
        let keys: Vec<Key> = self.held.iter().filter(|(_, held)| ripe(held)).map(|(key, _)| key.clone()).collect();
        for held in keys.iter().filter_map(|key| self.held.remove(key)).collect::<Vec<_>>() {
            self.put(held.compiled);
        }
    }

    /// When routes that still wait have waited long enough.
    #[must_use]
    pub fn next_release(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// What new routes lead to and nobody is known to be at, except for what led nowhere before either.
    fn awaited(&self, key: &Key, compiled: &Compiled<Arc<Backend>>) -> Vec<Weak<Backend>> {
        let before: HashSet<_> =
            self.owners.routes(&owner(key)).flat_map(|host| backends_of(host)).map(Arc::as_ptr).collect();
        let now = compiled.hosts.iter().flat_map(backends_of);
        now.filter(|backend| !backend.leads_somewhere() && !before.contains(&Arc::as_ptr(backend)))
            .map(Arc::downgrade)
            .collect()
    }

    fn put(&mut self, compiled: Compiled<Arc<Backend>>) {
        let changed_hands = self.owners.put(compiled);
        self.follow(changed_hands);
    }

    fn compile(
        &mut self,
        key: &Key,
        ingress: &Ingress,
        spec: &Spec,
        at: Instant,
    ) -> Result<Compiled<Arc<Backend>>, String> {
        self.compiled += 1;
        let object = compile::Object {
            namespace: key.namespace().to_owned(),
            name: key.name().to_owned(),
            created: ingress.created,
            annotations: ingress.annotations.clone(),
            labels: ingress.labels.clone(),
            spec: spec.clone(),
        };
        let backends = &mut self.backends;
        compile::compile(object, |service, upstream| {
            let identity = backends::Identity {
                service: service.clone(),
                may_be_tls: upstream.may_be_tls,
                http1_only: upstream.origin.http1_only,
            };
            backends.backend(identity, at)
        })
        .map_err(|invalid| invalid.to_string())
    }

    fn forget(&mut self, key: &Key) {
        if self.objects.remove(key).is_none() {
            return;
        }
        self.held.remove(key);
        self.touched.insert(key.clone());
        self.certificates.object(key, BTreeSet::new());
        let heirs = self.owners.remove(&owner(key));
        self.follow(heirs);
    }

    /// Hosts changed hands: certificates follow, and conditions.
    fn follow(&mut self, objects: BTreeSet<(String, String)>) {
        self.changed = true;
        let keys = objects.into_iter().map(|(namespace, name)| Key::new(&namespace, &name));
        let now: Vec<_> = keys.map(|key| (self.entries(&key), key)).collect();
        for (entries, key) in &now {
            self.certificates.keep(key, entries);
        }
        for (entries, key) in now {
            self.certificates.object(&key, entries);
            self.touched.insert(key);
        }
    }

    /// The first Secret that an object names and may not use.
    fn foreign(&self, key: &Key, spec: &Spec) -> Option<Key> {
        let tls = spec.tls.iter().find(|tls| !self.may_use(key, secret_namespace(key, tls)))?;
        Some(Key::new(secret_namespace(key, tls), &tls.secret_name))
    }

    /// Whoever may write an Ingress in one namespace need not be let near the keys of another one.
    fn may_use(&self, key: &Key, namespace: &str) -> bool {
        namespace == key.namespace() || self.shared_secrets.iter().any(|shared| shared == "*" || shared == namespace)
    }

    /// The certificates of the hosts that an object has.
    fn entries(&self, key: &Key) -> BTreeSet<Entry> {
        let Some(spec) = self.objects.get(key).and_then(|known| known.spec.as_ref()) else { return BTreeSet::new() };
        let mut entries = BTreeMap::new();
        for visibility in [Visibility::ExternalIp, Visibility::ClusterLocal] {
            for tls in spec.tls_for(visibility) {
                let namespace = secret_namespace(key, tls);
                if !self.may_use(key, namespace) {
                    continue;
                }
                let covered = spec.rules.iter().filter(|rule| rule.visibility() == visibility).flat_map(|r| &r.hosts);
                for host in covered.filter(|host| tls.hosts.contains(host)) {
                    let host = hosts::normal(host).into_owned();
                    if self.owners.is_owner(&owner(key), &host) {
                        // The first certificate that is named for a host serves it.
                        entries.entry((visibility, host)).or_insert_with(|| Key::new(namespace, &tls.secret_name));
                    }
                }
            }
        }
        entries.into_iter().map(|((v, host), secret)| Entry { side: v.into(), host, secret }).collect()
    }
}

/// An empty namespace is the object's own.
fn secret_namespace<'a>(key: &'a Key, tls: &'a Tls) -> &'a str {
    Some(&*tls.secret_namespace).filter(|namespace| !namespace.is_empty()).unwrap_or(key.namespace())
}

fn backends_of(host: &HostRoutes<Arc<Backend>>) -> impl Iterator<Item = &Arc<Backend>> {
    host.internal.iter().flat_map(|route| &route.shares).map(|share| &share.backend)
}

fn owner(key: &Key) -> (String, String) {
    (key.namespace().to_owned(), key.name().to_owned())
}

#[cfg(test)]
mod tests;
