//! The gateway's listeners: which rules each serves, and how.
use super::config::Ports;
use super::route::table::Side;
use crate::worker::PortId;

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
