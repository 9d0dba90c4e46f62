//! Small buffers for moments: lent to the connection that has something to write, and given back when that is written.
//!
//! Data side; called by [`super::h1_client`] and [`super::replay`]. A buffer that each idle connection keeps for its next
//! request would cost more than its bytes: after a burst, hundreds of them hold as many pages of the heap.

use std::cell::RefCell;

/// Bytes of a fresh buffer.
const FRESH: usize = 768;
/// Bytes of the largest that is kept.
const LARGEST: usize = 4096;
/// Buffers that a worker keeps.
const MOST: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for a common head.
#[must_use]
pub(super) fn take() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(FRESH))
}

/// Gives a buffer back.
pub(super) fn give(mut buffer: Vec<u8>) {
    if (FRESH..=LARGEST).contains(&buffer.capacity()) {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < MOST {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_buffers_when_given_back_then_few_small_ones_are_kept_and_come_empty() {
        let large = Vec::with_capacity(LARGEST + 1);
        give(large);
        for _ in 0..=MOST {
            give(vec![7; FRESH]);
        }
        assert_eq!(SPARE.with_borrow(Vec::len), MOST);
        assert!(take().is_empty());
        assert_eq!(SPARE.with_borrow(Vec::len), MOST - 1);
    }
}
