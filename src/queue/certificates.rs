//! The queue's own certificates: what the TLS listener shows, whom it asks for one, and what is counted of them.
//!
//! Control side. [`Tls::new`] reads the directory before anything listens; [`follow`] opens the TLS listener when there
//! is a certificate and closes it when it is withdrawn. The rules for files are [`crate::tls::source_dir`]'s.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::watch;

use super::config::Config;
use super::metrics::Metrics;
use super::run::{self, Fatal, Server};
use super::serve;
use crate::control::listener;
use crate::telemetry::registry::{Family, Kind, Label, Point, Value, single};
use crate::tls::client_auth::ClientAuth;
use crate::tls::identity::{self, Reason};
use crate::tls::source_dir::{self, Directory, Found};
use crate::tls::{provider, server, trust};
use crate::worker::Workers;

/// Everything about certificates.
pub(super) struct Tls {
    /// What is shown.
    pub(super) identity: Arc<identity::Store>,
    /// Who vouches for callers.
    pub(super) trust: Arc<trust::Store>,
    /// Where both come from.
    pub(super) directory: Directory,
    /// None where what may be negotiated is not known: then TLS stays off.
    pub(super) settings: Option<TlsSettings>,
}

/// What connections are accepted with.
#[derive(Clone)]
pub(super) struct TlsSettings {
    /// For the TLS listener.
    pub(super) data: Arc<rustls::ServerConfig>,
    /// For the ports of the control side, which ask nobody for a certificate.
    pub(super) admin: Arc<rustls::ServerConfig>,
}

impl Tls {
    /// Reads what is there now.
    pub(super) fn new(config: &Config) -> Result<Self, Fatal> {
        let unusable = |e: &dyn std::fmt::Display| Fatal::new("Failed to read TLS configuration from environment", e);
        let (identity, trust) = (identity::Store::new(), trust::Store::new());
        let directory = Directory::new(&config.own.certificates, identity.clone()).trust(trust.clone());
        let found = directory.load_once();
        match &found {
            Ok(_) => {}
            Err(error @ source_dir::Error::Verify { .. }) => {
                let directory = config.own.certificates.display();
                let named = format!("{error} (LOCKKEEPER_CERT_DIR={directory}: expected a directory)");
                return Err(Fatal::new("Failed to verify the file path", named));
            }
            // A bad first pair: TLS stays closed until a good one comes.
            Err(error) => tracing::error!(%error, "failed to create certWatcher"),
        }
        let policy = match (config.tls.policy("QUEUE_PROXY_"), found) {
            (Ok(policy), _) => policy,
            // The original does not look at the policy without certificates; a pod that starts with it shall start here.
            (Err(error), Ok(Found::Nothing)) => {
                tracing::error!(%error, "Failed to read TLS configuration from environment: TLS stays off");
                return Ok(Self { identity, trust, directory, settings: None });
            }
            (Err(error), _) => return Err(unusable(&error)),
        };
        let auth = config.own.client_auth.by(&trust);
        let settings =
            |auth: &ClientAuth, alpn| server::config(&policy, identity.clone(), auth, alpn).map_err(|e| unusable(&e));
        let data = settings(&auth, server::ALPN_HTTP)?;
        let admin = settings(&ClientAuth::Off, server::ALPN_HTTP1)?;
        // aws-lc gathers entropy for tens of milliseconds when its generator is first used: not in a handshake.
        std::thread::spawn(move || provider::warm_up(&policy));
        Ok(Self { identity, trust, directory, settings: Some(TlsSettings { data, admin }) })
    }

    /// Adds what is known of certificates to the metrics.
    pub(super) fn tell(&self, metrics: &Metrics) {
        let (identity, trust) = (self.identity.clone(), self.trust.clone());
        metrics.families_of(move || families(&identity, &trust));
    }
}

fn families(identity: &identity::Store, trust: &trust::Store) -> Vec<Family> {
    let labelled = |label: &'static str, text: &'static str, value: f64| Point {
        labels: vec![(label.into(), Label::Text(text.into()))],
        value: Value::Number(value),
    };
    let mut ends = single(
        "lockkeeper_certificate_not_after_timestamp_seconds",
        "When the certificate in use, and the first of the trusted authorities, expires.",
        Kind::Gauge,
        0.0,
    );
    let seconds = |moment: OffsetDateTime| moment.unix_timestamp() as f64;
    let own = identity.current().map(|own| labelled("kind", "identity", seconds(own.leaf.not_after)));
    let first = trust.snapshot().and_then(|snapshot| snapshot.anchors.iter().map(|anchor| anchor.not_after).min());
    ends.points = own.into_iter().chain(first.map(|first| labelled("kind", "authority", seconds(first)))).collect();
    let mut refused = single(
        "lockkeeper_certificate_reload_failures_total",
        "Certificate pairs that were not taken, by reason.",
        Kind::Counter,
        0.0,
    );
    refused.points =
        Reason::ALL.map(|reason| labelled("reason", reason.token(), identity.failures(reason) as f64)).to_vec();
    vec![
        ends,
        refused,
        single(
            "lockkeeper_certificate_reloads_total",
            "Certificate pairs that were taken, the first one included.",
            Kind::Counter,
            identity.reloads() as f64,
        ),
        single(
            "lockkeeper_trust_blocks_skipped_total",
            "Blocks of ca.crt that were no valid authority.",
            Kind::Counter,
            trust.skipped() as f64,
        ),
        single(
            "lockkeeper_trust_kept_total",
            "How often ca.crt held no valid authority any more, and the last good ones stayed in use.",
            Kind::Counter,
            trust.kept() as f64,
        ),
    ]
}

/// Opens the TLS listener when there is a certificate and closes it when it is withdrawn.
pub(super) async fn follow(
    identity: Arc<identity::Store>,
    workers: Rc<Workers>,
    port: Option<u16>,
    address: Option<IpAddr>,
    mut closed: watch::Receiver<bool>,
) {
    let mut changes = identity.changes();
    let mut open: Option<watch::Sender<bool>> = None;
    loop {
        changes.borrow_and_update();
        match (identity.current(), &open, port) {
            (Some(_), None, Some(port)) => match listener::bind(address, port) {
                Ok(socket) => {
                    let (stop, stopped) = watch::channel(false);
                    run::listen(&workers, socket, serve::TLS, "tls server main", stopped);
                    open = Some(stop);
                }
                Err(error) => Fatal::serve(Server::TLS, address, port, &error).exit(),
            },
            (Some(_), None, None) => {
                tracing::error!("QUEUE_SERVING_TLS_PORT is no port: there is a certificate but no TLS server");
            }
            (None, Some(stop), _) => {
                tracing::info!("The certificate is gone: shutting down server: main tls");
                stop.send_replace(true);
                open = None;
            }
            _ => {}
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = closed.wait_for(|closed| *closed) => {
                tracing::info!("Shutting down server: main tls");
                if let Some(stop) = &open { stop.send_replace(true); }
                return;
            }
        }
    }
}
