//! Labels of the HTTP instruments: borrowed while recording, owned in the table, names when printed.

use std::borrow::Cow;

use http::{HeaderMap, Method, Version};

use crate::telemetry::registry::Label;
use crate::telemetry::series::{Labels, same};

/// What stands for a value that has no series of its own.
const OTHER: &str = "_OTHER";
/// Longest host (a DNS name with a port) and tag that may become a label.
const MAX_LABEL: usize = 262;

/// Labels of `http_server_*`.
#[derive(Clone, Copy, Debug)]
pub struct ServerLabels<'a> {
    /// Method of the request.
    pub method: &'a Method,
    /// Status of the answer, 499 if the caller left.
    pub status: u16,
    /// Protocol of the caller.
    pub version: Version,
    /// The caller's Host or authority, with its port if it has one.
    pub host: &'a str,
    /// Whether it came in over TLS.
    pub https: bool,
    /// The route's tag.
    pub tag: RouteTag<'a>,
}

/// Labels of `http_client_*`.
#[derive(Clone, Copy, Debug)]
pub struct ClientLabels<'a> {
    /// Method of the request.
    pub method: &'a Method,
    /// Status of the application's answer, or the token of why there was none.
    pub status: Result<u16, &'static str>,
    /// Protocol towards the application.
    pub version: Version,
    /// Port of the application.
    pub user_port: u16,
    /// The route's tag.
    pub tag: RouteTag<'a>,
}

/// The label `kn_route_tag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RouteTag<'a> {
    /// No label: the request was answered before its route was looked at.
    #[default]
    None,
    /// `kn:disabled`: the route has no tags.
    Disabled,
    /// `kn:default`: the route's default target.
    Default,
    /// `kn:undefined`: a tag was asked for that the route does not have.
    Undefined,
    /// A tag.
    Named(&'a str),
}

impl<'a> RouteTag<'a> {
    /// The tag of a request with these headers (`pkg/queue/routetag_handler.go`).
    pub fn of(headers: &'a HeaderMap) -> Self {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or(OTHER)).unwrap_or_default();
        match (text("knative-serving-tag"), text("knative-serving-default-route")) {
            ("", "") => Self::Disabled,
            ("", _) => Self::Default,
            (_, "true") => Self::Undefined,
            (tag, _) => Self::Named(tag),
        }
    }

    /// The label's value, if there is a label.
    pub fn label(self) -> Option<&'a str> {
        match self {
            Self::None => None,
            Self::Disabled => Some("kn:disabled"),
            Self::Default => Some("kn:default"),
            Self::Undefined => Some("kn:undefined"),
            Self::Named(tag) => Some(tag),
        }
    }
}

/// Labels while recording. One type serves all instruments; what an instrument has not is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HttpLabels<'a> {
    method: &'static str,
    /// 0: none.
    status: u16,
    error: &'static str,
    version: &'static str,
    https: bool,
    host: &'a str,
    port: u16,
    tag: RouteTag<'a>,
}

/// Labels in the table.
#[derive(Clone, Debug)]
pub(super) struct HttpKey {
    method: &'static str,
    status: u16,
    error: &'static str,
    version: &'static str,
    https: bool,
    host: Box<str>,
    port: u16,
    tag: OwnedTag,
}

#[derive(Clone, Debug)]
enum OwnedTag {
    None,
    Disabled,
    Default,
    Undefined,
    Named(Box<str>),
}

impl<'a> HttpLabels<'a> {
    pub(super) fn server(labels: &ServerLabels<'a>) -> Self {
        Self {
            method: method(labels.method),
            status: labels.status,
            error: "",
            version: version(labels.version),
            https: labels.https,
            host: bounded(labels.host),
            port: 0,
            tag: tag(labels.tag),
        }
    }

    pub(super) fn client(labels: &ClientLabels<'a>) -> Self {
        let (status, error) = match labels.status {
            Ok(status) => (status, ""),
            Err(token) => (0, token),
        };
        Self {
            method: method(labels.method),
            status,
            error,
            version: version(labels.version),
            https: false,
            host: "127.0.0.1",
            port: labels.user_port,
            tag: tag(labels.tag),
        }
    }

    pub(super) fn status(status: u16) -> Self {
        Self { method: "", status, error: "", version: "", https: false, host: "", port: 0, tag: RouteTag::None }
    }
}

impl Labels for HttpLabels<'_> {
    type Owned = HttpKey;

    fn is(&self, owned: &HttpKey) -> bool {
        let tag = match (&self.tag, &owned.tag) {
            (RouteTag::None, OwnedTag::None)
            | (RouteTag::Disabled, OwnedTag::Disabled)
            | (RouteTag::Default, OwnedTag::Default)
            | (RouteTag::Undefined, OwnedTag::Undefined) => true,
            (RouteTag::Named(tag), OwnedTag::Named(owned)) => same(tag, owned),
            _ => false,
        };
        tag && self.status == owned.status
            && self.https == owned.https
            && self.port == owned.port
            && same(self.method, owned.method)
            && same(self.version, owned.version)
            && same(self.error, owned.error)
            && same(self.host, &owned.host)
    }

    fn hash(&self) -> u64 {
        // FNV-1a over what differs most; equality is checked anyway.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&[0xff]) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        mix(self.host.as_bytes());
        mix(&self.status.to_le_bytes());
        mix(self.method.as_bytes());
        mix(self.version.as_bytes());
        mix(self.error.as_bytes());
        mix(match self.tag {
            RouteTag::None => b"",
            RouteTag::Disabled => b"d",
            RouteTag::Default => b"D",
            RouteTag::Undefined => b"u",
            RouteTag::Named(tag) => tag.as_bytes(),
        });
        hash
    }

    fn folded(&self, step: usize) -> Self {
        let mut folded = *self;
        let text = |text: &'static str| if text.is_empty() { "" } else { OTHER };
        if step >= 1 {
            folded.host = if self.host.is_empty() { "" } else { OTHER };
            if let RouteTag::Named(_) = self.tag {
                folded.tag = RouteTag::Named(OTHER);
            }
        }
        if step >= 2 {
            folded.method = text(self.method);
            folded.tag = if self.tag == RouteTag::None { RouteTag::None } else { RouteTag::Named(OTHER) };
        }
        if step >= 3 {
            // One for all: also those that differ in what has no text.
            let http = !self.host.is_empty();
            folded = Self { method: if http { OTHER } else { "" }, ..Self::status(0) };
            folded.error = OTHER;
        }
        folded
    }

    fn to_owned(&self) -> HttpKey {
        HttpKey {
            method: self.method,
            status: self.status,
            error: self.error,
            version: self.version,
            https: self.https,
            host: self.host.into(),
            port: self.port,
            tag: match self.tag {
                RouteTag::None => OwnedTag::None,
                RouteTag::Disabled => OwnedTag::Disabled,
                RouteTag::Default => OwnedTag::Default,
                RouteTag::Undefined => OwnedTag::Undefined,
                RouteTag::Named(tag) => OwnedTag::Named(tag.into()),
            },
        }
    }
}

impl HttpKey {
    /// Labels by OpenTelemetry's names.
    pub(super) fn labels(&self) -> Vec<(Cow<'static, str>, Label)> {
        let mut labels = Vec::with_capacity(9);
        let mut text = |name: &'static str, value: Cow<'static, str>| labels.push((name.into(), Label::Text(value)));
        if !self.method.is_empty() {
            text("http.request.method", self.method.into());
        }
        if !self.error.is_empty() {
            text("error.type", self.error.into());
        }
        if !self.version.is_empty() {
            text("network.protocol.name", "http".into());
            text("network.protocol.version", self.version.into());
            text("url.scheme", if self.https { "https" } else { "http" }.into());
        }
        let (host, port) = split_port(&self.host);
        // A caller of HTTP/1.0 need not name a host; the label is there all the same.
        if !host.is_empty() || !self.version.is_empty() {
            text("server.address", host.to_owned().into());
        }
        match &self.tag {
            OwnedTag::None => {}
            OwnedTag::Disabled => text("kn.route.tag", "kn:disabled".into()),
            OwnedTag::Default => text("kn.route.tag", "kn:default".into()),
            OwnedTag::Undefined => text("kn.route.tag", "kn:undefined".into()),
            OwnedTag::Named(tag) => text("kn.route.tag", tag.to_string().into()),
        }
        if let Some(port) = port.or((self.port != 0).then_some(self.port)) {
            labels.push(("server.port".into(), Label::Number(port.into())));
        }
        if self.status != 0 {
            labels.push(("http.response.status_code".into(), Label::Number(self.status.into())));
        }
        labels
    }
}

/// A host and its port, if it has one; brackets of an IPv6 address go.
pub(super) fn split_port(host: &str) -> (&str, Option<u16>) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if name.ends_with(']') || !name.contains(':') => (name, port.parse().ok()),
        _ => (host, None),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    (bare.unwrap_or(name), port)
}

fn bounded(text: &str) -> &str {
    if text.len() <= MAX_LABEL { text } else { OTHER }
}

fn tag(tag: RouteTag<'_>) -> RouteTag<'_> {
    match tag {
        RouteTag::Named(name) => RouteTag::Named(bounded(name)),
        other => other,
    }
}

/// The methods that OpenTelemetry's conventions name.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}

/// As Go prints it.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    }
}
