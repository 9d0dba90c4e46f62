//! `lockkeeper local`: start, say what runs where, rotate on demand, drain on Ctrl-C.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::local::app::App;
use crate::local::report::Report;
use crate::local::rotate::{rotate, served};
use crate::local::topology::{Certificates, NAMESPACE, Options, REVISION, Topology};
use crate::local::wake::Wake;

/// How long a pod outlives the last request: long enough to try it, short enough to see it go.
const IDLE: Duration = Duration::from_secs(20);
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
    let mut wake = match &topology.certificates {
        Certificates::Minted { authority, .. } => Some(Wake::start(authority, topology.state_dir(), IDLE).await?),
        // The CA's key is not here: there is no certificate for an activator.
        Certificates::Given(_) => None,
    };
    introduce(&topology, wake.as_ref(), &served(&topology).await?, report);
    let mut pods = wake.as_ref().map(|wake| wake.pod.clone());

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
                Some(pod) = pod_changed(&mut pods) => match pod {
                    Some(id) => report.say("scaled", &format!("scaled       to one: queue process {id}"), &[("pods", 1.into())]),
                    None => report.say("scaled", "scaled       to zero", &[("pods", 0.into())]),
                },
                _ = health.tick() => {
                    let activator = wake.as_mut().map(Wake::ended).transpose()?.flatten();
                    if let Some(words) = topology.queue_ended()?.or(activator) {
                        return Err(io::Error::other(words));
                    }
                }
            }
    }
    report.say("draining", "draining", &[]);
    if let Some(wake) = wake {
        wake.stop().await?;
    }
    topology.stop()?;
    report.say("stopped", "stopped", &[]);
    Ok(())
}

/// A pod's application: says on standard error where it listens, and ends with SIGTERM.
///
/// # Errors
/// When the address can't be had.
pub async fn sample_application(listen: SocketAddr) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let app = App::start(listen)?;
    eprintln!("sample application:{}", app.addr().port());
    terminate.recv().await;
    Ok(())
}

/// A `curl` line that works as printed: the certificate's name need not resolve.
fn curl(topology: &Topology) -> String {
    curl_to(topology, topology.ports().tls)
}

/// The same through the activator, which starts the application first.
fn cold_curl(topology: &Topology, wake: &Wake) -> String {
    let line = curl_to(topology, wake.tls_port);
    format!("{line} -H 'Knative-Serving-Namespace: {NAMESPACE}' -H 'Knative-Serving-Revision: {REVISION}'")
}

fn curl_to(topology: &Topology, port: u16) -> String {
    let name = match topology.certificates {
        Certificates::Minted { .. } => "localhost",
        Certificates::Given(_) => &topology.name,
    };
    let ca = topology.ca_path().display().to_string().replace('\'', r"'\''");
    format!("curl --cacert '{ca}' --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/")
}

/// The next start or end of the pod; never, without an activator.
async fn pod_changed(pods: &mut Option<watch::Receiver<Option<u32>>>) -> Option<Option<u32>> {
    match pods {
        Some(pods) => pods.changed().await.ok().map(|()| *pods.borrow_and_update()),
        None => std::future::pending().await,
    }
}

fn introduce(topology: &Topology, wake: Option<&Wake>, serial: &str, report: Report) {
    let ports = topology.ports();
    let app = topology.app.addr();
    let ca = topology.ca_path().display().to_string();
    let curl = curl(topology);
    let cold = wake.map(|wake| cold_curl(topology, wake)).unwrap_or_default();
    let activator = wake.map_or(String::new(), |wake| {
        format!(
            "activator    process {}\n  plaintext  http://127.0.0.1:{}/\n  TLS        https://127.0.0.1:{}/  certificate for kn-routing\n",
            wake.activator_id(),
            wake.http_port,
            wake.tls_port
        )
    });
    let from_zero = if cold.is_empty() { String::new() } else { format!("from zero    {cold}\n") };
    let text = format!(
        "application  http://{app}/\n\
         queue        process {}\n\
         \x20 plaintext  http://127.0.0.1:{}/\n\
         \x20 TLS        https://127.0.0.1:{}/  certificate for {}, serial {serial}\n\
         \x20 admin      http://127.0.0.1:{}/\n\
         \x20 statistics http://127.0.0.1:{}/metrics\n\
{activator}\
         CA           {ca}\n\
         try          {curl}\n\
{from_zero}\
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
        ("curl", curl.as_str().into()),
        ("activator_pid", wake.map(Wake::activator_id).into()),
        ("activator_http_port", wake.map(|wake| wake.http_port).into()),
        ("activator_tls_port", wake.map(|wake| wake.tls_port).into()),
        ("cold_curl", cold.as_str().into()),
    ];
    report.say("started", &text, &fields);
}
