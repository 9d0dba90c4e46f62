//! The control side: one single-threaded runtime, on the main thread.
//!
//! File watching, probes of the application, admin and metrics listeners and telemetry export live here, so that none
//! of them can delay a request.

pub mod export;
pub mod listener;
pub mod push;
pub mod scrape;
