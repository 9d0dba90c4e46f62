//! The port that Prometheus scrapes, as `requestMetrics` and the `METRICS_PROMETHEUS_*` variables name it.
//!
//! Source: `knative.dev/pkg/observability/metrics/prometheus/server.go`, whose words the errors have.

use std::path::PathBuf;

use super::set;
use crate::config::env::Env;

/// Port of the user metrics of a queue (`networking.UserQueueMetricsPort`).
const DEFAULT_PROMETHEUS_PORT: u16 = 9091;

/// The port that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Prometheus {
    /// Address to listen on; empty: all.
    pub host: String,
    /// 1024 to 65535. Default: 9091.
    pub port: u16,
    /// TLS, if a certificate is named.
    pub tls: Option<PrometheusTls>,
}

/// TLS of the port that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq)]
pub struct PrometheusTls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
    /// Whether the scraper must show a certificate. Default: no.
    pub client_auth: ClientAuth,
    /// What that certificate must be issued by; present unless `client_auth` is `None`.
    pub client_ca: Option<PathBuf>,
}

/// Whether a scraper shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It is not asked.
    None,
    /// It is asked and checked, but may have none.
    Optional,
    /// It must.
    Require,
}

pub(super) fn prometheus(endpoint: &str, env: &dyn Env) -> Result<Prometheus, String> {
    let (mut host, mut port) = (String::new(), DEFAULT_PROMETHEUS_PORT.to_string());
    if !endpoint.is_empty() {
        (host, port) = split_host_port(endpoint).ok_or_else(|| {
            format!("metrics-endpoint {endpoint:?} for prometheus exporter should be \"host:port\", \"host%zone:port\", \"[host]:port\" or \"[host%zone]:port\"")
        })?;
    }
    host = set(env, "METRICS_PROMETHEUS_HOST").unwrap_or(host);
    let own = set(env, "METRICS_PROMETHEUS_PORT");
    let named = match &own {
        Some(port) => format!("METRICS_PROMETHEUS_PORT={port:?}"),
        None => format!("endpoint={endpoint:?}"),
    };
    port = own.unwrap_or(port);
    let server = |why: String| format!("create prometheus metrics server: {why}");
    let refused = |why: String| server(format!("{why} ({named}: expected a port from 1024 to 65535)"));
    let number: u16 = port.parse().map_err(|_| {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let why = if digits { "value out of range" } else { "invalid syntax" };
        refused(format!(
            "prometheus port {port:?} could not be parsed as a port number: strconv.ParseUint: parsing {port:?}: {why}"
        ))
    })?;
    if number < 1024 {
        return Err(refused(format!("prometheus port {number}, should be between 1024 and 65535")));
    }
    Ok(Prometheus { host, port: number, tls: prometheus_tls(env).map_err(server)? })
}

fn prometheus_tls(env: &dyn Env) -> Result<Option<PrometheusTls>, String> {
    const CERT: &str = "METRICS_PROMETHEUS_TLS_CERT";
    const KEY: &str = "METRICS_PROMETHEUS_TLS_KEY";
    const AUTH: &str = "METRICS_PROMETHEUS_TLS_CLIENT_AUTH";
    const CA: &str = "METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE";
    let auth = set(env, AUTH).unwrap_or_default();
    let client_auth = match auth.trim().to_lowercase().as_str() {
        "" | "none" => ClientAuth::None,
        "optional" => ClientAuth::Optional,
        "require" => ClientAuth::Require,
        _ => return Err(format!("invalid {AUTH} {auth:?}: must be \"none\", \"optional\", or \"require\"")),
    };
    let client_ca = set(env, CA).filter(|ca| !ca.trim().is_empty()).map(PathBuf::from);
    let (cert, key) = match (set(env, CERT), set(env, KEY)) {
        (Some(cert), Some(key)) => (cert.into(), key.into()),
        (None, None) if client_auth != ClientAuth::None || client_ca.is_some() => {
            return Err(format!("{AUTH} and {CA} require TLS to be enabled ({CERT} and {KEY} must be set)"));
        }
        (None, None) => return Ok(None),
        (cert, key) => {
            let (cert, key) = (cert.unwrap_or_default(), key.unwrap_or_default());
            return Err(format!("both {CERT} and {KEY} must be set or neither ({CERT}={cert:?}, {KEY}={key:?})"));
        }
    };
    match (client_auth, &client_ca) {
        (ClientAuth::None, Some(_)) => Err(format!("{CA} is set but {AUTH} is {auth:?}")),
        (ClientAuth::Optional | ClientAuth::Require, None) => {
            Err(format!("{CA} must be set when {AUTH} is {auth:?} (client certs cannot be validated without a CA)"))
        }
        _ => Ok(Some(PrometheusTls { cert, key, client_auth, client_ca })),
    }
}

/// Go's `net.SplitHostPort`, without zones.
fn split_host_port(text: &str) -> Option<(String, String)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains([':', '[', ']']) => return None,
        None => host,
    };
    Some((host.to_owned(), port.to_owned()))
}
