//! Labels of the HTTP instruments: borrowed while recording, owned in the table, names when printed.
//!
//! The revision's own labels are not here: each revision has tables of its own, see [`super`].

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::{Method, Version};

use crate::knative::names;
use crate::telemetry::registry::Label;
use crate::telemetry::series::{self, same};

/// What stands for a value that has no series of its own.
const OTHER: &str = "_OTHER";
/// Longest host (a DNS name with a port) that may become a label.
const MAX_HOST: usize = 262;

/// Labels while recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    method: &'static str,
    /// 0: none.
    status: u16,
    error: &'static str,
    version: &'static str,
    https: bool,
    to: To<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To<'a> {
    Host(&'a str),
    Pod(SocketAddr),
}

/// Labels in the table.
#[derive(Clone, Debug)]
pub struct Key {
    method: &'static str,
    status: u16,
    error: &'static str,
    version: &'static str,
    https: bool,
    to: OwnedTo,
}

#[derive(Clone, Debug)]
enum OwnedTo {
    Host(Box<str>),
    Pod(SocketAddr),
}

/// A pod that stands for all that have no series of their own.
const OTHER_POD: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

impl<'a> Labels<'a> {
    /// Labels of `http_server_*`. `host` is the caller's, with its port if it has one.
    #[must_use]
    pub fn server(method: &Method, status: u16, version: Version, https: bool, host: &'a str) -> Self {
        let host = if host.len() <= MAX_HOST { host } else { OTHER };
        Self { method: known(method), status, error: "", version: printed(version), https, to: To::Host(host) }
    }

    /// Labels of `http_client_*`. `status` is that of the pod's answer, or the token of why there was none.
    #[must_use]
    pub fn client(
        method: &Method,
        status: Result<u16, &'static str>,
        version: Version,
        https: bool,
        pod: SocketAddr,
    ) -> Self {
        let (status, error) = status.map_or_else(|token| (0, token), |status| (status, ""));
        Self { method: known(method), status, error, version: printed(version), https, to: To::Pod(pod) }
    }
}

impl series::Labels for Labels<'_> {
    type Owned = Key;

    fn is(&self, owned: &Key) -> bool {
        let to = match (&self.to, &owned.to) {
            (To::Host(host), OwnedTo::Host(owned)) => same(host, owned),
            (To::Pod(pod), OwnedTo::Pod(owned)) => pod == owned,
            _ => false,
        };
        to && self.status == owned.status
            && self.https == owned.https
            && same(self.method, owned.method)
            && same(self.version, owned.version)
            && same(self.error, owned.error)
    }

    fn hash(&self) -> u64 {
        // FNV-1a over what differs most; equality is checked anyway.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&[0xff]) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        match &self.to {
            To::Host(host) => mix(host.as_bytes()),
            To::Pod(SocketAddr::V4(pod)) => {
                mix(&pod.ip().octets());
                mix(&pod.port().to_le_bytes());
            }
            To::Pod(SocketAddr::V6(pod)) => {
                mix(&pod.ip().octets());
                mix(&pod.port().to_le_bytes());
            }
        }
        mix(&self.status.to_le_bytes());
        mix(self.method.as_bytes());
        mix(self.error.as_bytes());
        hash
    }

    fn folded(&self, step: usize) -> Self {
        let mut folded = *self;
        if step >= 1 {
            folded.to = match self.to {
                To::Host(_) => To::Host(OTHER),
                To::Pod(_) => To::Pod(OTHER_POD),
            };
        }
        if step >= 2 {
            folded.method = OTHER;
        }
        if step >= 3 {
            (folded.status, folded.version, folded.https, folded.error) = (0, "1.1", false, OTHER);
        }
        folded
    }

    fn to_owned(&self) -> Key {
        Key {
            method: self.method,
            status: self.status,
            error: self.error,
            version: self.version,
            https: self.https,
            to: match self.to {
                To::Host(host) => OwnedTo::Host(host.into()),
                To::Pod(pod) => OwnedTo::Pod(pod),
            },
        }
    }
}

impl Key {
    /// Labels by OpenTelemetry's names.
    #[must_use]
    pub fn labels(&self) -> Vec<(Cow<'static, str>, Label)> {
        let mut labels = Vec::with_capacity(12);
        let mut text = |name: &'static str, value: Cow<'static, str>| labels.push((name.into(), Label::Text(value)));
        text("http.request.method", self.method.into());
        if !self.error.is_empty() {
            text("error.type", self.error.into());
        }
        text("network.protocol.name", "http".into());
        text("network.protocol.version", self.version.into());
        text("url.scheme", if self.https { "https" } else { "http" }.into());
        let (address, port) = match &self.to {
            OwnedTo::Host(host) => {
                let (name, port) = split_port(host);
                (name.to_owned(), port)
            }
            OwnedTo::Pod(pod) if *pod == OTHER_POD => (OTHER.to_owned(), None),
            // As in Go, the default port of https is left out.
            OwnedTo::Pod(pod) => {
                (pod.ip().to_string(), Some(pod.port()).filter(|port| *port != names::PORT_SERVICE_HTTPS))
            }
        };
        if !address.is_empty() {
            text("server.address", address.into());
        }
        if let Some(port) = port {
            labels.push(("server.port".into(), Label::Number(port.into())));
        }
        if self.status != 0 {
            labels.push(("http.response.status_code".into(), Label::Number(self.status.into())));
        }
        labels
    }
}

/// A host and its port, if it has one; brackets of an IPv6 address go.
fn split_port(host: &str) -> (&str, Option<u16>) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if name.ends_with(']') || !name.contains(':') => (name, port.parse().ok()),
        _ => (host, None),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    (bare.unwrap_or(name), port)
}

/// The methods that OpenTelemetry's conventions name.
fn known(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PATCH", "TRACE"];
    known.into_iter().find(|known| method.as_str() == *known).unwrap_or(OTHER)
}

/// As the activator was seen to print it.
fn printed(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
