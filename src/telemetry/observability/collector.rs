//! A collector of OpenTelemetry's, as the configuration and the `OTEL_EXPORTER_OTLP_*` variables name it.
//!
//! Source: `knative.dev/pkg/observability/{metrics,tracing}` (`exporterFor`, `endpointFor`), OpenTelemetry's
//! specification of exporters.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::set;
use crate::config::env::Env;

/// Limit of one push (OpenTelemetry's).
const DEFAULT_PUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a collector listens by convention.
const DEFAULT_GRPC_COLLECTOR: &str = "http://localhost:4317";
const DEFAULT_HTTP_COLLECTOR: &str = "http://localhost:4318";

/// An OTLP endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// Framing.
    pub transport: Transport,
    /// Where: scheme `http` or `https`, authority, and for [`Transport::Http`] the path to post to.
    pub url: Uri,
    /// Extra request headers. May hold secrets: not logged.
    pub headers: Vec<(String, String)>,
    /// CA certificates for `https`, PEM. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// Limit of one push. Default: 10 s.
    pub timeout: Duration,
}

/// OTLP's framings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// gRPC over HTTP/2.
    Grpc,
    /// A protobuf message as the body of a POST.
    Http,
}

/// The collector of one signal (`METRICS` or `TRACES`): the variables first, then the configuration.
pub(super) fn collector(
    transport: Transport,
    signal: &str,
    endpoint: &str,
    env: &dyn Env,
) -> Result<Collector, String> {
    let own = |what: &str| {
        set(env, &format!("OTEL_EXPORTER_OTLP_{signal}_{what}"))
            .or_else(|| set(env, &format!("OTEL_EXPORTER_OTLP_{what}")))
    };
    let path = format!("/v1/{}", signal.to_ascii_lowercase());
    let mut base = false;
    let url = if let Some(url) = set(env, &format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")) {
        url
    } else if let Some(url) = set(env, "OTEL_EXPORTER_OTLP_ENDPOINT") {
        base = true;
        url
    } else if endpoint.is_empty() {
        let default = if transport == Transport::Grpc { DEFAULT_GRPC_COLLECTOR } else { DEFAULT_HTTP_COLLECTOR };
        default.to_owned()
    } else {
        with_scheme(endpoint)?
    };
    let uri: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(format!("parse {url:?}: expected an http or https URL"));
    }
    Ok(Collector {
        transport,
        url: with_path(&uri, transport, &path, base)?,
        headers: own("HEADERS").map(|h| parse_headers(&h)).unwrap_or_default(),
        ca: own("CERTIFICATE").map(PathBuf::from),
        timeout: own("TIMEOUT")
            .and_then(|t| t.trim().parse().ok().filter(|t| *t > 0).map(Duration::from_millis))
            .unwrap_or(DEFAULT_PUSH_TIMEOUT),
    })
}

/// A name with a port looks like a scheme to Go's URL parser, which then makes it `https`; an address with a port is
/// no URL to it.
fn with_scheme(endpoint: &str) -> Result<String, String> {
    if endpoint.contains("://") {
        return Ok(endpoint.to_owned());
    }
    let Some((name, _)) = endpoint.split_once(':') else {
        return Err(format!("parse {endpoint:?}: expected an http or https URL"));
    };
    let mut letters = name.bytes();
    let scheme = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if scheme {
        Ok(format!("https://{endpoint}"))
    } else {
        Err(format!("parse {endpoint:?}: first path segment in URL cannot contain colon"))
    }
}

/// gRPC has no path of its own; over HTTP a URL of one signal is used as it is, unless it has no path, and a base URL
/// gets the signal's path behind its own.
fn with_path(uri: &Uri, transport: Transport, signal: &str, base: bool) -> Result<Uri, String> {
    // The parser gives a URL without a path the path "/"; that counts as none.
    let own = uri.path_and_query().map_or("", |p| p.as_str());
    let path = match (transport, own) {
        (Transport::Grpc, _) => "/".to_owned(),
        (Transport::Http, "" | "/") => signal.to_owned(),
        (Transport::Http, own) if base => format!("{}{signal}", own.trim_end_matches('/')),
        (Transport::Http, own) => own.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|e| format!("path {path:?}: {e}"))?);
    Uri::from_parts(parts).map_err(|e| e.to_string())
}

/// `a=b,c=d`, values percent-encoded; what does not parse is left out, as the SDK does.
fn parse_headers(text: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), percent_decode(value.trim())?))
    };
    text.split(',').filter_map(pair).filter(|(name, _)| !name.is_empty()).collect()
}

/// Undoes percent-encoding; nothing if it is broken or not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}
