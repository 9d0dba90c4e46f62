//! `lockkeeper local`: start, say what runs where, rotate on demand, drain on Ctrl-C.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::DnsName;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::local::app::App;
use crate::local::front::Front;
use crate::local::manifests::{HOST, LOCAL_HOSTS};
use crate::local::report::Report;
use crate::local::rotate::{rotate, served};
use crate::local::topology::{Certificates, Options, Topology};
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
    let mut front = match &wake {
        Some(wake) => {
            let mut front = Front::start(wake.manifests(), topology.state_dir())?;
            front.ready().await?;
            Some(front)
        }
        None => None,
    };
    introduce(&topology, wake.as_ref().zip(front.as_ref()), &served(&topology).await?, report);
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
                    let gateway = front.as_mut().map(Front::ended).transpose()?.flatten();
                    if let Some(words) = topology.queue_ended()?.or(activator).or(gateway) {
                        return Err(io::Error::other(words));
                    }
                }
            }
    }
    report.say("draining", "draining", &[]);
    if let Some(front) = front {
        front.stop()?;
    }
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

/// A line that verifies the queue and works as printed, after the program that it calls. The certificate's name need not
/// resolve; one that a server name can't be, as of a namespace of 63 characters, is verified without sending it.
fn line(topology: &Topology) -> (&'static str, String) {
    let port = topology.ports().tls;
    let name = match topology.certificates {
        Certificates::Minted { .. } => "localhost",
        Certificates::Given(_) => &topology.name,
    };
    let ca = quoted_ca(topology);
    match DnsName::try_from(name) {
        Ok(_) => ("curl", format!("curl --cacert {ca} --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/")),
        Err(_) => (
            "openssl",
            format!(
                r"printf 'GET / HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n' | openssl s_client -quiet -noservername -connect 127.0.0.1:{port} -CAfile {ca} -verify_return_error -verify_hostname {}",
                quoted(name)
            ),
        ),
    }
}

/// A `curl` line to a host of the gateway, which starts the application first.
fn curl_host(topology: &Topology, host: &str, port: u16) -> String {
    format!("curl --cacert {} --resolve {host}:{port}:127.0.0.1 https://{host}:{port}/", quoted_ca(topology))
}

fn quoted_ca(topology: &Topology) -> String {
    quoted(&topology.ca_path().display().to_string())
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The next start or end of the pod; never, without an activator.
async fn pod_changed(pods: &mut Option<watch::Receiver<Option<u32>>>) -> Option<Option<u32>> {
    match pods {
        Some(pods) => pods.changed().await.ok().map(|()| *pods.borrow_and_update()),
        None => std::future::pending().await,
    }
}

fn introduce(topology: &Topology, chain: Option<(&Wake, &Front)>, serial: &str, report: Report) {
    let ports = topology.ports();
    let app = topology.app.addr();
    let ca = topology.ca_path().display().to_string();
    let (program, line) = line(topology);
    let mut text = format!(
        "application  http://{app}/\n\
         queue        process {}\n\
         \x20 plaintext  http://127.0.0.1:{}/\n\
         \x20 TLS        https://127.0.0.1:{}/  certificate for {}, serial {serial}\n\
         \x20 admin      http://127.0.0.1:{}/\n\
         \x20 statistics http://127.0.0.1:{}/metrics\n\
         CA           {ca}\n\
         try          {line}\n",
        topology.queue_id(),
        ports.http,
        ports.tls,
        topology.name,
        ports.admin,
        ports.stats,
    );
    let mut fields = vec![
        ("app", app.to_string().into()),
        ("queue_pid", topology.queue_id().into()),
        ("http_port", ports.http.into()),
        ("tls_port", ports.tls.into()),
        ("admin_port", ports.admin.into()),
        ("stats_port", ports.stats.into()),
        ("san", topology.name.as_str().into()),
        ("serial", serial.into()),
        ("ca", ca.into()),
        (program, line.as_str().into()),
    ];
    if let Some((wake, front)) = chain {
        let outside = curl_host(topology, HOST, front.https_port);
        let inside = curl_host(topology, LOCAL_HOSTS[0], front.internal_https_port);
        let manifests = wake.manifests().path().display().to_string();
        text += &format!(
            "\n\
             the chain    gateway (process {}), activator (process {}), and a pod that the first request starts:\n\
             \x20            another queue and application, gone {} s after the last request; TLS on every hop\n\
             from outside {outside}\n\
             in cluster   {inside}\n\
             redirected   http://127.0.0.1:{}/ for the host {HOST}\n\
             manifests    {manifests}\n\
             \x20            its objects, followed while you edit them: system-internal-tls in config.yaml, httpOption and\n\
             \x20            tls in ingress.yaml\n",
            front.id(),
            wake.activator_id(),
            IDLE.as_secs(),
            front.http_port,
        );
        fields.extend([
            ("activator_pid", wake.activator_id().into()),
            ("activator_http", wake.http.to_string().into()),
            ("activator_tls", wake.tls.to_string().into()),
            ("gateway_pid", front.id().into()),
            ("gateway_http_port", front.http_port.into()),
            ("gateway_https_port", front.https_port.into()),
            ("gateway_internal_https_port", front.internal_https_port.into()),
            ("chain_curl", outside.as_str().into()),
            ("cluster_local_curl", inside.as_str().into()),
            ("manifests", manifests.as_str().into()),
        ]);
    }
    text += "Ctrl-C drains and ends.";
    report.say("started", &text, &fields);
}
