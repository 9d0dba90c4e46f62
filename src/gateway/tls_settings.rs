//! TLS settings of the ports: versions, cipher suites, and where certificates come from.
//!
//! Control side; the data side takes them for each connection.
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::sync::watch;

use super::kourier::Kourier;
use super::live::Live;
use super::route::table::Side;
use crate::tls::client_auth::ClientAuth;
use crate::tls::policy::Policy;
use crate::tls::server;

/// The settings of the external and of the internal ports.
pub struct TlsSettings {
    external: Arc<ServerConfig>,
    internal: Arc<ServerConfig>,
}

impl TlsSettings {
    /// The settings that `config-kourier` asks for: TLS 1.2 and 1.3, of 1.2 the suites that are listed.
    ///
    /// # Errors
    /// A suite that is unknown or not sound.
    pub fn new(kourier: &Kourier, live: &Live) -> Result<Self, String> {
        let suites: Vec<String> = kourier.cipher_suites.iter().map(|name| iana(name)).collect();
        let policy = Policy::parse("", Some("1.2"), None, Some(&suites.join(",")), None)
            .map_err(|error| format!("cipher-suites: {error}"))?;
        let config = |side| {
            server::config(&policy, live.certificates(side).clone(), &ClientAuth::Off, server::ALPN_HTTP)
                .map_err(|error| format!("TLS settings: {error}"))
        };
        Ok(Self { external: config(Side::External)?, internal: config(Side::Internal)? })
    }

    /// Those of the ports of one side.
    #[must_use]
    pub fn of(&self, side: Side) -> Arc<ServerConfig> {
        match side {
            Side::External => self.external.clone(),
            Side::Internal => self.internal.clone(),
        }
    }
}

/// Puts new cipher suites into use from the next connection on, for ever. Suites that can't be used leave those before.
pub async fn follow(mut kourier: watch::Receiver<Arc<Kourier>>, live: &Live, now: watch::Sender<TlsSettings>) {
    let mut suites = kourier.borrow().cipher_suites.clone();
    while kourier.changed().await.is_ok() {
        let next = kourier.borrow_and_update().clone();
        if next.cipher_suites == suites {
            continue;
        }
        match TlsSettings::new(&next, live) {
            Ok(settings) => {
                suites.clone_from(&next.cipher_suites);
                now.send_replace(settings);
            }
            Err(why) => tracing::error!("config-kourier: {why}; the previous cipher suites stay"),
        }
    }
    std::future::pending().await
}

/// OpenSSL's name of a cipher suite as IANA has it: `ECDHE-RSA-AES128-GCM-SHA256`.
fn iana(name: &str) -> String {
    let Some(rest) = name.strip_prefix("ECDHE-") else { return name.to_owned() };
    let rest = rest.replace("AES128", "AES-128").replace("AES256", "AES-256").replace('-', "_");
    let (kind, cipher) = rest.split_once('_').unwrap_or((&rest, ""));
    let cipher = match cipher {
        "CHACHA20_POLY1305" => "CHACHA20_POLY1305_SHA256",
        other => other,
    };
    format!("TLS_ECDHE_{kind}_WITH_{cipher}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_openssls_names_when_translated_then_they_are_ianas() {
        for (name, expected) in [
            ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
            ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
        ] {
            assert_eq!(iana(name), expected);
        }
    }
}
