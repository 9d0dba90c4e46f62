//! The head of a request on an HTTP/2 stream, kept until its response begins, so that the request can be sent again.
//!
//! Data side; called by [`super::upstream`] for each request to an upstream that speaks HTTP/2: `h2` takes a head and does
//! not give it back. The body's part is [`super::body::Outbound::keep`].

use std::cell::RefCell;

use http::{HeaderName, HeaderValue, Method, Version};

use super::body::Outbound;
use super::upstream::Outgoing;

/// Lists that a worker keeps for later.
const MOST: usize = 16;
/// Lines of the longest list that is kept.
const LONGEST: usize = 64;

type Lines = Vec<(HeaderName, HeaderValue)>;

thread_local! {
    static SPARE: RefCell<Vec<Lines>> = const { RefCell::new(Vec::new()) };
}

/// Method and headers of a request. The target is made again for the next hop.
pub struct Kept {
    method: Method,
    lines: Lines,
}

impl Kept {
    /// A copy of `head`. A list, not a map: nothing is looked for in it, and its room is lent.
    #[must_use]
    pub fn of(head: &http::request::Parts) -> Self {
        let mut lines = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        lines.extend(head.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self { method: head.method.clone(), lines }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The request again, less its target.
    #[must_use]
    pub fn with(mut self, body: Outbound) -> Outgoing {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.version = Version::HTTP_2;
        head.headers.reserve(self.lines.len());
        for (name, value) in self.lines.drain(..) {
            head.headers.append(name, value);
        }
        head.method = std::mem::take(&mut self.method);
        Outgoing { head: Box::new(head), body }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut lines = std::mem::take(&mut self.lines);
        if (1..=LONGEST).contains(&lines.capacity()) {
            lines.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MOST {
                    spare.push(lines);
                }
            });
        }
    }
}
