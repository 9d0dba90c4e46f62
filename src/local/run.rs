//! `lockkeeper local`: start, say what runs where, rotate on demand, drain on Ctrl-C.
use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::local::report::Report;
use crate::local::rotate::{rotate, served};
use crate::local::topology::{Certificates, Options, Topology};

/// A period for a timer that is not looked at.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs until SIGINT or SIGTERM, then drains.
///
/// # Errors
/// When something does not start, the queue ends by itself, a rotation fails, or the drain does.
pub async fn run(options: &Options, rotate_every: Option<Duration>, report: Report) -> io::Result<()> {
    // Before anything starts: a Ctrl-C meanwhile must not leave a child behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut topology = Topology::start(options)?;
    introduce(&topology, &served(&topology).await?, report);

    let mut rotations = tokio::time::interval(rotate_every.unwrap_or(NEVER));
    rotations.tick().await;
    let mut health = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = rotations.tick(), if rotate_every.is_some() => {
                if let Some(rotation) = rotate(&mut topology).await? {
                    let milliseconds = u64::try_from(rotation.after.as_millis()).unwrap_or(u64::MAX);
                    let text = format!("rotated      serial {} served after {milliseconds} ms", rotation.serial);
                    let fields = [("serial", rotation.serial.as_str().into()), ("ms", milliseconds.into())];
                    report.say("rotated", &text, &fields);
                }
            }
            _ = health.tick() => if let Some(words) = topology.queue_ended()? {
                return Err(io::Error::other(words));
            },
        }
    }
    report.say("draining", "draining", &[]);
    topology.stop()?;
    report.say("stopped", "stopped", &[]);
    Ok(())
}

/// A `curl` line that works as printed: the certificate's name need not resolve.
fn curl(topology: &Topology) -> String {
    let name = match topology.certificates {
        Certificates::Minted { .. } => "localhost",
        Certificates::Given(_) => &topology.name,
    };
    let port = topology.ports().tls;
    let ca = topology.ca_path().display().to_string().replace('\'', r"'\''");
    format!("curl --cacert '{ca}' --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/")
}

fn introduce(topology: &Topology, serial: &str, report: Report) {
    let ports = topology.ports();
    let app = topology.app.addr();
    let ca = topology.ca_path().display().to_string();
    let curl = curl(topology);
    let text = format!(
        "application  http://{app}/\n\
         queue        process {}\n\
         \x20 plaintext  http://127.0.0.1:{}/\n\
         \x20 TLS        https://127.0.0.1:{}/  certificate for {}, serial {serial}\n\
         \x20 admin      http://127.0.0.1:{}/\n\
         \x20 statistics http://127.0.0.1:{}/metrics\n\
         CA           {ca}\n\
         try          {curl}\n\
         Ctrl-C drains and ends.",
        topology.queue_id(),
        ports.http,
        ports.tls,
        topology.name,
        ports.admin,
        ports.stats,
    );
    let fields = [
        ("app", app.to_string().into()),
        ("queue_pid", topology.queue_id().into()),
        ("http_port", ports.http.into()),
        ("tls_port", ports.tls.into()),
        ("admin_port", ports.admin.into()),
        ("stats_port", ports.stats.into()),
        ("san", topology.name.as_str().into()),
        ("serial", serial.into()),
        ("ca", ca.into()),
        ("curl", curl.into()),
    ];
    report.say("started", &text, &fields);
}
