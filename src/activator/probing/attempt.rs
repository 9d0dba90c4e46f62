//! One probe: `GET http://ip:port/healthz`, in cleartext on the plain port, whatever the requests will use.
//!
//! Source: `revision_backends.go` (`probe`), `knative.dev/networking/pkg/prober`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::super::throttle::Outcome;
use crate::knative::names;

/// `nethttp.HealthCheckPath`.
const PATH: &str = "/healthz";

/// Probes `address`; `host` replaces its `Host` on the way through a mesh. `connected` is told how long connecting
/// took. A connection that can carry a request comes back with a probe that passed.
pub(super) async fn attempt(
    address: SocketAddr,
    host: Option<String>,
    connected: impl FnOnce(Duration),
) -> (Outcome, Option<std::net::TcpStream>) {
    let start = Instant::now();
    let Ok(stream) = TcpStream::connect(address).await else { return (Outcome::Silent, None) };
    connected(start.elapsed());
    let _ = stream.set_nodelay(true);
    exchange(stream, address, host.as_deref()).await.unwrap_or((Outcome::Silent, None))
}

/// `None` if no whole answer came.
async fn exchange(
    stream: TcpStream,
    address: SocketAddr,
    host: Option<&str>,
) -> Option<(Outcome, Option<std::net::TcpStream>)> {
    let (mut send, mut connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(16 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .ok()?;
    let mut request = Request::get(PATH)
        .header(USER_AGENT, names::ACTIVATOR_AGENT)
        .header(names::NETWORK_PROBE, names::PROBE_QUEUE)
        .body(String::new())
        .ok()?;
    let through_mesh = host.is_some();
    let host = host.map_or_else(|| address.to_string(), str::to_owned);
    request.headers_mut().insert(HOST, HeaderValue::from_str(&host).ok()?);
    if through_mesh {
        request.headers_mut().insert(names::PASSTHROUGH_LB, HeaderValue::from_static("true"));
    }
    let answer = {
        let mut answer = pin!(async {
            let response = send.send_request(request).await.ok()?;
            let status = response.status();
            Some((status, is_queue(response.into_body()).await?))
        });
        let mut ended = false;
        poll_fn(|cx| {
            // Also when the connection has ended, the exchange is what knows how.
            ended = ended || Pin::new(&mut connection).poll(cx).is_ready();
            answer.as_mut().poll(cx)
        })
        .await
    };
    match answer? {
        (StatusCode::OK, true) => {}
        (StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE, _) => return Some((Outcome::Silent, None)),
        _ => return Some((Outcome::Answered, None)),
    }
    let mut quiet = Context::from_waker(Waker::noop());
    let is_open = Pin::new(&mut connection).poll(&mut quiet).is_pending() && send.is_ready();
    let kept = is_open.then(|| connection.into_parts()).filter(|parts| parts.read_buf.is_empty());
    Some((Outcome::Passed, kept.and_then(|parts| parts.io.into_inner().into_std().ok())))
}

/// Whether a body is exactly `queue`; `None` if it breaks off.
async fn is_queue(mut body: Incoming) -> Option<bool> {
    let expected = names::PROBE_QUEUE.as_bytes();
    let mut got = Vec::new();
    loop {
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.transpose()),
            Poll::Pending => Poll::Pending,
        });
        let Some(frame) = frame.await.ok()? else { return Some(got == expected) };
        if let Ok(data) = frame.into_data() {
            got.extend_from_slice(&data);
        }
        if got.len() > expected.len() {
            return Some(false);
        }
    }
}
