//! Which object a host belongs to, and the table that follows from it.
//!
//! Control side. A host that several objects want belongs to the oldest, then to the first by namespace and name: the
//! same after a restart and on every replica. The others keep the rest of their hosts. The work for a change is that
//! of the hosts that the object names, before or after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::compile::{Compiled, HostRoutes};
use super::table::Table;

/// Namespace and name of an object.
pub type Key = (String, String);

/// Who comes first: age, then namespace and name.
type Rank = (i64, Key);

/// All objects and the table made of them.
#[derive(Debug)]
pub struct Owners<B> {
    objects: HashMap<Key, Entry>,
    claims: HashMap<String, BTreeMap<Rank, Arc<HostRoutes<B>>>>,
    table: Table<B>,
}

#[derive(Debug)]
struct Entry {
    rank: Rank,
    hosts: Vec<String>,
    http1_only: bool,
}

impl<B> Default for Owners<B> {
    fn default() -> Self {
        Self { objects: HashMap::new(), claims: HashMap::new(), table: Table::default() }
    }
}

impl<B> Owners<B> {
    /// Puts an object's routes in place of those that it had. Says which objects' hosts, its own or others', have
    /// changed hands by it.
    pub fn put(&mut self, compiled: Compiled<B>) -> BTreeSet<Key> {
        let key = (compiled.origin.namespace.clone(), compiled.origin.name.clone());
        let rank = (compiled.created, key.clone());
        let http1_only = compiled.origin.http1_only;
        let mut touched = BTreeSet::from([key.clone()]);
        let hosts: Vec<String> = compiled.hosts.iter().map(|h| h.host.clone()).collect();
        let before = self.objects.remove(&key);
        if let Some(before) = &before {
            for host in before.hosts.iter().filter(|host| before.rank != rank || !hosts.contains(host)) {
                self.withdraw(host, &before.rank, &mut touched);
            }
        }
        for routes in compiled.hosts {
            let host = routes.host.clone();
            let claims = self.claims.entry(host.clone()).or_default();
            let first = claims.keys().next().cloned();
            claims.insert(rank.clone(), Arc::new(routes));
            if claims.keys().next() != first.as_ref() {
                touched.extend(first.map(|(_, key)| key));
            }
            self.publish(&host);
        }
        self.objects.insert(key, Entry { rank, hosts, http1_only });
        touched
    }

    /// Takes an object's routes out. Says which objects have got hosts by it.
    pub fn remove(&mut self, key: &Key) -> BTreeSet<Key> {
        let mut touched = BTreeSet::new();
        if let Some(entry) = self.objects.remove(key) {
            for host in &entry.hosts {
                self.withdraw(host, &entry.rank, &mut touched);
            }
        }
        touched.remove(key);
        touched
    }

    /// The hosts that an object wants and another has.
    #[must_use]
    pub fn conflicts(&self, key: &Key) -> Vec<&str> {
        let Some(entry) = self.objects.get(key) else { return Vec::new() };
        entry.hosts.iter().map(String::as_str).filter(|host| !self.owns(host, &entry.rank)).collect()
    }

    /// Whether this object is here with this age and the same word about HTTP/2.
    #[must_use]
    pub fn has(&self, key: &Key, created: i64, http1_only: bool) -> bool {
        self.objects.get(key).is_some_and(|entry| entry.rank.0 == created && entry.http1_only == http1_only)
    }

    /// Whether this object has routes here.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.objects.contains_key(key)
    }

    /// The routes of an object, those for hosts that others have included.
    pub fn routes(&self, key: &Key) -> impl Iterator<Item = &Arc<HostRoutes<B>>> {
        let entry = self.objects.get(key).into_iter();
        entry.flat_map(|e| e.hosts.iter().filter_map(|host| self.claims.get(host)?.get(&e.rank)))
    }

    /// Whether `host` belongs to the object `key`.
    #[must_use]
    pub fn is_owner(&self, key: &Key, host: &str) -> bool {
        self.objects.get(key).is_some_and(|entry| self.owns(host, &entry.rank))
    }

    /// The table as it is now, to be published.
    #[must_use]
    pub fn table(&self) -> Table<B> {
        self.table.clone()
    }

    fn owns(&self, host: &str, rank: &Rank) -> bool {
        self.claims.get(host).and_then(|claims| claims.keys().next()) == Some(rank)
    }

    fn withdraw(&mut self, host: &str, rank: &Rank, touched: &mut BTreeSet<Key>) {
        let Some(claims) = self.claims.get_mut(host) else { return };
        let owned = claims.keys().next() == Some(rank);
        claims.remove(rank);
        if owned && let Some((_, heir)) = claims.keys().next() {
            touched.insert(heir.clone());
        }
        if claims.is_empty() {
            self.claims.remove(host);
        }
        self.publish(host);
    }

    fn publish(&mut self, host: &str) {
        let first = self.claims.get(host).and_then(|claims| claims.values().next()).cloned();
        self.table.set(host, first);
    }
}
