//! The current set of one kind, and the stream of its changes.
//!
//! A source writes through a [`Writer`], readers hold [`Objects`]. A reader that is slow costs no memory without bound:
//! what waits for it is at most one entry for each object, and it is given the state of the moment in which it asks.
//! So versions in between may be skipped, but never that an object was deleted, even when another one of its name
//! exists since.
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::kube::counters::Counters;
use crate::kube::key::Key;

/// The current objects of one kind. Clones share them; when the last one is gone, the source stops.
pub struct Objects<T>(Rc<Shared<T>>);

impl<T> Clone for Objects<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

struct Shared<T> {
    entries: RefCell<HashMap<Key, Entry<T>>>,
    readers: RefCell<Vec<Weak<Pending<T>>>>,
    synced: watch::Sender<bool>,
    counters: Arc<Counters>,
    task: RefCell<Option<AbortHandle>>,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

struct Entry<T> {
    object: Arc<T>,
    uid: u64,
    round: u32,
}

/// What happened to an object.
#[derive(Debug, PartialEq)]
pub enum Change<T> {
    /// It is new, or other than before.
    Applied(Key, Arc<T>),
    /// It is gone, or no longer one that is wanted; this was its last version.
    Deleted(Key, Arc<T>),
}

impl<T> Objects<T> {
    /// An empty set and the only one who may write to it.
    pub(crate) fn new() -> (Self, Writer<T>) {
        let shared = Rc::new(Shared {
            entries: RefCell::default(),
            readers: RefCell::default(),
            synced: watch::Sender::new(false),
            counters: Arc::default(),
            task: RefCell::default(),
        });
        let writer = Writer { shared: Rc::downgrade(&shared), counters: Arc::clone(&shared.counters), round: 0 };
        (Self(shared), writer)
    }

    /// The task to be stopped with the last reader.
    pub(crate) fn kept_by(&self, task: AbortHandle) {
        self.0.task.replace(Some(task));
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.find(key.as_str())
    }

    /// One object, by `namespace/name`.
    pub fn find(&self, key: &str) -> Option<Arc<T>> {
        self.0.entries.borrow().get(key).map(|entry| Arc::clone(&entry.object))
    }

    /// All objects, in no order.
    pub fn all(&self) -> Vec<(Key, Arc<T>)> {
        let entries = self.0.entries.borrow();
        entries.iter().map(|(key, entry)| (key.clone(), Arc::clone(&entry.object))).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.entries.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the source has given its whole set once.
    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits until it has; at once if so already.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives in `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Everything that is here now, as applied, and then each change.
    pub fn changes(&self) -> Changes<T> {
        let pending = Pending { queue: RefCell::default(), marks: RefCell::default(), notify: Notify::new() };
        for key in self.0.entries.borrow().keys() {
            pending.mark(key, None);
        }
        let pending = Rc::new(pending);
        self.0.readers.borrow_mut().push(Rc::downgrade(&pending));
        Changes { objects: self.clone(), pending }
    }

    /// What the source counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }
}

impl<T> std::fmt::Debug for Objects<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("len", &self.len()).field("synced", &self.is_synced()).finish()
    }
}

/// A stream of changes, see [`Objects::changes`].
pub struct Changes<T> {
    objects: Objects<T>,
    pending: Rc<Pending<T>>,
}

struct Pending<T> {
    queue: RefCell<VecDeque<Key>>,
    /// An entry for each key in the queue, with the last version of an object that was deleted meanwhile.
    marks: RefCell<HashMap<Key, Option<Arc<T>>>>,
    notify: Notify,
}

impl<T> Pending<T> {
    fn mark(&self, key: &Key, deleted: Option<Arc<T>>) {
        let mut marks = self.marks.borrow_mut();
        match marks.get_mut(key) {
            Some(mark) => {
                if mark.is_none() {
                    *mark = deleted;
                }
            }
            None => {
                marks.insert(key.clone(), deleted);
                self.queue.borrow_mut().push_back(key.clone());
            }
        }
        self.notify.notify_one();
    }
}

impl<T> Changes<T> {
    /// The next change, once there is one. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Change<T> {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.pending.notify.notified().await;
        }
    }

    /// The next change, if there is one now.
    pub fn try_next(&mut self) -> Option<Change<T>> {
        loop {
            let key = self.pending.queue.borrow_mut().pop_front()?;
            let deleted = self.pending.marks.borrow_mut().remove(&key).flatten();
            let now = self.objects.get(&key);
            match (deleted, now) {
                (Some(last), now) => {
                    if now.is_some() {
                        self.pending.marks.borrow_mut().insert(key.clone(), None);
                        self.pending.queue.borrow_mut().push_front(key.clone());
                    }
                    return Some(Change::Deleted(key, last));
                }
                (None, Some(now)) => {
                    self.give_memory_back();
                    return Some(Change::Applied(key, now));
                }
                (None, None) => {}
            }
        }
    }

    /// The objects whose changes these are.
    pub fn objects(&self) -> &Objects<T> {
        &self.objects
    }

    /// The first reading of a large set leaves large tables behind.
    fn give_memory_back(&self) {
        const SMALL: usize = 64;
        let mut queue = self.pending.queue.borrow_mut();
        if queue.is_empty() && queue.capacity() > SMALL {
            queue.shrink_to_fit();
            self.pending.marks.borrow_mut().shrink_to_fit();
        }
    }
}

/// Writes the set.
pub(crate) struct Writer<T> {
    shared: Weak<Shared<T>>,
    counters: Arc<Counters>,
    round: u32,
}

impl<T: PartialEq> Writer<T> {
    /// Begins a round in which the source gives its whole set.
    pub(crate) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Ends it: what was not given in it is gone, and the set is synced.
    pub(crate) fn finish(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let old = |entry: &Entry<T>| entry.round != self.round;
        let gone: Vec<Key> = {
            let entries = shared.entries.borrow();
            entries.iter().filter(|(_, entry)| old(entry)).map(|(key, _)| key.clone()).collect()
        };
        for key in gone {
            self.delete(&key);
        }
        shared.entries.borrow_mut().shrink_to_fit();
        shared.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    /// The object is so now.
    pub(crate) fn apply(&mut self, key: &Key, uid: u64, object: T) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut entries = shared.entries.borrow_mut();
        let mut replaced = None;
        if let Some(entry) = entries.get_mut(key) {
            entry.round = self.round;
            if entry.uid == uid && *entry.object == object {
                return;
            }
            let last = std::mem::replace(&mut entry.object, Arc::new(object));
            if std::mem::replace(&mut entry.uid, uid) != uid {
                replaced = Some(last);
            }
        } else {
            entries.insert(key.clone(), Entry { object: Arc::new(object), uid, round: self.round });
            self.counters.set_objects(entries.len());
        }
        drop(entries);
        shared.tell(key, replaced.as_ref());
    }

    /// The object is still there; what it is now could not be read.
    pub(crate) fn keep(&mut self, key: &Key) {
        let Some(shared) = self.shared.upgrade() else { return };
        if let Some(entry) = shared.entries.borrow_mut().get_mut(key) {
            entry.round = self.round;
        }
    }

    /// The object is gone, or none that is wanted.
    pub(crate) fn delete(&mut self, key: &Key) {
        let Some(shared) = self.shared.upgrade() else { return };
        let removed = shared.entries.borrow_mut().remove(key);
        self.counters.set_objects(shared.entries.borrow().len());
        if let Some(entry) = removed {
            shared.tell(key, Some(&entry.object));
        }
    }

    /// Whether anybody still holds the objects.
    pub(crate) fn is_read(&self) -> bool {
        self.shared.strong_count() > 0
    }

    /// What the source counts.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl<T> Shared<T> {
    fn tell(&self, key: &Key, deleted: Option<&Arc<T>>) {
        self.readers.borrow_mut().retain(|reader| match reader.upgrade() {
            Some(reader) => {
                reader.mark(key, deleted.cloned());
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests;
