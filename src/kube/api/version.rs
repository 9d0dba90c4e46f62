//! Compares the versions of API servers, as `knative.dev/pkg/version` does with `github.com/blang/semver`.
use std::cmp::Ordering;

use crate::kube::api::error::Error;

/// The variable that says how old a server may be.
const MINIMUM: &str = "KUBERNETES_MIN_VERSION";

/// Whether a server of version `current` is at least `minimum`. Without a word on pre-releases, those of the minimum
/// itself are new enough.
pub(super) fn check(current: &str, minimum: &str) -> Result<(), Error> {
    let read = |text: &str| {
        let bare = text.strip_prefix('v').unwrap_or(text);
        Version::parse(bare).ok_or_else(|| Error::Nonsense(format!("kubernetes version {text:?} is no version")))
    };
    let (server, mut least) = (read(current)?, read(minimum)?);
    if least.pre.is_empty() {
        least.pre.push(Part::Number(0));
    }
    if server.cmp(&least) == Ordering::Less {
        let (current, minimum) = (bare(current), bare(minimum));
        return Err(Error::TooOld(format!(
            "kubernetes version {current:?} is not compatible, need at least {minimum:?} (this can be overridden with \
             the env var {MINIMUM:?})"
        )));
    }
    Ok(())
}

fn bare(text: &str) -> &str {
    text.strip_prefix('v').unwrap_or(text)
}

#[derive(Debug, PartialEq)]
struct Version {
    numbers: [u64; 3],
    pre: Vec<Part>,
}

/// A part of a pre-release; numbers go before words.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if build.is_some_and(|build| !build.split('.').all(word)) {
            return None;
        }
        let mut found = numbers.split('.').map(number);
        let numbers = [found.next()??, found.next()??, found.next()??];
        let part = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) {
            true => number(part).map(Part::Number),
            false => word(part).then(|| Part::Word(part.to_owned())),
        };
        let pre = pre.map_or(Some(Vec::new()), |pre| pre.split('.').map(part).collect())?;
        found.next().is_none().then_some(Self { numbers, pre })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

/// Digits without a leading zero.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_servers_then_only_those_below_the_minimum_are_too_old() {
        for (server, minimum, fits) in [
            ("v1.34.0", "v1.34.0", true),
            ("v1.34.0-rc.1", "v1.34.0", true),
            ("v1.34.1-gke.100+abc", "v1.34.0", true),
            ("v1.33.9", "v1.34.0", false),
            ("v1.9.0", "1.10.0", false),
            ("v2.0.0", "v1.34.0", true),
            ("v1.34.0-alpha.1", "v1.34.0-beta.0", false),
            ("v1.34.0-beta.2", "v1.34.0-beta.10", false),
        ] {
            assert_eq!(check(server, minimum).is_ok(), fits, "{server} {minimum}");
        }
    }

    #[test]
    fn given_an_old_server_then_the_words_are_those_of_the_go_components() {
        let Err(error) = check("v1.20.1", "v1.34.0") else { unreachable!("it is too old") };
        assert_eq!(
            error.to_string(),
            "kubernetes version \"1.20.1\" is not compatible, need at least \"1.34.0\" (this can be overridden with \
             the env var \"KUBERNETES_MIN_VERSION\")"
        );
    }

    #[test]
    fn given_what_is_no_version_then_it_is_refused() {
        for text in ["", "v1.34", "1.34.0.1", "v01.34.0", "1.34.x", "1.34.0-", "1.34.0+", "vv1.34.0"] {
            assert!(matches!(check(text, "v1.34.0"), Err(Error::Nonsense(_))), "{text}");
        }
    }
}
