//! Whether this activator can take requests, for kubelet's probes.
//!
//! Written by the control side, read by workers. Source: `newHealthCheck` in `knative.dev/serving/cmd/activator/main.go`.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::autoscaler::Status;
use super::config::AutoscalerReadiness;

/// What makes us ready.
#[derive(Debug)]
pub struct Health {
    leaving: AtomicBool,
    autoscaler: Arc<Status>,
    rule: AutoscalerReadiness,
    missing: ArcSwapOption<String>,
}

impl Health {
    /// Health that depends on the link to the autoscaler as `rule` says.
    #[must_use]
    pub fn new(autoscaler: Arc<Status>, rule: AutoscalerReadiness) -> Arc<Self> {
        Arc::new(Self { leaving: AtomicBool::new(false), autoscaler, rule, missing: ArcSwapOption::empty() })
    }

    /// The signal to leave has come.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// What TLS lacks, or that it lacks nothing. True if that is news.
    pub fn set_missing(&self, missing: Option<String>) -> bool {
        let before = self.missing.load_full();
        let news = before.as_deref() != missing.as_ref();
        if news {
            self.missing.store(missing.map(Arc::new));
        }
        news
    }

    /// Ready, or why not.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.leaving.load(Ordering::Relaxed) {
            return Err("received SIGTERM from kubelet".to_owned());
        }
        let link = &self.autoscaler;
        let down = match self.rule {
            AutoscalerReadiness::Once => !link.was_connected(),
            AutoscalerReadiness::Always => !link.is_connected(),
            AutoscalerReadiness::After(limit) => {
                !link.was_connected() || link.down_for().is_some_and(|down| down > limit)
            }
        };
        if down {
            return Err("connection has not yet been established".to_owned());
        }
        match &*self.missing.load() {
            Some(missing) => Err(format!("system-internal-tls is enabled, but {missing}")),
            None => Ok(()),
        }
    }
}
