//! The release binary under load, a role at a time: `cargo bench --bench load -- [--role ROLE] [--quick]`.
//!
//! The proxy has one CPU, this process (load generator, sample application, API server) another. Rounds are
//! interleaved, so that a machine that grows slow does so for all; what is compared is above all CPU time of the proxy
//! for a unit of work, which holds on a shared machine where throughput does not. See `benches/README.md`.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod activator;
mod app;
mod args;
mod chart;
mod client;
mod contender;
mod drive;
mod gateway;
mod histogram;
mod html;
mod peers;
mod process;
mod progress;
mod queue;
mod results;
mod support;
mod work;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser as _;

use args::{Args, Role};
use client::Tls;
use process::Cpus;
use results::Results;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    if !args.bench {
        println!("load: run it by `cargo bench --bench load`");
        return Ok(());
    }
    let binary = args.binary()?;
    let cpus = Cpus::split()?;
    process::raise_descriptor_limit();
    let dir = tempfile::tempdir()?;
    let tls = Tls::mint(&dir.path().join("certs"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", cpus.in_words());
    let report = args.report(&binary);
    let stage = Stage { args, binary, cpus, dir: dir.path().to_owned(), tls, runtime };
    let begun = Instant::now();
    let (results, versions) = match stage.args.role {
        Role::Queue => queue::run(&stage)?,
        Role::Activator => activator::run(&stage)?,
        Role::Gateway => gateway::run(&stage)?,
    };
    print!("{}", results.table());
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    write_report(&report, &html::page(&results, &stage.cpus.in_words(), &versions))?;
    Ok(())
}

fn write_report(path: &Path, page: &str) -> Result<(), Failure> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, page)?;
    println!("report: {}", path.display());
    Ok(())
}

/// What all roles are measured with.
pub(crate) struct Stage {
    pub(crate) args: Args,
    /// The binary that is measured.
    pub(crate) binary: PathBuf,
    pub(crate) cpus: Cpus,
    /// For files of the run.
    pub(crate) dir: PathBuf,
    pub(crate) tls: Tls,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Stage {
    /// Runs `work` to its end on this thread, with the tasks that it starts; they end with it.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::task::LocalSet::new().block_on(&self.runtime, work)
    }

    /// The binary's path for a command.
    pub(crate) fn command(&self, role: &str) -> Result<Vec<String>, Failure> {
        Ok(vec![self.binary.to_str().ok_or("a path that is not UTF-8")?.to_owned(), role.to_owned()])
    }
}

/// Figures and versions, a role's outcome.
pub(crate) type Outcome = (Results, Vec<String>);

/// How long and how hard each work is done.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// As fast as it goes, for CPU time and throughput.
    pub(crate) flat_out: Duration,
    /// At a fixed rate, for latency.
    pub(crate) paced: Duration,
    /// Connections for handshakes.
    pub(crate) handshakes: usize,
    /// Connections that stay open and idle.
    pub(crate) idle: usize,
    /// Rest before memory is read.
    pub(crate) rest: Duration,
    /// Cold starts of each kind.
    pub(crate) cold_starts: usize,
    /// Changes among many objects.
    pub(crate) changes: usize,
}
