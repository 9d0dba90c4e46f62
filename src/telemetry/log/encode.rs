//! One entry to one line, as zap's JSON and console encoders write it.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use super::settings::{Encoding, Level, LevelNames, Settings, TimeFormat};
use crate::telemetry::json;

/// What a line says.
pub(super) struct Entry<'a> {
    pub(super) level: Level,
    pub(super) name: &'a str,
    pub(super) file: &'a str,
    pub(super) line: u32,
    pub(super) message: &'a str,
    /// Fields of every line, as JSON: `,"k":"v"` for each.
    pub(super) context: &'a [u8],
    /// Fields of this line, in the same form.
    pub(super) fields: &'a [u8],
}

/// A buffer for lines.
#[derive(Default)]
pub(super) struct Line(Vec<u8>);

impl Line {
    pub(super) fn encode(&mut self, settings: &Settings, entry: &Entry<'_>) -> &[u8] {
        self.encode_at(settings, entry, SystemTime::now())
    }

    fn encode_at(&mut self, settings: &Settings, entry: &Entry<'_>, now: SystemTime) -> &[u8] {
        self.0.clear();
        match settings.encoding {
            Encoding::Json => encode_json(&mut self.0, settings, entry, now),
            Encoding::Console => encode_console(&mut self.0, settings, entry, now),
        }
        self.0.extend_from_slice(settings.line_ending.as_bytes());
        &self.0
    }
}

/// Appends `,"name":"value"`.
pub(super) fn text_field(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    json::quote(out, value);
}

/// Appends `,"name":`.
pub(super) fn key(out: &mut Vec<u8>, name: &str) {
    out.push(b',');
    json::quote(out, name);
    out.push(b':');
}

fn encode_json(out: &mut Vec<u8>, s: &Settings, entry: &Entry<'_>, now: SystemTime) {
    if !s.level_key.is_empty() {
        text_field(out, &s.level_key, level_name(s.level_names, entry.level));
    }
    if !s.time_key.is_empty() {
        key(out, &s.time_key);
        let quoted = matches!(s.time_format, TimeFormat::Rfc3339 | TimeFormat::Rfc3339Nano | TimeFormat::Iso8601);
        out.extend(quoted.then_some(b'"'));
        timestamp(out, s.time_format, now);
        out.extend(quoted.then_some(b'"'));
    }
    if !s.name_key.is_empty() && !entry.name.is_empty() {
        text_field(out, &s.name_key, entry.name);
    }
    if !s.caller_key.is_empty() {
        key(out, &s.caller_key);
        out.push(b'"');
        caller(out, s.full_caller, entry);
        out.push(b'"');
    }
    if !s.message_key.is_empty() {
        text_field(out, &s.message_key, entry.message);
    }
    out.extend_from_slice(entry.context);
    out.extend_from_slice(entry.fields);
    // Each part began with a comma; the first one becomes the opening brace.
    match out.first_mut() {
        Some(first) => *first = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

fn encode_console(out: &mut Vec<u8>, s: &Settings, entry: &Entry<'_>, now: SystemTime) {
    if !s.time_key.is_empty() {
        timestamp(out, s.time_format, now);
        out.push(b'\t');
    }
    if !s.level_key.is_empty() {
        out.extend_from_slice(level_name(s.level_names, entry.level).as_bytes());
        out.push(b'\t');
    }
    if !s.name_key.is_empty() && !entry.name.is_empty() {
        out.extend_from_slice(entry.name.as_bytes());
        out.push(b'\t');
    }
    if !s.caller_key.is_empty() {
        caller(out, s.full_caller, entry);
        out.push(b'\t');
    }
    if !s.message_key.is_empty() {
        // The message may carry what a peer sent: a line break in it must not forge a line.
        json::escape(out, entry.message);
    }
    let start = out.len();
    out.extend_from_slice(entry.context);
    out.extend_from_slice(entry.fields);
    if let Some(first) = out.get_mut(start) {
        *first = b'{';
        out.insert(start, b'\t');
        out.push(b'}');
    }
}

/// zap's short caller: the last folder and the file.
fn caller(out: &mut Vec<u8>, full: bool, entry: &Entry<'_>) {
    let path = entry.file;
    let short = match path.rmatch_indices('/').nth(1) {
        Some((at, _)) if !full => path.get(at + 1..).unwrap_or(path),
        _ => path,
    };
    json::escape(out, short);
    let _ = write!(out, ":{}", entry.line);
}

fn level_name(names: LevelNames, level: Level) -> &'static str {
    let (stackdriver, capital, lower) = match level {
        Level::Debug => ("DEBUG", "DEBUG", "debug"),
        Level::Info => ("INFO", "INFO", "info"),
        Level::Warn => ("WARNING", "WARN", "warn"),
        Level::Error => ("ERROR", "ERROR", "error"),
        Level::DPanic => ("CRITICAL", "DPANIC", "dpanic"),
        Level::Panic => ("ALERT", "PANIC", "panic"),
        Level::Fatal => ("EMERGENCY", "FATAL", "fatal"),
    };
    match names {
        LevelNames::Stackdriver => stackdriver,
        LevelNames::Capital => capital,
        LevelNames::Lower => lower,
    }
}

fn timestamp(out: &mut Vec<u8>, format: TimeFormat, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    match format {
        TimeFormat::Epoch => drop(write!(out, "{}", since.as_secs_f64())),
        TimeFormat::EpochMillis => drop(write!(out, "{}", since.as_secs_f64() * 1000.0)),
        TimeFormat::EpochNanos => drop(write!(out, "{}", since.as_nanos())),
        TimeFormat::Rfc3339 | TimeFormat::Rfc3339Nano | TimeFormat::Iso8601 => {
            let t = OffsetDateTime::from(now);
            let (date, hour, minute, second) = (t.date(), t.hour(), t.minute(), t.second());
            let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
            let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            match format {
                TimeFormat::Iso8601 => drop(write!(out, ".{:03}", t.millisecond())),
                TimeFormat::Rfc3339Nano if t.nanosecond() != 0 => {
                    let _ = write!(out, ".{:09}", t.nanosecond());
                    while out.last() == Some(&b'0') {
                        out.pop();
                    }
                }
                _ => {}
            }
            out.push(b'Z');
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn line(settings: &Settings, nanos: u32) -> String {
        let mut context = Vec::new();
        text_field(&mut context, "knative.dev/key", "default/hello-00001");
        text_field(&mut context, "knative.dev/pod", "hello-00001-deployment-0");
        let entry = Entry {
            level: Level::Info,
            name: "queueproxy",
            file: "src/certificate/watcher.go",
            line: 135,
            message: "Certificate and/or key have changed on disk and were reloaded.",
            context: &context,
            fields: &[],
        };
        let now = UNIX_EPOCH + Duration::new(1_795_498_484, nanos);
        String::from_utf8(Line::default().encode_at(settings, &entry, now).to_vec()).unwrap()
    }

    /// The line that the documented check finds, byte for byte as the Go component writes it.
    #[test]
    fn given_the_builtin_settings_when_a_line_is_encoded_then_it_is_go_s() {
        assert_eq!(
            line(&Settings::builtin(""), 919_169_822),
            concat!(
                r#"{"severity":"INFO","timestamp":"2026-11-24T05:34:44.919169822Z","logger":"queueproxy","#,
                r#""caller":"certificate/watcher.go:135","#,
                r#""message":"Certificate and/or key have changed on disk and were reloaded.","#,
                r#""knative.dev/key":"default/hello-00001","knative.dev/pod":"hello-00001-deployment-0"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn given_other_time_encoders_when_a_line_is_encoded_then_the_timestamp_follows() {
        for (encoder, nanos, expected) in [
            ("iso8601", 460_900_000, r#""2026-11-24T05:34:44.460Z""#),
            ("rfc3339nano", 460_900_000, r#""2026-11-24T05:34:44.4609Z""#),
            ("rfc3339nano", 0, r#""2026-11-24T05:34:44Z""#),
            ("rfc3339", 1, r#""2026-11-24T05:34:44Z""#),
            ("nanos", 1, "1795498484000000001"),
            ("", 500_000_000, "1795498484.5"),
        ] {
            let config = format!(r#"{{"encoderConfig":{{"timeEncoder":"{encoder}"}}}}"#);
            let line = line(&Settings::parse(&config, "").unwrap(), nanos);
            assert!(line.contains(&format!(r#""timestamp":{expected},"#)), "{encoder}: {line}");
        }
    }

    #[test]
    fn given_empty_keys_when_a_line_is_encoded_then_their_parts_are_left_out() {
        let config = r#"{"encoderConfig":{"levelKey":"","timeKey":"","nameKey":"","callerKey":"","messageKey":"m"}}"#;
        let line = line(&Settings::parse(config, "").unwrap(), 0);

        assert!(line.starts_with(r#"{"m":"Certificate and/or"#), "{line}");
    }

    #[test]
    fn given_console_encoding_when_a_line_is_encoded_then_parts_are_separated_by_tabs() {
        let config = r#"{"encoding":"console","encoderConfig":{"levelEncoder":"capital","timeEncoder":"iso8601"}}"#;
        let line = line(&Settings::parse(config, "").unwrap(), 0);

        assert_eq!(
            line,
            concat!(
                "2026-11-24T05:34:44.000Z\tINFO\tqueueproxy\tcertificate/watcher.go:135\t",
                "Certificate and/or key have changed on disk and were reloaded.\t",
                r#"{"knative.dev/key":"default/hello-00001","knative.dev/pod":"hello-00001-deployment-0"}"#,
                "\n"
            )
        );
    }
}
