//! The server's side of TLS: a configuration that follows the identity store.
//!
//! Made once at start (control side) and shared by all workers, which accept with it (data side). The certificate is
//! looked up in each handshake, so a reload needs no new configuration. One ticket is sent after a handshake instead of
//! rustls' two, since each costs an encryption and 200 bytes that most callers never use. There is no early data (it
//! can be replayed) and no data before the caller has finished.
use std::sync::Arc;

use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::tls::client_auth::ClientAuth;
use crate::tls::error::{Error, Reason};
use crate::tls::policy::Policy;
use crate::tls::provider;
use crate::tls::resume::Tickets;

/// HTTP/2 and HTTP/1.1, the first one preferred: what the data plane's TLS ports speak (contract, section 2).
pub const ALPN_HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// HTTP/1.1 alone, for ports that speak nothing else.
pub const ALPN_HTTP1: &[&[u8]] = &[b"http/1.1"];

/// A server's configuration under `policy` that shows what `certificates` has for the name that the caller asks for: an
/// [`identity::Store`](crate::tls::identity::Store) has the same for all, a [`Resolver`](crate::tls::resolver::Resolver)
/// one for each.
///
/// `alpn` is in the order of preference; a caller that offers protocols, but none of these, is refused, one that offers
/// none is served. While the store is empty, and under a policy that can't be satisfied, every handshake fails.
///
/// # Errors
/// rustls refuses the policy.
pub fn config(
    policy: &Policy,
    certificates: Arc<dyn ResolvesServerCert>,
    client_auth: &ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let resolver: Arc<dyn ResolvesServerCert> = match policy.is_satisfiable() {
        true => certificates,
        false => {
            tracing::warn!("The highest TLS version allowed is below the lowest one: every handshake will fail");
            Arc::new(Nothing)
        }
    };
    let provider = provider::provider(policy);
    let versions: Vec<&'static SupportedProtocolVersion> = provider::versions(policy);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| Error::new(Reason::Settings, format!("TLS settings can't be used: {error}")))?;
    let verifier = client_auth.verifier(&provider);
    let asks = verifier.is_some();
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(resolver);

    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // Our order is the cheapest first, see provider.
    config.ignore_client_order = true;
    // Sessions are in tickets; a store of ours would only hold memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if asks {
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Arc::new(Tickets::default());
        config.send_tls13_tickets = 1;
    }
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}

/// Has no certificate for anybody.
#[derive(Debug)]
struct Nothing;

impl ResolvesServerCert for Nothing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
