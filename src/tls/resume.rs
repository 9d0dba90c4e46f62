//! Session resumption: tickets that a server hands out, sessions that a client keeps.
//!
//! Used in handshakes (data side). Resumption skips the verification of the peer, so what may be resumed is bound to
//! what was verified: a client keeps its sessions for one trust generation *and* one expected name (see
//! [`crate::tls::client`]), and a server that asks for client certificates hands out no tickets at all (see
//! [`crate::tls::server`]): a caller could stall between its certificate and its last message until the authority was
//! removed, and then collect a ticket that outlives it.
use std::sync::{Arc, OnceLock};

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::server::ProducesTickets;

/// How long a ticket is accepted, in seconds: rustls' ticketer changes its key each 6 hours and keeps the one before.
/// (The Go server says 7 days; but its keys live one day to seven, and no longer than the process.)
const LIFETIME: u32 = 12 * 60 * 60;

/// Peers, by address, whose sessions a client keeps for one expected name.
const PEERS: usize = 64;

/// rustls' store counts sessions, of which it keeps 8 a peer.
const SESSIONS_PER_PEER: usize = 8;

/// Tickets that carry the session, sealed with a key of this process. The key is drawn with the first ticket, not when
/// the configuration is made: see [`crate::tls::provider`] on what the first random bytes cost.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    sealed_by: OnceLock<Option<Arc<dyn ProducesTickets>>>,
}

impl Tickets {
    fn sealer(&self) -> Option<&Arc<dyn ProducesTickets>> {
        self.sealed_by.get_or_init(|| rustls::crypto::aws_lc_rs::Ticketer::new().ok()).as_ref()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.sealer()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.sealer()?.decrypt(cipher)
    }
}

/// A fresh, empty store of sessions.
pub(crate) fn sessions() -> Resumption {
    Resumption::store(Arc::new(ClientSessionMemoryCache::new(PEERS * SESSIONS_PER_PEER)))
}
