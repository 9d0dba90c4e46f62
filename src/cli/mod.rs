//! The command line.

pub mod activator;
pub mod certs;
pub mod gateway;
pub mod local;
pub mod queue;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The data plane of Knative Serving: a role for each place in the path of a request.
#[derive(Debug, Parser)]
#[command(name = "lockkeeper", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The sidecar in each revision's pod, in place of Knative's queue-proxy (what runs without a command).
    Queue(queue::Command),
    /// Holds requests while a revision wakes up, in place of Knative's activator.
    Activator(activator::Command),
    /// The ingress, in place of net-kourier's controller and its Envoy.
    Gateway(gateway::Command),
    Local(local::Command),
    /// Mint, show and check certificates.
    Certs(certs::Command),
}

/// Parses the arguments and runs the role.
#[must_use]
pub fn run() -> ExitCode {
    // Knative's controller sets the sidecar's image and never its arguments.
    match Cli::parse_from(go_flags(std::env::args_os())).command.unwrap_or(Command::Queue(queue::Command {})) {
        Command::Queue(command) => command.run(),
        Command::Activator(command) => command.run(),
        Command::Gateway(command) => command.run(),
        Command::Local(command) => command.run(),
        Command::Certs(command) => command.run(),
    }
}

/// Go's flags have one dash or two, as one likes: `-kubeconfig` is `--kubeconfig`.
fn go_flags(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.map(|argument| match argument.to_str().and_then(|text| text.strip_prefix('-')) {
        Some(flag) if flag.len() > 1 && !flag.starts_with('-') => OsString::from(format!("--{flag}")),
        _ => argument,
    })
}
