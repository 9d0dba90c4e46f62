//! `lockkeeper queue`.

use std::process::ExitCode;

use crate::config::env::ProcessEnv;

/// Everything is set by the environment: see the README's reference.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Command {}

impl Command {
    /// Runs the role until it is told to leave.
    #[must_use]
    pub fn run(self) -> ExitCode {
        crate::queue::run(&ProcessEnv)
    }
}
