//! `lockkeeper gateway`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::env::ProcessEnv;
use crate::kube::source::Flags;

/// Settings are in the environment and in ConfigMaps: see the README's reference.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Command {
    /// A kubeconfig file, in place of $KUBECONFIG.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The URL of the API server, in place of the kubeconfig's.
    #[arg(long)]
    server: Option<String>,
    /// The cluster of the kubeconfig to use.
    #[arg(long)]
    cluster: Option<String>,
}

impl Command {
    /// Runs the role until it is told to leave.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { kubeconfig, server, cluster } = self;
        crate::gateway::run(&ProcessEnv, &Flags { kubeconfig, server, cluster })
    }
}
