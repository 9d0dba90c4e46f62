//! What a template computes with: fields of a record, and values.

use std::borrow::Cow;
use std::io::Write;

use http::header::{REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, Version};

use super::Record;
use super::tls::{self, TlsFacts};
use crate::telemetry::go_format;
use crate::telemetry::observability::percent_decode;

/// What a template may name of a record. Each is a text, a number or a truth, but for the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Method,
    RequestUri,
    UrlPath,
    UrlRawQuery,
    UrlHost,
    UrlScheme,
    Proto,
    ProtoMajor,
    ProtoMinor,
    Host,
    RemoteAddr,
    ContentLength,
    UserAgent,
    Referer,
    Code,
    Size,
    Latency,
    RevisionName,
    RevisionNamespace,
    RevisionService,
    RevisionConfiguration,
    RevisionPodName,
    RevisionPodIp,
    TraceId,
    /// A map from names to lists of texts.
    Header,
    /// What was negotiated, or nothing over plaintext.
    Tls,
}

/// A value of an expression.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Text(Cow<'a, [u8]>),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// The lines of one header.
    List(Vec<&'a [u8]>),
    Header(&'a HeaderMap),
    Tls(Option<&'a TlsFacts>),
    /// A member that a map has not.
    Absent,
}

impl Field {
    /// The value for one request.
    pub(super) fn value<'a>(self, record: &Record<'a>) -> Value<'a> {
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text.as_bytes()));
        let (major, minor) = version(record.version);
        let revision = record.revision;
        match self {
            Self::Method => text(record.method.as_str()),
            Self::RequestUri => text(record.request_uri),
            Self::UrlPath => {
                let path = split_uri(record.request_uri).2;
                match percent_decode(path) {
                    Some(decoded) => Value::Text(Cow::Owned(decoded.into_bytes())),
                    None => text(path),
                }
            }
            Self::UrlRawQuery => text(split_uri(record.request_uri).3),
            Self::UrlHost => text(split_uri(record.request_uri).1),
            Self::UrlScheme => text(split_uri(record.request_uri).0),
            Self::Proto => text(proto(record.version)),
            Self::ProtoMajor => Value::Int(major),
            Self::ProtoMinor => Value::Int(minor),
            Self::Host => text(record.host),
            Self::RemoteAddr => Value::Text(Cow::Owned(record.remote_addr.to_string().into_bytes())),
            Self::ContentLength => Value::Int(record.content_length),
            Self::UserAgent => Value::Text(Cow::Borrowed(first(record.headers, &USER_AGENT))),
            Self::Referer => Value::Text(Cow::Borrowed(first(record.headers, &REFERER))),
            Self::Code => Value::Int(record.code.into()),
            Self::Size => Value::Int(i64::try_from(record.size).unwrap_or(i64::MAX)),
            Self::Latency => Value::Float(record.latency.as_secs_f64()),
            Self::RevisionName => text(&revision.name),
            Self::RevisionNamespace => text(&revision.namespace),
            Self::RevisionService => text(&revision.service),
            Self::RevisionConfiguration => text(&revision.configuration),
            Self::RevisionPodName => text(&revision.pod_name),
            Self::RevisionPodIp => text(&revision.pod_ip),
            Self::TraceId => text(record.trace_id),
            Self::Header => Value::Header(record.headers),
            Self::Tls => Value::Tls(record.tls),
        }
    }

    /// Prints the value without making it; for the fields of the shipped template nothing is allocated.
    pub(super) fn print(self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::RemoteAddr => drop(write!(out, "{}", record.remote_addr)),
            other => other.value(record).print(out),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn print(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(text),
            Self::Int(n) => drop(write!(out, "{n}")),
            Self::Float(n) => go_format::float(out, *n),
            Self::Bool(b) => drop(write!(out, "{b}")),
            Self::List(list) => print_list(list, out),
            Self::Header(headers) => print_map(headers, out),
            Self::Tls(facts) => tls::print(*facts, out),
            Self::Absent => out.extend_from_slice(b"<no value>"),
        }
    }

    /// Go's truth: not zero, not empty.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Int(n) => *n != 0,
            Self::Float(n) => *n != 0.0,
            Self::Bool(b) => *b,
            Self::List(list) => !list.is_empty(),
            Self::Header(headers) => !headers.is_empty(),
            Self::Tls(facts) => facts.is_some(),
            Self::Absent => false,
        }
    }

    /// Whether Go's `print` puts no space next to it.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }
}

/// The lines of a header. `Host` is not among Go's headers, whatever the protocol.
pub(super) fn lines<'a>(headers: &'a HeaderMap, name: &[u8]) -> Vec<&'a [u8]> {
    match HeaderName::from_bytes(name) {
        Ok(name) if name != http::header::HOST => headers.get_all(name).iter().map(|v| v.as_bytes()).collect(),
        _ => Vec::new(),
    }
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a [u8] {
    headers.get(name).map(|value| value.as_bytes()).unwrap_or_default()
}

fn print_list(list: &[&[u8]], out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, line) in list.iter().enumerate() {
        out.extend((i > 0).then_some(b' '));
        out.extend_from_slice(line);
    }
    out.push(b']');
}

fn print_map(headers: &HeaderMap, out: &mut Vec<u8>) {
    let mut names: Vec<String> =
        headers.keys().filter(|name| **name != http::header::HOST).map(|name| canonical(name.as_str())).collect();
    names.sort();
    out.extend_from_slice(b"map[");
    for (i, name) in names.iter().enumerate() {
        out.extend((i > 0).then_some(b' '));
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        print_list(&lines(headers, name.as_bytes()), out);
    }
    out.push(b']');
}

/// `x-a` as Go keeps it: `X-A`.
fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let c = if start { c.to_ascii_uppercase() } else { c };
            start = c == '-';
            c
        })
        .collect()
}

/// Scheme and host (of an absolute target), path and query.
fn split_uri(target: &str) -> (&str, &str, &str, &str) {
    let (scheme, host, rest) = match target.split_once("://") {
        Some((scheme, rest)) if !target.starts_with('/') => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (host, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
            (scheme, host, rest)
        }
        _ => ("", "", target),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    (scheme, host, path, query)
}

fn version(version: Version) -> (i64, i64) {
    match version {
        Version::HTTP_09 => (0, 9),
        Version::HTTP_10 => (1, 0),
        Version::HTTP_2 => (2, 0),
        Version::HTTP_3 => (3, 0),
        _ => (1, 1),
    }
}

fn proto(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}
