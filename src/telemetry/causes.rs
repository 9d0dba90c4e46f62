//! Counts by cause: tokens from a fixed set, of what does not happen to most requests.
//!
//! Workers add, the scrape reads; behind a lock, since all of it together is rare beside requests.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use super::registry::{Family, Kind, Label, Point, Value, single};

/// Causes in one table. There are fewer; the bound is for a mistake.
const MOST: usize = 64;

/// How often each cause was told.
#[derive(Debug, Default)]
pub struct Causes(Mutex<Vec<(&'static str, u64)>>);

impl Causes {
    /// Counts one.
    pub fn count(&self, token: &'static str) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = counted.iter_mut().find(|(known, _)| *known == token) {
            *count += 1;
        } else if counted.len() < MOST {
            counted.push((token, 1));
        }
    }

    /// As a counter with the label `cause`.
    #[must_use]
    pub fn family(&self, name: &'static str, help: &'static str) -> Family {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let point = |(token, count): (&'static str, u64)| Point {
            labels: vec![(Cow::Borrowed("cause"), Label::Text(Cow::Borrowed(token)))],
            value: Value::Number(count as f64),
        };
        Family { points: counted.into_iter().map(point).collect(), ..single(name, help, Kind::Counter, 0.0) }
    }
}
