//! The objects of one kind in a directory, and which file each comes from.
//!
//! Control side; called by [`super`] with the contents of files that have changed.
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::kube::key::Key;
use crate::kube::manifest;
use crate::kube::object::{self, Object, Selection, Unreadable};
use crate::kube::objects::Writer;
use crate::telemetry::log::Throttle;

/// Where objects are that don't say.
const NAMESPACE: &str = "default";

/// One kind of objects, whatever its type.
pub(super) trait Sink {
    /// Whether anybody still reads them.
    fn is_read(&self) -> bool;
    /// Whether every file was given once.
    fn is_complete(&self) -> bool;
    /// Whether a file of this text may have an object that is wanted: a guess that costs much less than to parse it. Who
    /// reads a whole kind also has every file parsed once, so that what is broken is told.
    fn may_want(&self, text: &str, parsed: bool) -> bool;
    /// A file is so now. Returns whether an object of it was passed over because another file has it too.
    fn take(&mut self, file: &Arc<Path>, items: &[manifest::Item]) -> bool;
    /// A file is gone.
    fn forget(&mut self, file: &Path);
    /// All files have been given.
    fn finish(&mut self);
    /// Whether the directory can be read at all.
    fn connected(&mut self, connected: bool);
}

/// The objects of one type.
pub(super) struct Kind<T> {
    writer: Writer<T>,
    selection: Selection,
    log: Throttle,
    /// The objects of each file.
    files: HashMap<Arc<Path>, Vec<Key>>,
    /// The file of each object.
    owners: HashMap<Key, Arc<Path>>,
    complete: bool,
}

impl<T: Object> Kind<T> {
    pub(super) fn new(writer: Writer<T>, selection: Selection) -> Self {
        let log = Throttle::every(Duration::from_secs(60));
        Self { writer, selection, log, files: HashMap::new(), owners: HashMap::new(), complete: false }
    }

    /// Whether it may be one that is wanted: looks at no more than the kind and the name, since a reader of one object
    /// among thousands, and thousands of such readers, are given every file.
    fn is_ours(&self, value: &Value) -> bool {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let meta = |name: &str| value.get("metadata")?.get(name)?.as_str().filter(|text| !text.is_empty());
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || found == wanted.as_deref();
        text("kind") == Some(T::KIND.kind)
            && is(&self.selection.name, meta("name"))
            && is(&self.selection.namespace, meta("namespace").or(Some(NAMESPACE)))
            && text("apiVersion") == Some(&T::KIND.api_version())
    }

    fn complain(&self, file: &Path, place: &str, why: &str) {
        self.writer.counters().unread();
        if self.log.allows(&format!("{} {place} {why}", file.display())) {
            let kind = T::KIND.kind;
            tracing::error!("{}, {place}: {kind} can't be used: {why}; what was known of it stays", file.display());
        }
    }

    fn remove(&mut self, key: &Key) {
        self.owners.remove(key);
        self.writer.delete(key);
    }
}

impl<T: Object> Sink for Kind<T> {
    fn is_read(&self) -> bool {
        self.writer.is_read()
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn may_want(&self, text: &str, parsed: bool) -> bool {
        let named = match &self.selection.name {
            Some(name) => text.contains(name.as_str()),
            None if !parsed => return true,
            None => true,
        };
        // An escape may hide a letter of either.
        text.contains('\\') || named && text.contains(T::KIND.kind)
    }

    fn take(&mut self, file: &Arc<Path>, items: &[manifest::Item]) -> bool {
        let before = self.files.remove(file).unwrap_or_default();
        let (mut now, mut seen) = (Vec::new(), HashSet::new());
        let (mut broken, mut shadowed) = (false, false);
        for manifest::Item { place, object } in items {
            let Ok(value) = object else {
                broken = true;
                continue;
            };
            if !self.is_ours(value) {
                continue;
            }
            // Through text, so that objects have one reader only, whatever they come from.
            let json = serde_json::to_vec(value).unwrap_or_default();
            let read = object::read_in::<T>(&json, &self.selection, NAMESPACE);
            let key = match &read {
                Ok(read) => read.key.clone(),
                Err(Unreadable { key: Some(key), .. }) => key.clone(),
                Err(Unreadable { key: None, why }) => {
                    broken = true;
                    self.complain(file, place, why);
                    continue;
                }
            };
            let owner = self.owners.get(&key).filter(|owner| *owner != file);
            if owner.is_some() || !seen.insert(key.clone()) {
                shadowed |= owner.is_some();
                let first = owner.unwrap_or(file).display();
                self.complain(file, place, &format!("{key} is in {first} already"));
                continue;
            }
            self.writer.counters().event();
            match read {
                Ok(read) => match read.object {
                    Some(object) => self.writer.apply(&key, read.uid, object),
                    None => self.writer.delete(&key),
                },
                Err(Unreadable { why, .. }) => {
                    self.complain(file, place, &why);
                    self.writer.keep(&key);
                }
            }
            self.owners.insert(key.clone(), Arc::clone(file));
            now.push(key);
        }
        for key in before {
            match seen.contains(&key) {
                true => {}
                // It may be the one that can't be read.
                false if broken => now.push(key),
                false => self.remove(&key),
            }
        }
        if !now.is_empty() {
            self.files.insert(Arc::clone(file), now);
        }
        self.writer.counters().contact();
        shadowed
    }

    fn forget(&mut self, file: &Path) {
        for key in self.files.remove(file).unwrap_or_default() {
            self.remove(&key);
        }
    }

    fn finish(&mut self) {
        if !self.complete {
            self.complete = true;
            self.writer.counters().relist();
            self.writer.finish();
        }
    }

    fn connected(&mut self, connected: bool) {
        self.writer.counters().set_connected(connected);
        if connected {
            self.writer.counters().contact();
        }
    }
}
