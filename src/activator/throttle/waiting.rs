//! The requests that wait for one revision: first come, first served, and leaving from the middle costs nothing.

use std::task::Waker;

use slab::Slab;

use super::words::SlotKey;

/// What became of a waiting request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// It may go, and does not know it yet.
    Granted(SlotKey),
    /// The revision is gone.
    Refused,
}

#[derive(Debug)]
struct Entry {
    state: State,
    waker: Option<Waker>,
    before: u32,
    after: u32,
}

const NONE: u32 = u32::MAX;

/// A list within a slab; what has been decided stays in the slab, off the list, until its owner has looked.
#[derive(Debug)]
pub(super) struct Waiting {
    entries: Slab<Entry>,
    head: u32,
    tail: u32,
    len: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { entries: Slab::new(), head: NONE, tail: NONE, len: 0 }
    }
}

impl Waiting {
    /// How many wait; those that were decided do not count.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// Adds a request at the end, or at the front: one that was sent once already came before all that wait.
    pub(super) fn push(&mut self, at_front: bool) -> u32 {
        let (before, after) = if at_front { (NONE, self.head) } else { (self.tail, NONE) };
        let key = self.entries.insert(Entry { state: State::Waiting, waker: None, before, after });
        let key = u32::try_from(key).unwrap_or(NONE);
        self.link(before, after, key, key);
        self.len += 1;
        key
    }

    /// Decides about one; the waker is that of its owner.
    pub(super) fn decide(&mut self, key: u32, state: State) -> Option<Waker> {
        self.unlink(key);
        let entry = self.entries.get_mut(key as usize)?;
        entry.state = state;
        entry.waker.take()
    }

    /// Looks at one, and registers who asks if it still waits. What was decided is taken out.
    pub(super) fn poll(&mut self, key: u32, waker: &Waker) -> State {
        let Some(entry) = self.entries.get_mut(key as usize) else { return State::Refused };
        let state = entry.state;
        if state == State::Waiting {
            if !entry.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                entry.waker = Some(waker.clone());
            }
        } else {
            self.forget(key);
        }
        state
    }

    #[cfg(test)]
    pub(super) fn state(&self, key: u32) -> Option<State> {
        self.entries.get(key as usize).map(|entry| entry.state)
    }

    /// Takes one out, whatever its state.
    pub(super) fn remove(&mut self, key: u32) -> Option<State> {
        let state = self.entries.get(key as usize)?.state;
        if state == State::Waiting {
            self.unlink(key);
        }
        self.forget(key);
        Some(state)
    }

    fn forget(&mut self, key: u32) {
        self.entries.try_remove(key as usize);
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            // After a crowd, give its room back.
            self.entries = Slab::new();
        }
    }

    fn unlink(&mut self, key: u32) {
        let Some(entry) = self.entries.get(key as usize) else { return };
        let (before, after) = (entry.before, entry.after);
        self.link(before, after, after, before);
        self.len -= 1;
    }

    /// Makes `next` follow `before`, and `previous` precede `after`.
    fn link(&mut self, before: u32, after: u32, next: u32, previous: u32) {
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.after = next,
            None => self.head = next,
        }
        match self.entries.get_mut(after as usize) {
            Some(entry) => entry.before = previous,
            None => self.tail = previous,
        }
    }
}
