//! `system-internal-tls` on both sides of the activator, switched while it runs.
//!
//! Control side. What is wanted comes from `config-network`, what is needed for it from the certificates. Rules: a process
//! that starts with TLS on and has no certificate is not ready, says why, and comes up when it arrives; it never falls
//! back to plaintext. One that is told to switch while it runs does so when there is a certificate. Requests under way
//! keep their connections, in either direction.
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::health::Health;
use super::serve;
use super::upstream::{Encryption, Network};
use crate::control::listener;
use crate::knative::certificates::Certificates;
use crate::knative::network::Network as Settings;
use crate::tls::identity;
use crate::worker::{Listener, Workers};

/// The TLS listener, and whether connections to pods are encrypted.
pub struct Switch {
    /// What certificates there are.
    pub certificates: Certificates,
    /// What we show.
    pub identity: Arc<identity::Store>,
    /// Towards pods.
    pub encryption: Encryption,
    /// What workers read.
    pub network: Arc<ArcSwap<Network>>,
    /// Fails readiness while TLS is wanted at start and can't be had.
    pub health: Arc<Health>,
    /// Who serves.
    pub workers: Rc<Workers>,
    /// Where the listener is opened.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
}

/// The listener while it is open.
struct Open {
    stop: watch::Sender<bool>,
    port: u16,
}

impl Switch {
    /// Puts into force what holds now, and then follows settings and certificates until `closed`.
    pub fn start(
        self,
        mut settings: watch::Receiver<Arc<Settings>>,
        closed: watch::Receiver<bool>,
    ) -> impl Future<Output = ()> {
        let wanted = settings.borrow_and_update().system_internal_tls;
        let mut open: Option<Open> = None;
        self.apply(wanted, true, &mut open);
        self.follow(settings, closed, open)
    }

    async fn follow(
        self,
        mut settings: watch::Receiver<Arc<Settings>>,
        mut closed: watch::Receiver<bool>,
        mut open: Option<Open>,
    ) {
        let (mut pairs, mut authorities) = (self.identity.changes(), self.encryption.trust.changes());
        let mut at_start = true;
        loop {
            let wanted = settings.borrow_and_update().system_internal_tls;
            pairs.borrow_and_update();
            authorities.borrow_and_update();
            self.apply(wanted, at_start, &mut open);
            // What is missing at start keeps us from being ready until it was there once.
            at_start = at_start && wanted && self.certificates.missing().is_some();
            tokio::select! {
                changed = settings.changed() => if changed.is_err() { return },
                _ = pairs.changed() => {}
                _ = authorities.changed() => {}
                _ = closed.wait_for(|closed| *closed) => {
                    if let Some(open) = &open {
                        open.stop.send_replace(true);
                    }
                    return;
                }
            }
        }
    }

    fn apply(&self, wanted: bool, at_start: bool, open: &mut Option<Open>) {
        let missing = if wanted { self.certificates.missing() } else { None };
        let news = self.health.set_missing(missing.clone().filter(|_| at_start));
        if let (true, Some(missing)) = (news, &missing) {
            tracing::error!("system-internal-tls is enabled, but {missing}: not ready until it is there");
        } else if let (Some(missing), false) = (&missing, at_start) {
            let now =
                if self.network.load().tls.is_some() { "goes on as it is" } else { "is switched on when it is there" };
            tracing::warn!("system-internal-tls is enabled, but {missing}; TLS {now}");
        }
        // At start TLS counts at once: what can't be verified is not reached.
        if !wanted {
            self.upstream(None, at_start);
        } else if missing.is_none() || at_start {
            self.upstream(Some(&self.encryption), at_start);
        }
        let serves = wanted && self.identity.current().is_some();
        match (serves, &*open) {
            (true, None) => *open = self.listen(),
            (false, Some(listening)) if !wanted => {
                tracing::info!("system-internal-tls is disabled: shutting down server https:{}", listening.port);
                listening.stop.send_replace(true);
                *open = None;
            }
            _ => {}
        }
    }

    fn upstream(&self, encryption: Option<&Encryption>, at_start: bool) {
        let now = self.network.load_full();
        if now.tls.is_some() == encryption.is_some() {
            return;
        }
        let how = if encryption.is_some() { "over TLS" } else { "in plaintext" };
        tracing::info!("Pods are addressed {how} from now on");
        self.network.store(Arc::new(Network {
            tls: encryption.cloned(),
            mesh_host: now.mesh_host,
            since: (!at_start).then(Instant::now),
        }));
    }

    fn listen(&self) -> Option<Open> {
        match listener::bind(self.address, self.port) {
            Ok(socket) => {
                let port = socket.local_addr().map_or(self.port, |address| address.port());
                tracing::info!("Starting server https:{port}");
                let (stop, stopped) = watch::channel(false);
                self.workers.listen(Listener { socket, port: serve::TLS, stop: stopped });
                Some(Open { stop, port })
            }
            Err(error) => {
                let why = listener::refusal(self.port, &error);
                tracing::error!("https server failed: {why} (LOCKKEEPER_TLS_PORT={})", self.port);
                None
            }
        }
    }
}
