//! Where settings come from: the environment of the process, or a map in tests; and the [`Reader`] that turns them
//! into typed values while collecting every mistake.
//!
//! Called by each role's `Config::from_env`, once, at start. Rule: the mistakes are kept in the order in which the role
//! asks, because Knative's components print only the first one in their own order.
use std::collections::HashMap;

use super::error::{Error, Errors};
use super::value::Invalid;

/// A source of environment variables.
pub trait Env {
    /// The value of `name`, if it is present (possibly empty). Bytes that are not UTF-8 are replaced.
    fn var(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
    }
}

impl Env for HashMap<String, String> {
    fn var(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }
}

/// Reads variables and remembers what was wrong with them.
///
/// Every reading method returns `None` after a mistake; [`Reader::finish`] then gives all mistakes at once.
pub struct Reader<'e> {
    env: &'e dyn Env,
    mistakes: Vec<Error>,
}

impl<'e> Reader<'e> {
    /// A reader without mistakes so far.
    pub fn new(env: &'e dyn Env) -> Self {
        Self { env, mistakes: Vec::new() }
    }

    /// A variable that Knative's own components require to be *present*; an empty value goes to `parse`.
    ///
    /// `field` is the field's name in the Go component, which is part of the message for a bad value.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        field: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        match self.env.var(name) {
            Some(value) => self.parse(name, Some(field), value, parse),
            None => {
                self.mistakes.push(Error::Missing { name });
                None
            }
        }
    }

    /// A variable of Knative's own components that may be absent; when it is present, even empty, it must parse.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        field: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        match self.env.var(name) {
            Some(value) => self.parse(name, Some(field), value, parse),
            None => Some(default),
        }
    }

    /// One of our own settings: absent or empty means `default`.
    pub fn or<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        match self.env.var(name).filter(|value| !value.is_empty()) {
            Some(value) => self.parse(name, None, value, parse),
            None => Some(default),
        }
    }

    /// A string as it is; empty if the variable is absent.
    pub fn text(&self, name: &str) -> String {
        self.env.var(name).unwrap_or_default()
    }

    /// A string, if the variable is present and not empty.
    pub fn non_empty(&self, name: &str) -> Option<String> {
        self.env.var(name).filter(|value| !value.is_empty())
    }

    /// Records a mistake that a role found by itself.
    pub fn mistake(&mut self, mistake: Error) {
        self.mistakes.push(mistake);
    }

    /// The value that `build` makes of what was read.
    ///
    /// # Errors
    /// All mistakes, if there was any; `build` is not called then.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Errors> {
        if !self.mistakes.is_empty() {
            return Err(Errors::new(self.mistakes));
        }
        build().ok_or_else(|| Errors::new(Vec::new()))
    }

    fn parse<T>(
        &mut self,
        name: &'static str,
        field: Option<&'static str>,
        value: String,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(invalid) => {
                self.mistakes.push(Error::Invalid { name, field, value, invalid });
                None
            }
        }
    }
}
