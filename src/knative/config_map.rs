//! ConfigMaps as they are, and settings that follow one.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::watch;

use crate::kube::object::{Pairs, null_is_empty};
use crate::kube::{Change, Key, Kind, Meta, Object, Objects, Selection, Source};

/// A ConfigMap: its `data`. `binaryData` is not read.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigMap {
    /// Values by key.
    pub data: BTreeMap<String, String>,
}

/// What is read of a ConfigMap.
#[derive(Deserialize)]
pub struct Wire {
    metadata: Meta,
    #[serde(default, deserialize_with = "null_is_empty")]
    data: Pairs,
}

impl Object for ConfigMap {
    const KIND: Kind = Kind { group: "", version: "v1", kind: "ConfigMap", plural: "configmaps" };
    type Wire = Wire;

    fn meta_mut(wire: &mut Wire) -> &mut Meta {
        &mut wire.metadata
    }

    fn shrink(Wire { data, .. }: Wire) -> Result<Option<Self>, String> {
        Ok(Some(Self { data }))
    }
}

/// A value that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    key: String,
    value: String,
    why: String,
}

impl Invalid {
    /// The value of `key` is not what was `expected`.
    pub fn new(key: &str, value: &str, expected: &str) -> Self {
        Self::because(key, value, &format!("expected {expected}"))
    }

    /// The value of `key` can't be used, and `why`.
    pub fn because(key: &str, value: &str, why: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), why: why.to_owned() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: {}", self.key, self.value, self.why)
    }
}

impl std::error::Error for Invalid {}

/// Why settings can't be had at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is no such ConfigMap.
    Absent(Key),
    /// One of its values can't be used.
    Invalid(Key, Invalid),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(key) => write!(f, "configmap \"{}\" not found in namespace {}", key.name(), key.namespace()),
            Self::Invalid(key, invalid) => write!(f, "configmap {key}: {invalid}"),
        }
    }
}

impl std::error::Error for Unusable {}

/// The settings in one ConfigMap, followed for as long as they are held. An update that can't be used is logged and
/// the last good settings stay; so they do when the ConfigMap is deleted.
#[derive(Debug)]
pub struct Settings<T> {
    current: watch::Receiver<Arc<T>>,
    follower: tokio::task::AbortHandle,
}

impl<T> Drop for Settings<T> {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl<T: Send + Sync + 'static> Settings<T> {
    /// Waits for the source, reads the ConfigMap called `name` and follows it. Must be called within a `LocalSet`.
    /// Cancelling the wait stops everything.
    ///
    /// # Errors
    /// The ConfigMap is absent, or a value can't be used.
    pub async fn start(
        source: &Source,
        namespace: &str,
        name: &str,
        parse: impl Fn(&BTreeMap<String, String>) -> Result<T, Invalid> + 'static,
    ) -> Result<Self, Unusable> {
        let key = Key::new(namespace, name);
        let maps = source.objects::<ConfigMap>(Selection::within(namespace).named(name));
        maps.synced().await;
        let map = maps.get(&key).ok_or_else(|| Unusable::Absent(key.clone()))?;
        let first = parse(&map.data).map_err(|invalid| Unusable::Invalid(key.clone(), invalid))?;
        let (publish, current) = watch::channel(Arc::new(first));
        let follower = tokio::task::spawn_local(follow(maps, map, parse, publish)).abort_handle();
        Ok(Self { current, follower })
    }

    /// The settings now.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of each new version.
    pub fn changes(&self) -> watch::Receiver<Arc<T>> {
        self.current.clone()
    }
}

async fn follow<T>(
    maps: Objects<ConfigMap>,
    mut known: Arc<ConfigMap>,
    parse: impl Fn(&BTreeMap<String, String>) -> Result<T, Invalid>,
    publish: watch::Sender<Arc<T>>,
) {
    let mut changes = maps.changes();
    loop {
        match changes.next().await {
            Change::Applied(_, map) if map == known => {}
            Change::Applied(key, map) => {
                match parse(&map.data) {
                    Ok(settings) => {
                        tracing::info!("Settings changed with ConfigMap {key}");
                        publish.send_replace(Arc::new(settings));
                    }
                    Err(invalid) => {
                        tracing::error!("ConfigMap {key} can't be used: {invalid}; the previous settings stay");
                    }
                }
                known = map;
            }
            Change::Deleted(key, _) => tracing::warn!("ConfigMap {key} was deleted; its last settings stay"),
        }
    }
}
