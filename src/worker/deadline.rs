//! Deadlines of many requests that share one delay: a list in the order of time, and one timer for its head.
//!
//! A timer of the runtime for each request would cost more than the rest of a layer. Here adding, moving to the end
//! and removing are a few assignments, and the runtime's timer fires only when the oldest request comes of age.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

const NONE: usize = usize::MAX;

struct Entry {
    at: Instant,
    expired: Rc<Cell<bool>>,
    waker: Option<Waker>,
    before: usize,
    after: usize,
}

struct List {
    entries: Slab<Entry>,
    head: usize,
    tail: usize,
    /// Whether the task that sleeps until the head's deadline is running.
    armed: bool,
}

/// Deadlines that all lie the same time ahead when they are set.
#[derive(Clone)]
pub struct Deadlines {
    delay: Duration,
    list: Rc<RefCell<List>>,
}

/// One deadline; dropping it takes it off the list.
pub struct Deadline {
    key: usize,
    of: Deadlines,
    expired: Rc<Cell<bool>>,
}

impl Deadlines {
    /// A list whose deadlines lie `delay` ahead.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        let list = List { entries: Slab::new(), head: NONE, tail: NONE, armed: false };
        Self { delay, list: Rc::new(RefCell::new(list)) }
    }

    /// The delay that all of them share.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Sets a deadline, counted from `now`; when it passes, `expired` turns true and the waker is called.
    #[must_use]
    pub fn set(&self, now: Instant, expired: Rc<Cell<bool>>, waker: &Waker) -> Deadline {
        let key = self.list.borrow_mut().push(now + self.delay, expired.clone(), Some(waker.clone()));
        self.arm();
        Deadline { key, of: self.clone(), expired }
    }

    fn arm(&self) {
        if std::mem::replace(&mut self.list.borrow_mut().armed, true) {
            return;
        }
        let list = self.list.clone();
        tokio::task::spawn_local(async move {
            loop {
                let next = list.borrow_mut().expire(Instant::now());
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => break list.borrow_mut().armed = false,
                }
            }
        });
    }
}

impl List {
    fn push(&mut self, at: Instant, expired: Rc<Cell<bool>>, waker: Option<Waker>) -> usize {
        let key = self.entries.insert(Entry { at, expired, waker, before: self.tail, after: NONE });
        match self.entries.get_mut(self.tail) {
            Some(tail) => tail.after = key,
            None => self.head = key,
        }
        self.tail = key;
        key
    }

    fn remove(&mut self, key: usize) -> Option<Entry> {
        let entry = self.entries.try_remove(key)?;
        match self.entries.get_mut(entry.before) {
            Some(before) => before.after = entry.after,
            None => self.head = entry.after,
        }
        match self.entries.get_mut(entry.after) {
            Some(after) => after.before = entry.before,
            None => self.tail = entry.before,
        }
        Some(entry)
    }

    /// Fires what is due and says when to look again.
    fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut key = self.head;
        while let Some(entry) = self.entries.get_mut(key) {
            if entry.at > now {
                return Some(entry.at);
            }
            entry.expired.set(true);
            if let Some(waker) = entry.waker.take() {
                waker.wake();
            }
            // It stays in the slab, off the list, until its owner drops it.
            let after = entry.after;
            self.unlink(key);
            key = after;
        }
        None
    }

    fn unlink(&mut self, key: usize) {
        let Some((before, after)) = self.entries.get(key).map(|e| (e.before, e.after)) else { return };
        match self.entries.get_mut(before) {
            Some(before) => before.after = after,
            None => self.head = after,
        }
        match self.entries.get_mut(after) {
            Some(after) => after.before = before,
            None => self.tail = before,
        }
    }
}

impl Deadline {
    /// Whether the deadline has passed.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.expired.get()
    }

    /// Puts the deadline the full delay after `now`.
    pub fn restart(&mut self, now: Instant, waker: &Waker) {
        let mut list = self.of.list.borrow_mut();
        if !self.expired.get() {
            list.remove(self.key);
        } else {
            list.entries.try_remove(self.key);
        }
        self.expired.set(false);
        self.key = list.push(now + self.of.delay, self.expired.clone(), Some(waker.clone()));
        drop(list);
        self.of.arm();
    }

    /// Replaces the waker, when another task now waits.
    pub fn wake(&self, waker: &Waker) {
        if let Some(entry) = self.of.list.borrow_mut().entries.get_mut(self.key)
            && !entry.waker.as_ref().is_some_and(|w| w.will_wake(waker))
        {
            entry.waker = Some(waker.clone());
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut list = self.of.list.borrow_mut();
        if self.expired.get() {
            list.entries.try_remove(self.key);
        } else {
            list.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    #[tokio::test(start_paused = true)]
    async fn given_three_deadlines_when_the_middle_one_is_dropped_then_the_others_pass_in_order() {
        LocalSet::new()
            .run_until(async {
                let list = Deadlines::new(Duration::from_secs(1));
                let now = tokio::time::Instant::now().into_std();
                let flags: Vec<_> = (0..3).map(|_| Rc::new(Cell::new(false))).collect();
                let mut set: Vec<_> = flags.iter().map(|f| Some(list.set(now, f.clone(), Waker::noop()))).collect();

                set[1] = None;
                let mut inner = list.list.borrow_mut();
                assert!(inner.expire(now + Duration::from_millis(999)).is_some());
                assert_eq!(inner.expire(now + Duration::from_secs(1)), None);
                drop(inner);

                assert_eq!(flags.iter().map(|f| f.get()).collect::<Vec<_>>(), [true, false, true]);
                drop(set);
                assert!(list.list.borrow().entries.is_empty());
            })
            .await;
    }
}
