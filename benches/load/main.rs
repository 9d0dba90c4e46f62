//! The release binary under load, beside other proxies: `cargo bench --bench load -- [--quick] [--against CMD]`.
//!
//! The proxy has one CPU, this process (load generator and sample application) another. Rounds are interleaved, so that
//! a machine that grows slow does so for all; what is compared is above all CPU time of the proxy for a unit of work,
//! which holds on a shared machine where throughput does not. See `benches/README.md`.
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

mod app;
mod args;
mod chart;
mod client;
mod contender;
mod histogram;
mod html;
mod peers;
mod process;
mod results;
mod work;

use std::error::Error;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};

use args::Args;
use client::Tls;
use contender::Contender;
use results::Results;
use work::{Bench, Work};

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    if !args.bench {
        println!("load: run it by `cargo bench --bench load`");
        return Ok(());
    }
    let binary = args.binary()?;
    let cpus = process::Cpus::split()?;
    process::raise_descriptor_limit();
    let dir = tempfile::tempdir()?;
    let tls = Tls::mint(&dir.path().join("certs"))?;
    let app = app::App::start()?;
    let contenders = contender::all(&args, &binary, dir.path(), app.port())?;
    let names: Vec<String> = contenders.iter().map(|contender| contender.name.clone()).collect();
    println!("{}", cpus.in_words());
    println!("{} rounds: {}\n", args.rounds(), names.join(", "));

    let mut results = Results::new(names);
    let progress = Progress::new(args.rounds() * contenders.len() * Work::ALL.len());
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for round in 1..=args.rounds() {
        for (index, contender) in contenders.iter().enumerate() {
            let bench = Bench { contender, tls: &tls, cpus: &cpus, pace: args.pace() };
            for work in Work::ALL.iter().filter(|work| args.wants(**work)) {
                progress.step(&format!("round {round}, {}: {}", contender.name, work.title()));
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, bench.run(*work, index, &mut results))?;
            }
        }
    }
    progress.end();
    print!("{}", results.table());
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    write_report(&args.report(&binary), &html::page(&results, &cpus.in_words(), &versions(&contenders)))?;
    Ok(())
}

fn versions(contenders: &[Contender]) -> Vec<String> {
    contenders.iter().map(|contender| format!("{}: {}", contender.name, contender.about)).collect()
}

fn write_report(path: &Path, page: &str) -> Result<(), Failure> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, page)?;
    println!("report: {}", path.display());
    Ok(())
}

/// A bar on a terminal, a line a step elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl Progress {
    fn new(steps: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} {msg}").unwrap();
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(steps as u64).with_style(style));
        Self { bar, begun: Instant::now() }
    }

    fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(what.to_owned());
                bar.inc(1);
                bar.tick();
            }
            None => eprintln!("{:>6.1} s  {what}", self.begun.elapsed().as_secs_f64()),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

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
}
