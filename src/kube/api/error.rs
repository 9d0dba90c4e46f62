//! Why a request to the API server failed.
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A setting or a file that belongs to it can't be used.
    Settings(String),
    /// There is no connection, or it broke, or took too long.
    Lost(String),
    /// The server refused.
    Refused(Refusal),
    /// The server's answer makes no sense.
    Nonsense(String),
    /// The server is too old.
    TooOld(String),
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its status.
    pub status: StatusCode,
    /// Its reason, such as `Expired`; may be empty.
    pub reason: String,
    /// In words.
    pub message: String,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads the `Status` object of an answer or an event.
    pub(super) fn read(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Status {
            code: u16,
            reason: String,
            message: String,
        }
        let read: Status = serde_json::from_slice(body).unwrap_or_default();
        let status = StatusCode::from_u16(read.code).unwrap_or(status);
        let message = match read.message.is_empty() {
            true => String::from_utf8_lossy(body.get(..200).unwrap_or(body)).trim().to_owned(),
            false => read.message,
        };
        Self { status, reason: read.reason, message, retry_after }
    }

    /// Whether the version that was asked for is no longer there, so that the whole set must be read again.
    pub fn is_expired(&self) -> bool {
        self.status == StatusCode::GONE || self.reason == "Expired"
    }
}

impl Error {
    pub(super) fn settings(why: impl fmt::Display) -> Self {
        Self::Settings(why.to_string())
    }

    pub(super) fn lost(why: impl Into<Why>) -> Self {
        Self::Lost(why.into().0)
    }

    /// Whether the server said that what was asked for is no longer there.
    pub(super) fn is_expired(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.is_expired())
    }
}

/// A reason with those behind it, on one line.
pub(super) struct Why(String);

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<hyper::Error> for Why {
    fn from(error: hyper::Error) -> Self {
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(why) | Self::Lost(why) | Self::Nonsense(why) | Self::TooOld(why) => f.write_str(why),
            Self::Refused(Refusal { status, message, .. }) => write!(f, "{status}: {message}"),
        }
    }
}

impl std::error::Error for Error {}
