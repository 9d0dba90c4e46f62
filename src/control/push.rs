//! Sends metrics and spans to an OTLP collector: a POST of protobuf, or gRPC, in the clear or over TLS.
//!
//! Control side, on a `LocalSet`. Each push opens a connection of its own: pushes are seconds apart, and an idle
//! connection would cost memory all the time. A failure is a rate-limited line in the log and nothing else; metrics
//! are cumulative, so the next push brings what the failed one lacked, spans of a failed push are lost.
//!
//! Source: the OTLP specification 1.x (OTLP/HTTP, OTLP/gRPC), gRPC over HTTP/2.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::telemetry::log::Throttle;
use crate::telemetry::observability::{Collector, Transport};
use crate::tls::policy::Policy;
use crate::tls::{pem, provider};

/// Where the CA certificates of the system are, if the configuration names none.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long the last push at shutdown may take.
const LAST_PUSH: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read at most.
const MAX_ANSWER: usize = 64 << 10;

/// What is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `failed to upload metrics: ..` when it fails.
    Metrics,
    /// `traces export: ..` when it fails.
    Traces,
}

impl Signal {
    fn grpc_path(self) -> &'static str {
        match self {
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        }
    }
}

/// Pushes what `collect` gives (nothing: no push) each `period`, and once more, for 10 s at most, when `stop` is done.
pub async fn run(
    collector: Collector,
    signal: Signal,
    period: Duration,
    mut collect: impl FnMut() -> Option<Vec<u8>>,
    stop: impl Future<Output = ()>,
) {
    static FAILURES: Throttle = Throttle::every(Duration::from_secs(60));
    let report = |error: &str| {
        if FAILURES.allows(error) {
            match signal {
                Signal::Metrics => tracing::warn!("failed to upload metrics: {error}"),
                Signal::Traces => tracing::warn!("traces export: {error}"),
            }
        }
    };
    let mut stop = pin!(stop);
    loop {
        let stopped = tokio::select! {
            () = stop.as_mut() => true,
            () = tokio::time::sleep(period) => false,
        };
        if let Some(message) = collect() {
            let limit = if stopped { collector.timeout.min(LAST_PUSH) } else { collector.timeout };
            match tokio::time::timeout(limit, send(&collector, signal, message)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => report(&error),
                Err(_) => report("context deadline exceeded"),
            }
        }
        if stopped {
            return;
        }
    }
}

/// One push.
///
/// # Errors
/// Why the collector did not take it, in words.
pub async fn send(collector: &Collector, signal: Signal, message: Vec<u8>) -> Result<(), String> {
    let uri = &collector.url;
    let host = uri.host().ok_or("the URL has no host")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tcp = TcpStream::connect((bare, port)).await.map_err(|e| format!("dial tcp {host}:{port}: {e}"))?;
    let _ = tcp.set_nodelay(true);
    if !https {
        return exchange(tcp, collector, signal, message).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(words)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_config(collector)?));
    let tls = connector.connect(name, tcp).await.map_err(words)?;
    exchange(tls, collector, signal, message).await
}

async fn exchange<S>(stream: S, collector: &Collector, signal: Signal, message: Vec<u8>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = TokioIo::new(stream);
    match collector.transport {
        Transport::Http => {
            let request = post(collector, message)?;
            let (mut sender, connection) = http1::handshake(io).await.map_err(words)?;
            // The connection only moves while it is polled; it ends with this push.
            let answer = async {
                let response = sender.send_request(request).await.map_err(words)?;
                let status = response.status();
                let (body, _) = read(response.into_body()).await?;
                if status.is_success() { Ok(()) } else { Err(refusal(status, &body)) }
            };
            drive(connection, answer).await
        }
        Transport::Grpc => {
            let request = call(collector, signal, &message)?;
            let (mut sender, connection) = http2::handshake(Local, io).await.map_err(words)?;
            let answer = async {
                let response = sender.send_request(request).await.map_err(words)?;
                let (head, body) = response.into_parts();
                let (_, trailers) = read(body).await?;
                grpc_status(head.status, &head.headers, &trailers)
            };
            drive(connection, answer).await
        }
    }
}

/// Polls a connection while the answer is awaited.
async fn drive(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    answer: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        result = answer.as_mut() => return result,
        ended = connection => ended.map_err(words)?,
    }
    // The connection may end just after it delivered the answer.
    answer.await
}

fn words(error: impl Display) -> String {
    error.to_string()
}

fn refusal(status: http::StatusCode, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..body.len().min(256)).unwrap_or_default());
    format!("failed to send to the collector: {status} (body: {text:?})")
}

/// OTLP/HTTP.
fn post(collector: &Collector, message: Vec<u8>) -> Result<Request<Whole>, String> {
    let path = collector.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(HOST, collector.url.authority().map_or("", |authority| authority.as_str()))
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(CONTENT_LENGTH, message.len());
    for (name, value) in &collector.headers {
        request = request.header(name, value);
    }
    request.body(Whole(Some(message.into()))).map_err(words)
}

/// OTLP/gRPC: one message with its length before it.
fn call(collector: &Collector, signal: Signal, message: &[u8]) -> Result<Request<Whole>, String> {
    let mut parts = collector.url.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static(signal.grpc_path()));
    let length = u32::try_from(message.len()).map_err(words)?;
    let mut framed = Vec::with_capacity(message.len() + 5);
    framed.push(0);
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    let mut request = Request::post(Uri::from_parts(parts).map_err(words)?)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers");
    for (name, value) in &collector.headers {
        request = request.header(name, value);
    }
    request.body(Whole(Some(framed.into()))).map_err(words)
}

/// The status is in the trailers, or in the header of an answer without a body.
fn grpc_status(status: http::StatusCode, headers: &HeaderMap, trailers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| {
        let value = trailers.get(name).or_else(|| headers.get(name));
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status") {
        Some(code) if code == "0" => Ok(()),
        Some(code) => Err(format!("rpc error: code = {code} desc = {}", text("grpc-message").unwrap_or_default())),
        None => Err(format!("rpc error: unexpected HTTP status {status}")),
    }
}

/// An answer's body, as far as it is of interest, and its trailers.
async fn read(body: Incoming) -> Result<(Vec<u8>, HeaderMap), String> {
    let mut body = pin!(body);
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map_err(words)?.into_data() {
            Ok(bytes) if data.len() + bytes.len() > MAX_ANSWER => return Err("the answer is too large".into()),
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((data, trailers))
}

fn tls_config(collector: &Collector) -> Result<rustls::ClientConfig, String> {
    let path = collector.ca.as_deref().unwrap_or(std::path::Path::new(SYSTEM_CAS));
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    // One certificate that can't be used must not cost the others.
    roots.add_parsable_certificates(pem::certificates(&text).map_err(|e| format!("{}: {e}", path.display()))?);
    if roots.is_empty() {
        return Err(format!("{}: no usable CA certificate", path.display()));
    }
    // Collectors outside the cluster may still speak TLS 1.2.
    let policy = Policy::parse("", Some("1.2"), None, None, None).map_err(words)?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider::provider(&policy))
        .with_protocol_versions(&provider::versions(&policy))
        .map_err(words)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match collector.transport {
        Transport::Grpc => vec![b"h2".to_vec()],
        Transport::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// A body that is there as a whole.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Runs hyper's tasks of one HTTP/2 connection on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

#[cfg(test)]
mod tests;
