//! `lockkeeper activator`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::env::ProcessEnv;
use crate::kube::source::Flags;

/// Everything else is set by the environment: see the README's reference.
#[derive(clap::Args, Clone, Debug)]
pub struct Command {
    /// A kubeconfig, for a process outside the cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The API server's URL, over the kubeconfig's.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The cluster in the kubeconfig.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

impl Command {
    /// Runs the role until it is told to leave.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { kubeconfig, server, cluster } = self;
        crate::activator::run(&ProcessEnv, &Flags { kubeconfig, server, cluster })
    }
}
