//! Which route a request takes.
//!
//! Control side: an Ingress is [`compile`]d into routes by host; [`owners`] decides which object a host belongs to and
//! publishes a [`table::Table`], sharing with the table before what did not change. Data side: [`table::Table::find`]
//! and [`Route::choose`], without locks or allocation.
pub mod compile;
pub mod owners;
pub mod table;

#[cfg(test)]
mod reference;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::knative::ingress::{PortRef, Visibility};

/// The object that a route comes from.
#[derive(Debug)]
pub struct Origin {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What a probe with `K-Network-Hash: override` is told.
    pub hash: HeaderValue,
    /// Whether plain HTTP to external rules is redirected.
    pub redirects: bool,
    /// Whether upstreams are spoken to in HTTP/1.1 whatever their ports are called.
    pub http1_only: bool,
    /// Its labels, for external authorisation.
    pub labels: BTreeMap<String, String>,
}

/// The Service that a share of the traffic goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Port.
    pub port: PortRef,
}

/// One path of a rule. `B` is what the gateway sends requests to: made of each share's Service when it is compiled.
#[derive(Debug)]
pub struct Route<B> {
    /// The object that it comes from.
    pub origin: Arc<Origin>,
    /// From where it can be reached.
    pub visibility: Visibility,
    /// Whether the object has a certificate for rules of this visibility.
    pub has_tls: bool,
    /// The literal prefix of the path.
    pub prefix: Box<str>,
    /// Headers that all have to match.
    pub conditions: Box<[Condition]>,
    /// The authority that the upstream sees instead of the caller's.
    pub rewrite_host: Option<HeaderValue>,
    /// Shares of the traffic, those of 0 per cent left out.
    pub shares: Box<[Share<B>]>,
}

/// A header that has to match.
#[derive(Debug, PartialEq, Eq)]
pub struct Condition {
    /// The header.
    pub name: HeaderName,
    /// Its value; an empty one asks for presence.
    pub value: HeaderValue,
}

/// A share of a route's traffic.
#[derive(Debug)]
pub struct Share<B> {
    /// Sum of the percentages up to and with this share.
    upto: u32,
    /// The Service.
    pub service: ServiceRef,
    /// What requests are sent to.
    pub backend: B,
    /// Headers to set on the request, the path's before the share's: a key in both has the path's value.
    pub set: Box<[(HeaderName, HeaderValue)]>,
}

impl<B> Route<B> {
    /// Whether a request of this host takes the route.
    #[must_use]
    pub fn matches(&self, path: &str, headers: &HeaderMap) -> bool {
        path.starts_with(&*self.prefix) && self.conditions.iter().all(|condition| condition.holds(headers))
    }

    /// The share for a random number, and which one it is. Each share gets its percentage of the numbers.
    #[must_use]
    pub fn choose(&self, random: u32) -> Option<(usize, &Share<B>)> {
        let total = self.shares.last()?.upto;
        // A 32-bit number scaled to the total: the error is below a millionth of a per cent.
        let point = u32::try_from((u64::from(random) * u64::from(total)) >> 32).unwrap_or(0);
        self.shares.iter().enumerate().find(|(_, share)| point < share.upto)
    }

    /// The shares with their percentages.
    pub fn percentages(&self) -> impl Iterator<Item = (u32, &Share<B>)> {
        let mut before = 0;
        self.shares.iter().map(move |share| (share.upto - std::mem::replace(&mut before, share.upto), share))
    }

    /// Whether this is the way to a solver of ACME's HTTP-01 challenge (RFC 8555 section 8.3), which speaks plain HTTP
    /// and must be reached by plain HTTP.
    #[must_use]
    pub fn is_acme(&self) -> bool {
        self.prefix.starts_with("/.well-known/acme-challenge/")
    }
}

impl Condition {
    fn holds(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(&self.name).iter();
        let Some(first) = lines.next() else { return false };
        if self.value.is_empty() {
            return true;
        }
        match lines.next() {
            None => first == self.value,
            // Several lines are one list (RFC 9110 section 5.3).
            Some(second) => {
                let mut joined = [first.as_bytes(), b",", second.as_bytes()].concat();
                for line in lines {
                    joined.push(b',');
                    joined.extend_from_slice(line.as_bytes());
                }
                joined == self.value.as_bytes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_several_lines_of_a_header_when_matched_then_they_are_one_list() {
        let holds = |value: &'static str, lines: &[&'static str]| {
            let condition = Condition { name: HeaderName::from_static("x"), value: HeaderValue::from_static(value) };
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x", HeaderValue::from_static(line));
            }
            condition.holds(&headers)
        };

        assert!(holds("a", &["a"]));
        assert!(!holds("a", &["A"]));
        assert!(!holds("a", &["a", "b"]));
        assert!(holds("a,b", &["a", "b"]));
        assert!(holds("", &["anything"]));
        assert!(!holds("", &[]));
    }
}
