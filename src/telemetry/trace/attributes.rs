//! What spans tell of a request: OpenTelemetry's attributes, as `otelhttp` sets them.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, Method, Version};

use super::Attribute;

/// Longest text of an attribute; callers choose these.
const MAX_TEXT: usize = 1024;

/// What the server span tells. All borrowed; nothing is copied for a request that is not sampled.
#[derive(Clone, Copy, Debug)]
pub struct ServerFacts<'a> {
    /// Method.
    pub method: &'a Method,
    /// Whether it came in over TLS.
    pub https: bool,
    /// Host or authority, with its port if it has one.
    pub host: &'a str,
    /// Path, without the query.
    pub path: &'a str,
    /// The caller.
    pub peer: SocketAddr,
    /// Headers as received.
    pub headers: &'a HeaderMap,
    /// Protocol of the caller.
    pub version: Version,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// Status of the answer.
    pub status: u16,
    /// The value of `kn.route.tag`, if there is one.
    pub tag: Option<&'a str>,
    /// The revision, where the role does not serve just one.
    pub revision: Option<RevisionFacts<'a>>,
    /// The request to the application, if there was one.
    pub client: Option<ClientFacts<'a>>,
}

/// The names of a revision.
#[derive(Clone, Copy, Debug)]
pub struct RevisionFacts<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub revision: &'a str,
    /// Its Configuration; may be empty.
    pub configuration: &'a str,
    /// Its Service; may be empty.
    pub service: &'a str,
}

/// What the client span tells.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts<'a> {
    /// Path and query.
    pub target: &'a str,
    /// The application's address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it is spoken to over TLS.
    pub https: bool,
    /// Its status, or the token of why there was none.
    pub status: Result<u16, &'static str>,
    /// Protocol towards it.
    pub version: Version,
}

pub(super) fn server_attributes(
    known: Option<&'static str>,
    facts: &ServerFacts<'_>,
) -> Vec<(&'static str, Attribute)> {
    let header = |name| facts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    let forwarded = header("x-forwarded-for").split(',').next().unwrap_or_default().trim();
    let (address, port) = split_port(facts.host);
    let mut out = Vec::with_capacity(16);
    push_method(&mut out, known, facts.method);
    push(&mut out, "url.scheme", if facts.https { "https" } else { "http" });
    push(&mut out, "url.path", facts.path);
    push(&mut out, "server.address", address);
    out.extend(port.map(|port| ("server.port", Attribute::Int(port.into()))));
    push(&mut out, "network.peer.address", &facts.peer.ip().to_string());
    out.push(("network.peer.port", Attribute::Int(facts.peer.port().into())));
    push(&mut out, "client.address", forwarded);
    push(&mut out, "user_agent.original", header("user-agent"));
    push(&mut out, "network.protocol.version", version(facts.version));
    out.push(("http.request.body.size", Attribute::Int(i64::try_from(facts.request_bytes).unwrap_or(i64::MAX))));
    out.push(("http.response.body.size", Attribute::Int(i64::try_from(facts.response_bytes).unwrap_or(i64::MAX))));
    out.push(("http.response.status_code", Attribute::Int(facts.status.into())));
    push(&mut out, "kn.route.tag", facts.tag.unwrap_or_default());
    if let Some(revision) = &facts.revision {
        push(&mut out, "k8s.namespace.name", revision.namespace);
        push(&mut out, "kn.service.name", revision.service);
        push(&mut out, "kn.configuration.name", revision.configuration);
        push(&mut out, "kn.revision.name", revision.revision);
    }
    out
}

pub(super) fn client_attributes(
    known: Option<&'static str>,
    facts: &ClientFacts<'_>,
) -> Vec<(&'static str, Attribute)> {
    let mut out = Vec::with_capacity(8);
    push(&mut out, "http.request.method", known.unwrap_or("_OTHER"));
    let scheme = if facts.https { "https" } else { "http" };
    let to = SocketAddr::new(facts.address, facts.port);
    push(&mut out, "url.full", &format!("{scheme}://{to}{}", facts.target));
    push(&mut out, "server.address", &facts.address.to_string());
    out.push(("server.port", Attribute::Int(facts.port.into())));
    push(&mut out, "network.protocol.version", version(facts.version));
    match facts.status {
        Ok(status) => out.push(("http.response.status_code", Attribute::Int(status.into()))),
        Err(token) => push(&mut out, "error.type", token),
    }
    out
}

fn push_method(out: &mut Vec<(&'static str, Attribute)>, known: Option<&'static str>, method: &Method) {
    push(out, "http.request.method", known.unwrap_or("_OTHER"));
    if known.is_none() {
        push(out, "http.request.method_original", method.as_str());
    }
}

/// Adds a text unless it is empty.
fn push(out: &mut Vec<(&'static str, Attribute)>, name: &'static str, text: &str) {
    if !text.is_empty() {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        out.push((name, Attribute::Text(text.get(..end).unwrap_or_default().to_owned())));
    }
}

fn split_port(host: &str) -> (&str, Option<u16>) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if name.ends_with(']') || !name.contains(':') => (name, port.parse().ok()),
        _ => (host, None),
    };
    (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
}

pub(super) fn method(method: &Method) -> Option<&'static str> {
    let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "PATCH", "TRACE"];
    known.into_iter().find(|known| method.as_str() == *known)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}
