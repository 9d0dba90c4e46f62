//! The time, read once for all that happens at one moment.
//!
//! Data side. At the end of a request its metrics, the statistics, the connection and the pool want to know what time it
//! is; four readings of the clock are a hundredth of a plaintext request. Whoever knows that a few functions belong to one
//! moment calls [`hold`] around them.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static MOMENTS: Cell<u32> = const { Cell::new(0) };
    static READ: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// All that asks for the time on this thread gets the same until this is dropped.
#[derive(Debug)]
pub struct Moment(());

/// Begins a moment, unless one is under way.
#[must_use]
pub fn hold() -> Moment {
    MOMENTS.set(MOMENTS.get() + 1);
    Moment(())
}

impl Drop for Moment {
    fn drop(&mut self) {
        MOMENTS.set(MOMENTS.get() - 1);
        if MOMENTS.get() == 0 {
            READ.set(None);
        }
    }
}

/// What time it is: that of the moment, which is read when it is first asked for.
#[must_use]
pub fn now() -> Instant {
    if MOMENTS.get() == 0 {
        return Instant::now();
    }
    let now = READ.get().unwrap_or_else(Instant::now);
    READ.set(Some(now));
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_moment_when_the_time_is_asked_for_then_it_is_the_same_until_the_outermost_ends() {
        let outer = hold();
        let first = now();
        let inner = hold();
        while Instant::now() == first {}
        assert_eq!(now(), first);
        drop(inner);
        assert_eq!(now(), first);
        drop(outer);
        assert!(now() > first);
    }
}
