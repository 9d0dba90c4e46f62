//! How long a Lease counts and how often it is renewed: `config-leader-election` (`knative.dev/pkg/leaderelection/config.go`).
use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::value;
use crate::knative::config_map::Invalid;

/// Name of the ConfigMap in the system namespace.
pub const NAME: &str = "config-leader-election";

/// What the ConfigMap says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `lease-duration`: how long a Lease that nobody renews is respected; default 60 s.
    pub lease: Duration,
    /// `renew-deadline`: how long a leader that can't renew goes on leading; default 40 s, below the former.
    pub renew: Duration,
    /// `retry-period`: how often a leader renews; default 10 s, below the former.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), renew: Duration::from_secs(40), retry: Duration::from_secs(10) }
    }
}

impl Settings {
    /// Reads the ConfigMap's data.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let read = |key: &str, default: Duration| match data.get(key).map(|value| value.trim()) {
            None | Some("") => Ok(default),
            Some(text) => value::duration(text)
                .ok()
                .filter(|duration| !duration.is_zero())
                .ok_or_else(|| Invalid::new(key, text, "a duration such as 15s, above 0")),
        };
        let default = Self::default();
        let settings = Self {
            lease: read("lease-duration", default.lease)?,
            renew: read("renew-deadline", default.renew)?,
            retry: read("retry-period", default.retry)?,
        };
        let below = |key: &str, value: Duration, limit: Duration, name: &str| match value < limit {
            true => Ok(()),
            false => Err(Invalid::because(key, &format!("{value:?}"), &format!("expected less than {name}"))),
        };
        below("renew-deadline", settings.renew, settings.lease, "lease-duration")?;
        below("retry-period", settings.retry, settings.renew, "renew-deadline")?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings, Invalid> {
        Settings::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn given_durations_when_they_do_not_nest_then_they_are_refused_by_name() {
        assert_eq!(parse(&[]).unwrap(), Settings::default());
        let read = parse(&[("lease-duration", "15s"), ("renew-deadline", "10s"), ("retry-period", "2s")]).unwrap();
        assert_eq!((read.lease.as_secs(), read.renew.as_secs(), read.retry.as_secs()), (15, 10, 2));
        for (pairs, word) in [
            (vec![("lease-duration", "soon")], "lease-duration=\"soon\""),
            (vec![("renew-deadline", "60s")], "less than lease-duration"),
            (vec![("retry-period", "40s")], "less than renew-deadline"),
            (vec![("retry-period", "0s")], "above 0"),
        ] {
            let error = parse(&pairs).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
