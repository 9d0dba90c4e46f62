//! How far a run has come.

use std::io::IsTerminal as _;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on a terminal, a line a step elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl Progress {
    pub(crate) fn new(steps: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} {msg}").unwrap();
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(steps as u64).with_style(style));
        Self { bar, begun: Instant::now() }
    }

    pub(crate) fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(what.to_owned());
                bar.inc(1);
                bar.tick();
            }
            None => eprintln!("{:>6.1} s  {what}", self.begun.elapsed().as_secs_f64()),
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
