//! Rotating the leaf while requests run, and seeing by a real handshake when the new one is served.
use std::io;
use std::time::{Duration, Instant};

use crate::local::client::{Protocol, Trust, dial};
use crate::local::topology::{Topology, loopback};

/// How long a new leaf may take to be served.
const LIMIT: Duration = Duration::from_secs(5);

/// A rotation that went through.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The new leaf's serial number, as the handshake showed it.
    pub serial: String,
    /// From the swap to the first handshake that showed it.
    pub after: Duration,
}

/// How to verify the queue of `topology`.
#[must_use]
pub fn trust(topology: &Topology) -> Trust {
    Trust { roots: topology.roots.clone(), ..Trust::exact(&[], &topology.name) }
}

/// The serial number that a new connection is shown now.
///
/// # Errors
/// When the handshake fails.
pub async fn served(topology: &Topology) -> io::Result<String> {
    let (_, peer) = dial(loopback(topology.ports().tls), Some(&trust(topology)), Protocol::Http1).await?;
    Ok(peer.map(|peer| peer.serial).unwrap_or_default())
}

/// Swaps in a new leaf and waits until it is served; `None` when the certificates were given and cannot be rotated.
///
/// # Errors
/// When the swap fails, a handshake fails, or the old leaf is still served after five seconds.
pub async fn rotate(topology: &mut Topology) -> io::Result<Option<Rotation>> {
    let Some(wanted) = topology.certificates.rotate()? else { return Ok(None) };
    let start = Instant::now();
    loop {
        let serial = served(topology).await?;
        if serial == wanted {
            return Ok(Some(Rotation { serial, after: start.elapsed() }));
        }
        if start.elapsed() > LIMIT {
            return Err(io::Error::other(format!("serial {serial} is still served, {wanted} was swapped in")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
