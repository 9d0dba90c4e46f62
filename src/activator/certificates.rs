//! What both sides of TLS are made of, whether it is on or not: it may be switched on later.
//!
//! Control side, once at start. [`super::encryption`] switches; what is shown and trusted follows the cluster's objects
//! ([`crate::knative::certificates`]).

use std::sync::Arc;

use super::config::{Config, TLS_PREFIX};
use super::run::Fatal;
use super::upstream::Encryption;
use crate::knative::names;
use crate::tls::client::{Connector, Sni};
use crate::tls::policy::Policy;
use crate::tls::{identity, provider, server, trust};

/// Both sides of TLS.
pub(super) struct Tls {
    /// For the TLS listener.
    pub(super) server: Arc<rustls::ServerConfig>,
    /// Towards pods.
    pub(super) client: Encryption,
}

impl Tls {
    /// Settings of both; `on` says whether TLS is on now.
    ///
    /// # Errors
    /// A policy that nobody knows.
    pub(super) fn new(
        config: &Config,
        identity: &Arc<identity::Store>,
        trust: &Arc<trust::Store>,
        on: bool,
    ) -> Result<Self, Fatal> {
        let fatal = |e: String| Fatal::new("Failed to read TLS configuration from environment", e);
        let policy = config.tls.policy(TLS_PREFIX).map_err(|e| fatal(e.to_string()))?;
        let callers = config.own.client_auth.by(trust);
        let server =
            server::config(&policy, identity.clone(), &callers, server::ALPN_HTTP).map_err(|e| fatal(e.to_string()))?;
        // The variables are for the server alone; towards pods it is TLS 1.3 or nothing.
        let towards_pods = Policy::default();
        let sni = Sni::fixed(names::SAN_LEGACY).map_err(|e| fatal(e.to_string()))?;
        // Go's queue asks for no certificate, one of ours may.
        let connector = Connector::new(&towards_pods, trust.clone()).sni(sni).identity(identity.clone());
        if on {
            // aws-lc gathers entropy for tens of milliseconds when its generator is first used: not in a handshake.
            std::thread::spawn(move || provider::warm_up(&policy));
        }
        Ok(Self { server, client: Encryption { connector: Arc::new(connector), trust: trust.clone() } })
    }
}
