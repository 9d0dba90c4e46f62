//! `config-logging`: zap's configuration and the components' levels.
//!
//! Source: `knative.dev/pkg/logging/config.go` (`NewConfigFromMap`, `UpdateLevelFromConfigMap`).
use std::collections::BTreeMap;

use crate::knative::config_map::Invalid;

/// The name of the ConfigMap, unless `CONFIG_LOGGING_NAME` says otherwise.
pub const NAME: &str = "config-logging";

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// zap's configuration as JSON, as `telemetry::log::init` takes it; empty: the built-in one.
    pub zap: String,
    levels: BTreeMap<String, String>,
}

impl Logging {
    /// Reads the map's data.
    ///
    /// # Errors
    /// A level that is none, of whatever component.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, Invalid> {
        let mut levels = BTreeMap::new();
        for (key, value) in data {
            let Some(component) = key.strip_prefix("loglevel.").filter(|component| !component.is_empty()) else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            let level = value.to_lowercase();
            if !matches!(level.as_str(), "debug" | "info" | "warn" | "warning" | "error" | "dpanic" | "panic" | "fatal")
            {
                return Err(Invalid::new(key, value, "debug, info, warn, error, dpanic, panic or fatal"));
            }
            levels.insert(component.to_owned(), level);
        }
        Ok(Self { zap: data.get("zap-logger-config").cloned().unwrap_or_default(), levels })
    }

    /// The level of a component; empty: that of the zap configuration.
    pub fn level(&self, component: &str) -> &str {
        self.levels.get(component).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn given_levels_then_a_component_finds_its_own() {
        let logging = Logging::parse(&map(&[("loglevel.activator", "Debug"), ("loglevel.x", "")])).unwrap();

        assert_eq!(logging.level("activator"), "debug");
        assert_eq!(logging.level("x"), "");
        assert_eq!(logging.level("queueproxy"), "");
    }

    #[test]
    fn given_a_level_that_is_none_then_it_is_named() {
        let error = Logging::parse(&map(&[("loglevel.other", "loud")])).unwrap_err().to_string();
        assert!(error.contains("loglevel.other=\"loud\""), "{error}");
    }
}
