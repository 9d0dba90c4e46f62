//! Where settings come from: the environment of the process, or a map in tests.
use std::collections::HashMap;

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
