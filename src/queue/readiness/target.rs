//! The addresses of the application: 127.0.0.1, then ::1, and which of them answered last.
//!
//! Used by every kind of try. Control side. Rule: the error of the first address counts, since it is the one that Go,
//! which knows 127.0.0.1 only, would give.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpStream, lookup_host};

use super::attempt::Failure;

/// Where a try connects to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    host: String,
    port: u16,
    /// Loopback only: the application was last reached by IPv6.
    by_ipv6: bool,
}

impl Target {
    /// The address in a probe; an empty host is this machine, as for Go's dialer.
    pub(super) fn new(host: &str, port: &str) -> Result<Self, String> {
        let host = if host.is_empty() { "127.0.0.1" } else { host.trim_matches(['[', ']']) };
        let port = port.parse().map_err(|_| format!("dial tcp: address {host}:{port}: invalid port"))?;
        Ok(Self { host: host.to_owned(), port, by_ipv6: false })
    }

    /// The host as in the probe.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// `host:port`, IPv6 in brackets.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection to the first address that takes one.
    pub(super) async fn connect(&mut self) -> Result<TcpStream, Failure> {
        let mut first = None;
        for address in self.addresses().await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    self.by_ipv6 = address.is_ipv6();
                    return Ok(stream);
                }
                Err(error) => {
                    // The error to report is that of the address in the setting, not that of the remembered one.
                    if first.is_none() || address.is_ipv4() {
                        first = Some(self.dial_failure(&error));
                    }
                }
            }
        }
        Err(first.unwrap_or_else(|| Failure::new(format!("dial tcp: lookup {}: no such host", self.host))))
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) => {
                let both = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
                let mut both = both.map(|ip| SocketAddr::new(ip, self.port));
                if self.by_ipv6 {
                    both.reverse();
                }
                Ok(both.to_vec())
            }
            Ok(ip) => Ok(vec![SocketAddr::new(ip, self.port)]),
            Err(_) => match lookup_host((self.host.as_str(), self.port)).await {
                Ok(found) => Ok(found.collect()),
                Err(error) => Err(self.dial_failure(&error)),
            },
        }
    }

    fn dial_failure(&self, error: &io::Error) -> Failure {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        Failure { text: format!("dial tcp {}: connect: {}", self.authority(), words(error)), refused }
    }
}

/// The words of an I/O error as Go prints them: lower case, without the number.
pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
