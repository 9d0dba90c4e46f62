//! The port that Prometheus scrapes: plain or TLS, with or without client certificates, gzip for who takes it.
//!
//! Control side. What may be wrong with its settings ends the start, as in Go; a port or a certificate file that can't
//! be used costs the port alone, with a line on stdout (contract, sections 1.2 and 8.2). The files are looked at again
//! with each connection, so that a renewed certificate and changed authorities need no restart.
//!
//! Source: `knative.dev/pkg/observability/metrics/prometheus/server.go`, `promhttp.Handler`.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::watch;

use super::listener::{self, Handler, Response, Speaks};
use crate::config::directory::FileLooks;
use crate::http::body::Body;
use crate::http::limits;
use crate::telemetry::observability::{self, Prometheus, PrometheusTls};
use crate::telemetry::registry::{self, Source};
use crate::tls::client_auth::{Allowed, ClientAuth};
use crate::tls::policy::{Policy, PolicyError};
use crate::tls::{identity, server, trust};

/// Prefix of the variables of this port's TLS policy.
pub const PREFIX: &str = "METRICS_PROMETHEUS_";

/// Opens the port; when it or its certificate can't be used, the process goes on without. `header_time` is how long the
/// head of a request may take.
///
/// # Errors
/// Settings that can't be meant, in words: the meter provider can't be set up.
pub fn start(
    export: &Prometheus,
    policy: Result<Policy, PolicyError>,
    metrics: Arc<dyn Source>,
    header_time: Duration,
    stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let speaks = match export.tls.as_ref().map(|files| with_tls(files, policy)).transpose() {
        Ok(tls) => tls.unwrap_or(Speaks::Plain),
        Err(Unusable::Settings(why)) => return Err(why),
        Err(Unusable::Files(why)) => return unavailable(&why),
    };
    let address = match address(&export.host, export.port) {
        Ok(address) => address,
        Err(error) => {
            return unavailable(&format!("listen tcp: lookup {}: {error} (METRICS_PROMETHEUS_HOST)", export.host));
        }
    };
    match listener::bind(address, export.port) {
        Ok(socket) => {
            tokio::task::spawn_local(listener::serve(socket, speaks, handler(metrics), header_time, stop));
            Ok(())
        }
        Err(error) => unavailable(&listener::refusal(export.port, &error)),
    }
}

/// Where to listen; nothing is every address. A name that means nothing here must not open the port to everybody.
fn address(host: &str, port: u16) -> io::Result<Option<IpAddr>> {
    if host.is_empty() {
        return Ok(None);
    }
    let found = (host, port).to_socket_addrs()?.next().map(|found| found.ip());
    found.map(Some).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// As Go words it, and where.
fn unavailable(why: &str) -> Result<(), String> {
    println!("metrics server error: {why}");
    Ok(())
}

/// Why the port has no TLS.
enum Unusable {
    /// A setting that the process can't start with.
    Settings(String),
    /// Files that can't be used.
    Files(String),
}

fn with_tls(files: &PrometheusTls, policy: Result<Policy, PolicyError>) -> Result<Speaks, Unusable> {
    let policy = policy.map_err(|error| match error {
        PolicyError::Setting(why) => Unusable::Settings(why),
        PolicyError::Http2(_) => Unusable::Files(error.to_string()),
    })?;
    let identity = identity::Store::new();
    let trust = trust::Store::new();
    let auth = match files.client_auth {
        observability::ClientAuth::None => ClientAuth::Off,
        observability::ClientAuth::Optional => ClientAuth::Request(Allowed::anybody(trust.clone())),
        observability::ClientAuth::Require => ClientAuth::Require(Allowed::anybody(trust.clone())),
    };
    let mut followed = Followed::new(files, identity.clone(), trust.clone());
    if let Some(path) = &files.client_ca {
        followed.authorities().map_err(|e| {
            let (path, why) = (path.display(), words(&e));
            Unusable::Settings(format!("reading METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE: open {path}: {why}"))
        })?;
        if trust.snapshot().is_none() {
            return Err(Unusable::Settings(format!(
                "no valid CA certificates found in METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE ({})",
                path.display()
            )));
        }
    }
    followed.pair().map_err(Unusable::Files)?;
    let config = server::config(&policy, identity, &auth, server::ALPN_HTTP1)
        .map_err(|error| Unusable::Files(error.to_string()))?;
    let followed = RefCell::new(followed);
    Ok(Speaks::Tls(Rc::new(move || {
        followed.borrow_mut().look_again();
        Some(config.clone())
    })))
}

/// The words of an I/O error as Go prints them: lower case, without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Files that are read again when they look different.
struct Followed {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    seen_pair: Looks,
    seen_ca: Looks,
    identity: Arc<identity::Store>,
    trust: Arc<trust::Store>,
}

type Looks = Vec<Option<FileLooks>>;

fn looks(paths: &[&Path]) -> Looks {
    paths.iter().map(|path| FileLooks::at(path)).collect()
}

impl Followed {
    fn new(files: &PrometheusTls, identity: Arc<identity::Store>, trust: Arc<trust::Store>) -> Self {
        let PrometheusTls { cert, key, client_ca, .. } = files.clone();
        let (seen_pair, seen_ca) = (Looks::new(), Looks::new());
        Self { certificate: cert, key, client_ca, seen_pair, seen_ca, identity, trust }
    }

    /// Reads the pair; a bad one does not replace a good one.
    fn pair(&mut self) -> Result<(), String> {
        self.seen_pair = looks(&[&self.certificate, &self.key]);
        let read = |path: &Path, name: &str| {
            fs::read(path)
                .map_err(|e| format!("open {}: {} (METRICS_PROMETHEUS_TLS_{name})", path.display(), words(&e)))
        };
        let (certificate, key) = (read(&self.certificate, "CERT")?, read(&self.key, "KEY")?);
        let identity = identity::Identity::from_pem(&certificate, &key).map_err(|e| format!("tls: {e}"))?;
        self.identity.publish(identity);
        Ok(())
    }

    fn authorities(&mut self) -> io::Result<()> {
        let Some(path) = &self.client_ca else { return Ok(()) };
        self.seen_ca = looks(&[path]);
        self.trust.set_source(&path.to_string_lossy(), &fs::read(path)?);
        Ok(())
    }

    fn look_again(&mut self) {
        if looks(&[&self.certificate, &self.key]) != self.seen_pair
            && let Err(error) = self.pair()
        {
            tracing::error!("metrics server: {error}; the previous certificate stays in use");
        }
        if self.client_ca.as_deref().is_some_and(|path| looks(&[path]) != self.seen_ca)
            && let Err(error) = self.authorities()
        {
            tracing::error!("metrics server: client authorities: {error}; the previous ones stay in use");
        }
    }
}

fn handler(metrics: Arc<dyn Source>) -> Handler {
    Rc::new(move |request, _| {
        let metrics = metrics.clone();
        Box::pin(async move {
            if request.uri().path() != "/metrics" {
                return not_found();
            }
            if request.method() != Method::GET && request.method() != Method::HEAD {
                let words = Body::full(Bytes::from_static(b"Method Not Allowed\n"));
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, words);
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
                return response;
            }
            page(&*metrics, request.headers())
        })
    })
}

/// A server that has nothing.
#[must_use]
pub fn nothing() -> Handler {
    Rc::new(|_, _| Box::pin(std::future::ready(not_found())))
}

/// Go's answer for paths that nobody serves.
#[must_use]
pub fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, Body::full(Bytes::from_static(b"404 page not found\n")))
}

/// An answer in words, as Go's `http.Error`.
#[must_use]
pub fn text(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Go's profiles have no counterpart here; the port listens, so that what looks for it finds it, and answers 404.
///
/// # Errors
/// The port cannot be opened.
pub fn profile(address: Option<std::net::IpAddr>, port: u16, stop: watch::Receiver<bool>) -> io::Result<()> {
    let socket = listener::bind(address, port)?;
    let port = socket.local_addr().map_or(port, |address| address.port());
    tracing::info!("Starting server profile:{port}");
    tokio::task::spawn_local(listener::serve(socket, Speaks::Plain, nothing(), limits::HEADER_TIME, stop));
    Ok(())
}

fn page(metrics: &dyn Source, asked: &HeaderMap) -> Response {
    let text = metrics.encode();
    let packed = takes_gzip(asked).then(|| gzip(&text)).and_then(Result::ok);
    let is_packed = packed.is_some();
    let mut response = Response::new(Body::full(Bytes::from(packed.unwrap_or(text))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(registry::CONTENT_TYPE));
    if is_packed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

/// Whether `Accept-Encoding` names gzip, or anything, and not with a weight of zero (RFC 9110 section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut by_name = None;
    let mut by_star = false;
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    for coding in lines.flat_map(|line| line.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse::<f32>().ok()).unwrap_or(1.0);
        if name.eq_ignore_ascii_case("gzip") {
            by_name = Some(weight > 0.0);
        } else if name == "*" {
            by_star = weight > 0.0;
        }
    }
    by_name.unwrap_or(by_star)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_accept_encoding_when_asked_then_gzip_is_taken_as_the_caller_says() {
        for (value, expected) in [
            ("", false),
            ("gzip", true),
            ("GZIP;q=0.5, deflate", true),
            ("identity;q=1, gzip; q=0", false),
            ("*", true),
            ("*, gzip;q=0", false),
            ("br, zstd", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(takes_gzip(&headers), expected, "{value:?}");
        }
    }
}
