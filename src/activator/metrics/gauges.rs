//! Gauges and counters of the process as a whole: what waits, what is probed, which certificates there are.
//!
//! Control side, once at start; each value is read when somebody scrapes or pushes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Metrics;
use crate::activator::probing;
use crate::activator::throttle::Budget;
use crate::tls::{identity, trust};

/// The gauge of what expires.
const NOT_AFTER: &str = "lockkeeper_certificate_not_after_timestamp_seconds";

/// Adds them to `metrics`; `differences` are what the recomputation of revisions found.
pub fn register(
    metrics: &Metrics,
    budget: &Arc<Budget>,
    probes: &Arc<probing::Counters>,
    differences: Arc<AtomicU64>,
    trust: &Arc<trust::Store>,
    identity: &Arc<identity::Store>,
) {
    let used = budget.clone();
    metrics.gauge("lockkeeper_activator_waiting_bytes", "Bytes that waiting requests hold.", move || {
        Some(used.used() as f64)
    });
    let counted = probes.clone();
    metrics.counter("lockkeeper_activator_probes_total", "Probes of pods that were begun.", move || {
        counted.started.load(Ordering::Relaxed)
    });
    let counted = probes.clone();
    metrics.counter("lockkeeper_activator_probes_passed_total", "Probes of pods that passed.", move || {
        counted.passed.load(Ordering::Relaxed)
    });
    let counted = probes.clone();
    metrics.gauge("lockkeeper_activator_probing", "Addresses that are being probed now.", move || {
        Some(counted.probing.load(Ordering::Relaxed) as f64)
    });
    metrics.counter(
        "lockkeeper_activator_differences_total",
        "State that differed from what its inputs give when it was computed again: always a defect.",
        move || differences.load(Ordering::Relaxed),
    );
    let store = trust.clone();
    metrics.counter(
        "lockkeeper_trust_blocks_skipped_total",
        "Parts of ca.crt and of trust bundles that are no valid authority.",
        move || store.skipped(),
    );
    let store = trust.clone();
    metrics.counter(
        "lockkeeper_trust_kept_total",
        "How often no authority was left and the last good ones stayed.",
        move || store.kept(),
    );
    let store = identity.clone();
    metrics.counter("lockkeeper_certificate_reloads_total", "Certificates that were taken.", move || store.reloads());
    let help = "When the certificate in use, and the first of the authorities, expires.";
    let store = identity.clone();
    metrics.labelled(NOT_AFTER, help, &[("kind", "identity")], move || {
        store.current().map(|identity| identity.leaf.not_after.unix_timestamp() as f64)
    });
    let store = trust.clone();
    metrics.labelled(NOT_AFTER, help, &[("kind", "authority")], move || {
        let snapshot = store.snapshot()?;
        snapshot.anchors.iter().map(|anchor| anchor.not_after.unix_timestamp()).min().map(|first| first as f64)
    });
}
