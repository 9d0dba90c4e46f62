//! The log: one JSON object a line, with the keys and levels that the Go components write through zap.
//!
//! Everybody logs with `tracing`'s event macros; [`init`] installs the subscriber once, before anything else runs.
//! Spans of `tracing` are not used here (requests are traced by [`crate::telemetry::trace`]). Lines go to a
//! [`Writer`], so logging never blocks, on either side. Of equal messages in one second the first 100 pass and then
//! each 100th, as zap samples.
//!
//! Source: `knative.dev/pkg/logging` (`NewLogger`), `zapdriver` for the defaults, zap's `Config` for the settings.

mod encode;
mod sample;
pub(crate) mod settings;
mod subscriber;
mod throttle;

use std::fmt::Display;
use std::panic::Location;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tracing::Dispatch;

pub use settings::{Level, SettingsError};
pub use throttle::Throttle;

use crate::telemetry::writer::{self, Writer};
use encode::{Entry, Line};
use settings::{Output, Settings};
use subscriber::Subscriber;

/// How long the last words of a process that gives up may take to reach the log collector.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What every line of this process has in common.
pub(crate) struct Logger {
    settings: Settings,
    /// From which level on lines are written; the settings' at first.
    level: AtomicU8,
    name: &'static str,
    /// Fields that follow the message on every line, already JSON: `,"k":"v"` for each.
    context: Vec<u8>,
    writer: Writer,
}

static LOGGER: OnceLock<&'static Logger> = OnceLock::new();

/// Installs the log of this process.
///
/// `config_json` is a zap configuration (empty: the built-in one, JSON on stderr from level info), `level` overrides
/// its level unless empty or unknown. `component` becomes the logger's name, `key` (`<namespace>/<revision>`) and
/// `pod` become fields of each line unless empty. A bad configuration is replaced by the built-in one and logged as a
/// warning. Only the first call has an effect.
pub fn init(config_json: &str, level: &str, component: &'static str, key: &str, pod: &str) -> Taken {
    init_with(config_json, level, component, &[("knative.dev/key", key), ("knative.dev/pod", pod)])
}

/// What of its settings the log could use; the rest is ignored, as in Go, and a role may tell who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The configuration.
    pub config: bool,
    /// The level over it.
    pub level: bool,
}

/// As [`init`], with fields of the caller's choice on each line; empty ones are left out.
pub fn init_with(config_json: &str, level: &str, component: &'static str, own: &[(&str, &str)]) -> Taken {
    let taken_level = Level::parse(level).is_some();
    let (settings, failure) = match Settings::parse(config_json, level) {
        Ok(settings) => (settings, None),
        Err(e) => (Settings::builtin(level), Some(e)),
    };
    let writer = match settings.output {
        Output::Stdout => writer::stdout().clone(),
        Output::Stderr => writer::stderr().clone(),
    };
    // These two lines come before the component has its name and fields, as in Go.
    let mut context = Vec::new();
    let early = if failure.is_some() { "fallback-logger" } else { "" };
    match crate::telemetry::commit() {
        Some(commit) => encode::text_field(&mut context, "commit", commit),
        None => {
            let message = "Unable to read vcs.revision from binary";
            emit(&settings, early, &context, &writer, Level::Info, Location::caller(), message, None);
        }
    }
    if let Some(failure) = &failure {
        let message = "Failed to parse logging config - using default zap production config";
        emit(&settings, early, &context, &writer, Level::Warn, Location::caller(), message, Some(failure));
    }
    for (name, value) in own {
        if !value.is_empty() {
            encode::text_field(&mut context, name, value);
        }
    }
    let level = AtomicU8::new(settings.level as u8);
    let logger = Logger { settings, level, name: component, context, writer };
    // The logger lives as long as the process, as the dispatcher of `tracing` demands; there is only ever one.
    let logger = LOGGER.get_or_init(|| Box::leak(Box::new(logger)));
    let _ = tracing::dispatcher::set_global_default(Dispatch::new(Subscriber::new(logger)));
    Taken { config: failure.is_none(), level: taken_level }
}

/// Changes the level from which on lines are written. Empty: that of the configuration given to [`init`]; an unknown
/// word changes nothing.
pub fn set_level(level: &str) {
    let Some(logger) = LOGGER.get() else { return };
    let level = if level.is_empty() { Some(logger.settings.level) } else { Level::parse(level) };
    let Some(level) = level else { return };
    if logger.level.swap(level as u8, Ordering::Relaxed) != level as u8 {
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Logs one line of severity EMERGENCY and waits, for a second at most, until it is out. The caller exits with
/// status 1. Works before [`init`] too (on stderr).
#[track_caller]
pub fn fatal(message: &str, error: &dyn Display) {
    let place = Location::caller();
    match LOGGER.get() {
        Some(l) => emit(&l.settings, l.name, &l.context, &l.writer, Level::Fatal, place, message, Some(error)),
        None => {
            emit(&Settings::builtin(""), "", &[], writer::stderr(), Level::Fatal, place, message, Some(error));
        }
    }
    flush(LAST_WORDS);
}

/// Waits until every line is out, at most for `limit`. False if time ran out.
pub fn flush(limit: Duration) -> bool {
    writer::flush_all(limit)
}

/// Lines of the log and of the request log that were dropped because their reader stalled.
pub fn dropped_lines() -> u64 {
    writer::stdout().dropped() + writer::stderr().dropped()
}

/// Writes one line past sampling.
#[expect(clippy::too_many_arguments, reason = "three private callers; a struct would only repeat the names")]
fn emit(
    settings: &Settings,
    name: &str,
    context: &[u8],
    writer: &Writer,
    level: Level,
    place: &Location<'_>,
    message: &str,
    error: Option<&dyn Display>,
) {
    if level < settings.level {
        return;
    }
    let mut fields = Vec::new();
    if let Some(error) = error {
        encode::text_field(&mut fields, "error", &error.to_string());
    }
    let entry = Entry { level, name, file: place.file(), line: place.line(), message, context, fields: &fields };
    let mut line = Line::default();
    writer.line(line.encode(settings, &entry));
}
