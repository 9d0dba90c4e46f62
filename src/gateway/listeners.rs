//! The gateway's listeners: which rules each serves and how, and opening them (control side).
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::Path;

use serde_json::json;
use tokio::sync::watch;

use super::config::Ports;
use super::route::table::Side;
use crate::control::listener;
use crate::worker::{Listener, PortId, Workers};

/// What is special about a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Number under which workers know it.
    pub id: PortId,
    /// For the log.
    pub name: &'static str,
    /// Which rules it serves.
    pub side: Side,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether it demands the PROXY protocol when that is switched on.
    pub proxied: bool,
}

/// External rules, plain.
pub const HTTP: Kind = Kind { id: 0, name: "http", side: Side::External, tls: false, proxied: true };
/// External rules, TLS.
pub const HTTPS: Kind = Kind { id: 1, name: "https", side: Side::External, tls: true, proxied: true };
/// All rules, plain.
pub const INTERNAL_HTTP: Kind = Kind { id: 2, name: "internal http", side: Side::Internal, tls: false, proxied: false };
/// Cluster-local rules, TLS.
pub const INTERNAL_HTTPS: Kind =
    Kind { id: 3, name: "internal https", side: Side::Internal, tls: true, proxied: false };
/// As [`HTTP`], for probes.
pub const PROBE_HTTP: Kind = Kind { id: 4, name: "probe http", side: Side::External, tls: false, proxied: false };
/// As [`HTTPS`], for probes.
pub const PROBE_HTTPS: Kind = Kind { id: 5, name: "probe https", side: Side::External, tls: true, proxied: false };

/// All listeners.
pub const ALL: [Kind; 6] = [HTTP, HTTPS, INTERNAL_HTTP, INTERNAL_HTTPS, PROBE_HTTP, PROBE_HTTPS];

/// The listener of a number.
#[must_use]
pub fn of(id: PortId) -> Kind {
    ALL.into_iter().find(|kind| kind.id == id).unwrap_or(HTTP)
}

impl Kind {
    /// The port that it listens on.
    #[must_use]
    pub fn port(self, ports: &Ports) -> u16 {
        match self.id {
            0 => ports.http,
            1 => ports.https,
            2 => ports.internal_http,
            3 => ports.internal_https,
            4 => ports.probe_http,
            _ => ports.probe_https,
        }
    }

    /// The variable with its port.
    #[must_use]
    pub fn variable(self) -> String {
        format!("LOCKKEEPER_{}_PORT", self.name.to_uppercase().replace(' ', "_"))
    }

    /// Says which port it really listens on.
    pub fn set_port(self, ports: &mut Ports, port: u16) {
        let place = match self.id {
            0 => &mut ports.http,
            1 => &mut ports.https,
            2 => &mut ports.internal_http,
            3 => &mut ports.internal_https,
            4 => &mut ports.probe_http,
            _ => &mut ports.probe_https,
        };
        *place = port;
    }
}

/// Opens every listener on each address, until `stop` turns true; the ports that they really have.
///
/// # Errors
/// The first one that can't be opened.
pub fn open(
    addresses: &[Option<IpAddr>],
    mut ports: Ports,
    workers: &Workers,
    stop: &watch::Receiver<bool>,
) -> Result<Ports, String> {
    for kind in ALL {
        for address in addresses {
            let wanted = kind.port(&ports);
            let socket = listener::bind(*address, wanted)
                .map_err(|error| refusal(&kind.variable(), *address, wanted, &error))?;
            let port = port_of(&socket);
            tracing::info!("Starting {} server:{port}", kind.name);
            workers.listen(Listener { socket, port: kind.id, stop: stop.clone() });
            // Where any port will do, all addresses have the same one.
            kind.set_port(&mut ports, port);
        }
    }
    Ok(ports)
}

/// The port of a socket.
#[must_use]
pub fn port_of(socket: &TcpListener) -> u16 {
    socket.local_addr().map_or(0, |address| address.port())
}

/// What is wrong with a port that can't be opened.
#[must_use]
pub fn refusal(variable: &str, address: Option<IpAddr>, port: u16, error: &io::Error) -> String {
    let address = address.map(|address| format!(" on {address}")).unwrap_or_default();
    format!("{variable}={port}{address}: expected a port that can be opened: {error}")
}

/// Tells whoever started this process with free ports which they are: `ports.json` in a directory.
///
/// # Errors
/// The file can't be written.
pub fn tell(directory: &Path, ports: &Ports) -> io::Result<()> {
    let text = json!({
        "http": ports.http,
        "https": ports.https,
        "internal_http": ports.internal_http,
        "internal_https": ports.internal_https,
        "probe_http": ports.probe_http,
        "probe_https": ports.probe_https,
    });
    let fresh = directory.join("ports.tmp");
    std::fs::write(&fresh, text.to_string())?;
    std::fs::rename(fresh, directory.join("ports.json"))
}
