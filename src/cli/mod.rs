//! The command line.

pub mod certs;
pub mod gateway;
pub mod local;
pub mod queue;

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
    match Cli::parse().command.unwrap_or(Command::Queue(queue::Command {})) {
        Command::Queue(command) => command.run(),
        Command::Gateway(command) => command.run(),
        Command::Local(command) => command.run(),
        Command::Certs(command) => command.run(),
    }
}
