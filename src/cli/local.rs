//! `lockkeeper local`: the whole chain on this machine.
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::knative::names;
use crate::local::report::Report;
use crate::local::topology::{Options, loopback};
use crate::local::{check, rotate_ca, run};

/// Run a sample application behind the queue, and the whole chain of gateway, activator and queue before another one that
/// the first request starts, with certificates made for them.
#[derive(Args, Debug)]
pub struct Command {
    /// Send one round of requests through every listener, say what was verified, and end.
    #[arg(long, conflicts_with = "rotate_every")]
    check: bool,
    /// Use tls.crt, tls.key and ca.crt of this directory instead of minting, for the queue and its application alone: the
    /// others need certificates that only the authority's key makes. What is put in place meanwhile is served.
    #[arg(long, value_name = "DIR", conflicts_with = "rotate_every")]
    certs_dir: Option<PathBuf>,
    /// With --certs-dir: the certificate has to be for a queue of this namespace, instead of for whichever name it bears.
    #[arg(long, value_name = "NAMESPACE", requires = "certs_dir", value_parser = names::namespace)]
    namespace: Option<String>,
    /// Replace the leaf this often (5s, 500ms, 1m).
    #[arg(long, value_name = "TIME", value_parser = period)]
    rotate_every: Option<Duration>,
    /// Replace the certificate authority of the whole chain under load, step by step as OpenShift documents it, and end.
    #[arg(long, conflicts_with_all = ["check", "rotate_every", "certs_dir"])]
    rotate_ca: bool,
    /// With --rotate-ca: how long the old authority stays trusted after everything was issued again.
    #[arg(long, value_name = "TIME", value_parser = period, default_value = "5s", requires = "rotate_ca")]
    grace: Duration,
    /// Plaintext port of the queue; 0 is any free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    http_port: u16,
    /// TLS port of the queue.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    tls_port: u16,
    /// Admin port of the queue.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    admin_port: u16,
    /// Port of the autoscaler's statistics.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    stats_port: u16,
    /// Port of the sample application.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    app_port: u16,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Be the sample application of a pod, and nothing else.
    #[arg(long, hide = true)]
    sample_application: bool,
}

impl Command {
    /// Runs it; 0 when all went well, 1 with the reason on standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let report = Report { json: self.json };
        let options = Options {
            certs_dir: self.certs_dir,
            namespace: self.namespace,
            http_port: self.http_port,
            tls_port: self.tls_port,
            admin_port: self.admin_port,
            stats_port: self.stats_port,
            app_port: self.app_port,
        };
        let result = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let tasks = tokio::task::LocalSet::new();
            if self.sample_application {
                tasks.block_on(&runtime, run::sample_application(loopback(self.app_port)))
            } else if self.rotate_ca {
                tasks.block_on(&runtime, rotate_ca::run(self.grace, report))
            } else if self.check {
                tasks.block_on(&runtime, check::check(&options, report))
            } else {
                tasks.block_on(&runtime, run::run(&options, self.rotate_every, report))
            }
        });
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        }
    }
}

fn complain(error: &io::Error) {
    eprintln!("lockkeeper local: {error}");
}

fn period(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("expected a whole number and a unit, such as 500ms, 5s or 1m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    match number.checked_mul(milliseconds) {
        Some(total) if total > 0 => Ok(Duration::from_millis(total)),
        _ => Err("expected a period of at least a millisecond".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_periods_are_parsed_then_units_count_and_nonsense_is_named() {
        assert_eq!(period("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(period("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["", "5", "s", "0s", "5h", "-1s", "99999999999999999999s"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }
}
