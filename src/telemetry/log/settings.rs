//! zap's configuration, as far as it changes what is written: level, encoding, output, keys and encoders.
//!
//! Parsed once by [`super::init`]. As in Go, what is absent keeps its built-in value, an empty key leaves its part out
//! of the line, and names of settings match without case.

use std::fmt;

use serde_json::{Map, Value};

/// zap's levels, in order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// `DEBUG`; also takes `tracing`'s trace level.
    Debug,
    /// `INFO`
    Info,
    /// `WARNING`
    Warn,
    /// `ERROR`
    Error,
    /// `CRITICAL`; only a threshold here, nothing is logged at it.
    DPanic,
    /// `ALERT`; only a threshold here.
    Panic,
    /// `EMERGENCY`: the process exits.
    Fatal,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Self> {
        // zap takes a word as it is or in lower case; an empty one is info.
        Some(match text.to_lowercase().as_str() {
            "debug" => Self::Debug,
            "info" | "" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" => Self::Error,
            "dpanic" => Self::DPanic,
            "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            _ => return None,
        })
    }
}

/// Why a logging configuration was refused.
#[derive(Debug)]
pub struct SettingsError(String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

/// Where the lines go. Files are refused: the sidecar's file system is read-only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    Json,
    Console,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LevelNames {
    /// `WARNING`, `EMERGENCY`: Stackdriver's, the built-in ones.
    Stackdriver,
    /// `WARN`, `FATAL`
    Capital,
    /// `warn`, `fatal`
    Lower,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TimeFormat {
    Rfc3339,
    Rfc3339Nano,
    /// `2026-11-24T05:47:11.460Z`
    Iso8601,
    /// Seconds since 1970, with a fraction; zap's choice for a word that it does not know.
    Epoch,
    EpochMillis,
    EpochNanos,
}

/// A zap configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) level: Level,
    pub(super) encoding: Encoding,
    pub(super) output: Output,
    pub(super) time_key: String,
    pub(super) level_key: String,
    pub(super) name_key: String,
    pub(super) caller_key: String,
    pub(super) message_key: String,
    pub(super) line_ending: String,
    pub(super) level_names: LevelNames,
    pub(super) time_format: TimeFormat,
    pub(super) full_caller: bool,
    pub(super) sampling: bool,
}

impl Settings {
    /// What `zapdriver` and `knative.dev/pkg/logging` have built in, with the level override.
    pub(super) fn builtin(level: &str) -> Self {
        let mut settings = Self {
            level: Level::Info,
            encoding: Encoding::Json,
            output: Output::Stderr,
            time_key: "timestamp".into(),
            level_key: "severity".into(),
            name_key: "logger".into(),
            caller_key: "caller".into(),
            message_key: "message".into(),
            line_ending: "\n".into(),
            level_names: LevelNames::Stackdriver,
            time_format: TimeFormat::Rfc3339Nano,
            full_caller: false,
            sampling: true,
        };
        settings.override_level(level);
        settings
    }

    /// The built-in settings with those of `json` over them (empty: none), then the level override.
    pub(crate) fn parse(json: &str, level: &str) -> Result<Self, SettingsError> {
        let mut settings = Self::builtin("");
        if !json.is_empty() {
            match serde_json::from_str(json) {
                Ok(Value::Object(top)) => settings.apply(&top)?,
                Ok(Value::Null) => {}
                Ok(_) => return Err(SettingsError("expected a JSON object".into())),
                Err(e) => return Err(SettingsError(e.to_string())),
            }
        }
        settings.override_level(level);
        Ok(settings)
    }

    fn override_level(&mut self, level: &str) {
        if !level.is_empty()
            && let Some(level) = Level::parse(level)
        {
            self.level = level;
        }
    }

    fn apply(&mut self, top: &Map<String, Value>) -> Result<(), SettingsError> {
        if let Some(level) = text(top, "level")? {
            self.level =
                Level::parse(level).ok_or_else(|| SettingsError(format!("level: unrecognized level: {level:?}")))?;
        }
        if let Some(encoding) = text(top, "encoding")? {
            self.encoding = match encoding {
                "json" => Encoding::Json,
                "console" => Encoding::Console,
                other => return Err(SettingsError(format!("no encoder registered for name {other:?}"))),
            };
        }
        if let Some(paths) = get(top, "outputPaths") {
            self.output = output(paths)?;
        }
        // `"sampling": null` leaves the built-in sampling in place, an object replaces its numbers.
        if let Some(true) = get(top, "disableCaller").and_then(Value::as_bool) {
            self.caller_key.clear();
        }
        match get(top, "encoderConfig") {
            Some(Value::Object(encoder)) => self.apply_encoder(encoder),
            Some(_) => Err(SettingsError("encoderConfig: expected an object".into())),
            None => Ok(()),
        }
    }

    fn apply_encoder(&mut self, encoder: &Map<String, Value>) -> Result<(), SettingsError> {
        let no_caller = self.caller_key.is_empty();
        for (name, key) in [
            ("timeKey", &mut self.time_key),
            ("levelKey", &mut self.level_key),
            ("nameKey", &mut self.name_key),
            ("callerKey", &mut self.caller_key),
            ("messageKey", &mut self.message_key),
            ("lineEnding", &mut self.line_ending),
        ] {
            if let Some(value) = text(encoder, name)? {
                *key = value.to_owned();
            }
        }
        if no_caller {
            self.caller_key.clear();
        }
        if self.line_ending.is_empty() {
            self.line_ending.push('\n');
        }
        if let Some(names) = text(encoder, "levelEncoder")? {
            self.level_names = match names {
                "capital" | "capitalColor" => LevelNames::Capital,
                _ => LevelNames::Lower,
            };
        }
        if let Some(format) = text(encoder, "timeEncoder")? {
            self.time_format = match format {
                "rfc3339nano" | "RFC3339Nano" => TimeFormat::Rfc3339Nano,
                "rfc3339" | "RFC3339" => TimeFormat::Rfc3339,
                "iso8601" | "ISO8601" => TimeFormat::Iso8601,
                "millis" => TimeFormat::EpochMillis,
                "nanos" => TimeFormat::EpochNanos,
                _ => TimeFormat::Epoch,
            };
        }
        if let Some(caller) = text(encoder, "callerEncoder")? {
            self.full_caller = caller == "full";
        }
        Ok(())
    }
}

/// The first output decides: two copies of each line help nobody.
fn output(paths: &Value) -> Result<Output, SettingsError> {
    let first = match paths {
        Value::Array(paths) => paths.first(),
        _ => return Err(SettingsError("outputPaths: expected an array".into())),
    };
    match first.and_then(Value::as_str) {
        Some("stdout") => Ok(Output::Stdout),
        Some("stderr") => Ok(Output::Stderr),
        Some(other) => Err(SettingsError(format!("outputPaths: expected stdout or stderr, found {other:?}"))),
        None => Err(SettingsError("outputPaths: expected stdout or stderr".into())),
    }
}

/// A member by its name without case, the exact name first; null counts as absent, as in Go.
fn get<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found = object.get(name).or_else(|| object.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
    found.filter(|v| !v.is_null())
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, SettingsError> {
    match get(object, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(SettingsError(format!("{name}: expected a string"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What `config-logging` ships.
    const SHIPPED: &str = r#"{"level":"info","development":false,"outputPaths":["stdout"],"errorOutputPaths":["stderr"],
        "encoding":"json","encoderConfig":{"timeKey":"timestamp","levelKey":"severity","nameKey":"logger",
        "callerKey":"caller","messageKey":"message","stacktraceKey":"stacktrace","lineEnding":"","levelEncoder":"",
        "timeEncoder":"iso8601","durationEncoder":"","callerEncoder":""}}"#;

    #[test]
    fn when_the_shipped_config_is_parsed_then_lines_are_lower_case_on_stdout() {
        let settings = Settings::parse(SHIPPED, "").unwrap();

        assert_eq!(settings.output, Output::Stdout);
        assert_eq!(settings.level_names, LevelNames::Lower);
        assert_eq!(settings.time_format, TimeFormat::Iso8601);
        assert_eq!(settings.line_ending, "\n");
        assert_eq!(settings.level, Level::Info);
    }

    #[test]
    fn given_a_level_override_when_it_is_a_level_then_it_wins_and_else_it_is_ignored() {
        assert_eq!(Settings::parse(SHIPPED, "DEBUG").unwrap().level, Level::Debug);
        assert_eq!(Settings::parse(r#"{"level":"error"}"#, "loud").unwrap().level, Level::Error);
        assert_eq!(Settings::builtin("Warn").level, Level::Warn);
    }

    #[test]
    fn when_names_differ_in_case_then_they_still_count() {
        let settings = Settings::parse(r#"{"EncoderConfig":{"TIMEKEY":"ts","nameKey":""}}"#, "").unwrap();

        assert_eq!((settings.time_key.as_str(), settings.name_key.as_str()), ("ts", ""));
    }

    #[test]
    fn when_a_config_is_bad_then_it_is_refused() {
        for bad in [
            "{",
            "[]",
            r#"{"level":"loud"}"#,
            r#"{"level":3}"#,
            r#"{"encoding":"xml"}"#,
            r#"{"outputPaths":["/var/log/x"]}"#,
            r#"{"outputPaths":"stdout"}"#,
            r#"{"encoderConfig":[]}"#,
            r#"{"encoderConfig":{"timeKey":1}}"#,
        ] {
            assert!(Settings::parse(bad, "").is_err(), "{bad}");
        }
    }
}
