//! A collector of OpenTelemetry's, as the configuration and the `OTEL_EXPORTER_OTLP_*` variables name it.
//!
//! Source: `knative.dev/pkg/observability/{metrics,tracing}` (`exporterFor`, `endpointFor`), OpenTelemetry's
//! specification of exporters.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::{otel, set};
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
///
/// # Errors
/// The configuration names none that can be reached; a variable that does not is ignored.
pub(super) fn collector(
    transport: Transport,
    signal: &str,
    endpoint: &str,
    env: &dyn Env,
) -> Result<Collector, String> {
    // The name of the signal's own variable where that is set, else of the one for all.
    let own = |what: &str| {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
        if set(env, &own).is_some() { own } else { format!("OTEL_EXPORTER_OTLP_{what}") }
    };
    let path = format!("/v1/{}", signal.to_ascii_lowercase());
    let named = |name: &str| otel::usable(env, name, "an http or https URL", |url| parse_url(url).ok());
    let (uri, base) = if let Some(url) = named(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")) {
        (url, false)
    } else if let Some(url) = named("OTEL_EXPORTER_OTLP_ENDPOINT") {
        (url, true)
    } else if endpoint.is_empty() {
        let default = if transport == Transport::Grpc { DEFAULT_GRPC_COLLECTOR } else { DEFAULT_HTTP_COLLECTOR };
        (parse_url(default)?, false)
    } else {
        (parse_url(&with_scheme(endpoint)?)?, false)
    };
    let header = |name: &str, value: &str| {
        HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok()
    };
    let headers = otel::pairs(env, &own("HEADERS"), false, header);
    Ok(Collector {
        transport,
        url: with_path(&uri, transport, &path, base)?,
        headers: headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
        ca: certificate(env, &own("CERTIFICATE")),
        timeout: otel::millis(env, &own("TIMEOUT")).unwrap_or(DEFAULT_PUSH_TIMEOUT),
    })
}

/// The file of authorities that a variable names. One that can't be read is not ignored, since others would then be
/// trusted: pushes fail until it can.
fn certificate(env: &dyn Env, name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(set(env, name)?);
    if let Err(error) = std::fs::File::open(&path) {
        tracing::warn!("{name}={path:?}: expected a file of PEM certificates: {error}");
    }
    Some(path)
}

fn parse_url(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(format!("parse {url:?}: expected an http or https URL"));
    }
    Ok(uri)
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
