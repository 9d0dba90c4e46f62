//! `OTEL_*` variables, one by one: a value that can't be used is ignored, with a warning in the log.
//!
//! Called at start, when the log exists, and by a component that follows `config-observability` at each change of it.
//!
//! Source: OpenTelemetry's specification, "Environment Variable Specification": what can't be parsed counts as unset
//! and is told. Go's SDK does the same.

use super::set;
use crate::config::env::Env;

/// The value of a variable, as `parse` takes it (blanks around it dropped); unset, or ignored after a warning: nothing.
pub(super) fn usable<T>(env: &dyn Env, name: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let value = set(env, name)?;
    let parsed = parse(value.trim());
    if parsed.is_none() {
        ignored(name, &value, expected);
    }
    parsed
}

/// A duration in milliseconds, at least 1.
pub(super) fn millis(env: &dyn Env, name: &str) -> Option<std::time::Duration> {
    let parse = |text: &str| text.parse().ok().filter(|millis| *millis > 0).map(std::time::Duration::from_millis);
    usable(env, name, "a number of milliseconds above 0", parse)
}

/// `a=b,c=d`, values percent-encoded, names and values as `keep` takes them; a part that is none is left out, after a
/// warning, which has its value only if that may be `told`.
pub(super) fn pairs(env: &dyn Env, name: &str, told: bool, keep: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
    let text = set(env, name).unwrap_or_default();
    let mut pairs = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let pair = part.split_once('=').and_then(|(key, value)| Some((key.trim(), percent_decode(value.trim())?)));
        match pair.filter(|(key, value)| !key.is_empty() && keep(key, value)) {
            Some((key, value)) => pairs.push((key.to_owned(), value)),
            None if told => ignored(name, part, PAIR),
            None => ignored(name, "(not shown)", PAIR),
        }
    }
    pairs
}

const PAIR: &str = "name=value, percent-encoded, with commas between several";

/// The attributes in `OTEL_RESOURCE_ATTRIBUTES`, in their order.
#[must_use]
pub fn resource_attributes(env: &dyn Env) -> Vec<(String, String)> {
    pairs(env, "OTEL_RESOURCE_ATTRIBUTES", true, |_, _| true)
}

/// Says that a value, or a part of it, counts as unset.
pub(super) fn ignored(name: &str, value: &str, expected: &str) {
    tracing::warn!("{name}={value:?} is ignored: expected {expected}");
}

/// Undoes percent-encoding; nothing if it is broken or not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}
