//! What was wrong with the settings, as text and exit code.
//!
//! Called by `cli`, which prints [`Errors`] on standard error, or logs [`Errors::fatal`] once a logger exists. The
//! first line is word for word what Knative's component prints (`knative.dev/serving/pkg/queue/sharedmain`, through
//! `github.com/kelseyhightower/envconfig`), so that alerts on it keep working; the other mistakes follow in our words.
use std::fmt;

use super::value::Invalid;

/// Longest value that a message has in full, bytes.
const SHOWN: usize = 256;

/// A value as messages have it: quoted, and cut where it is long.
#[must_use]
pub fn shown(value: &str) -> String {
    if value.len() <= SHOWN {
        return format!("{value:?}");
    }
    let end = (0..=SHOWN).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    format!("{:?}... ({} bytes)", value.get(..end).unwrap_or_default(), value.len())
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A required variable is absent.
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A variable has a value that its type does not take.
    Invalid {
        /// The variable.
        name: &'static str,
        /// The field of the Go component that it fills; `None` for our own settings.
        field: Option<&'static str>,
        /// The value as it came.
        value: String,
        /// What is wrong with it.
        invalid: Invalid,
    },
    /// A mistake that the Go component finds when its logger already exists: one log line of severity EMERGENCY.
    Fatal {
        /// The message of the log line.
        message: &'static str,
        /// Its `error` key.
        error: String,
    },
}

impl Error {
    /// The line that Knative's component prints for this mistake.
    fn compatible(&self) -> String {
        match self {
            Self::Missing { name } => format!("required key {name} missing value"),
            Self::Invalid { name, field: Some(field), value, invalid: Invalid { go: Some(go), .. } } => format!(
                "envconfig.Process: assigning {name} to {field}: converting '{value}' to type {}. details: {}",
                go.kind, go.details
            ),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "{name}: required, but absent"),
            Self::Invalid { name, value, invalid, .. } => {
                write!(f, "{name}={}: expected {}", shown(value), invalid.expected)
            }
            Self::Fatal { message, error } => write!(f, "{message}: {error}"),
        }
    }
}

/// All mistakes of one start, in the order in which Knative's component would meet them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

impl Errors {
    /// Wraps the mistakes; [`Error::Fatal`] ones go last, since Go meets them later.
    pub fn new(mut mistakes: Vec<Error>) -> Self {
        mistakes.sort_by_key(|mistake| matches!(mistake, Error::Fatal { .. }));
        Self(mistakes)
    }

    /// The mistakes.
    pub fn all(&self) -> &[Error] {
        &self.0
    }

    /// Message and error text, if this is to be logged as one fatal line instead of being printed plainly.
    ///
    /// That is so when every mistake is one that Go finds after its logger exists.
    pub fn fatal(&self) -> Option<(&'static str, &str)> {
        match self.0.first() {
            Some(Error::Fatal { message, error }) => Some((message, error)),
            _ => None,
        }
    }

    /// The exit code: 1 where Knative's component exits with 1, 64 (EX_USAGE) if only our own settings are wrong.
    pub fn exit_code(&self) -> u8 {
        let only_ours = self.0.iter().all(|mistake| matches!(mistake, Error::Invalid { field: None, .. }));
        if only_ours && !self.0.is_empty() { 64 } else { 1 }
    }
}

impl fmt::Display for Errors {
    /// The compatible line, then one line for each other mistake; no line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.0.split_first() else {
            return f.write_str("the settings are not usable");
        };
        f.write_str(&first.compatible())?;
        others.iter().try_for_each(|mistake| write!(f, "\n{mistake}"))
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn given_a_long_value_when_shown_then_it_is_cut_between_characters() {
        assert_eq!(shown("a\"b"), r#""a\"b""#);
        let long = format!("{}{}", "x".repeat(255), "\u{e4}".repeat(10));
        assert_eq!(shown(&long), format!("\"{}\"... (275 bytes)", "x".repeat(255)));
    }
}
