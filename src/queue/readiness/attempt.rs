//! One try at one container, by whichever handler its probe has.
//!
//! Called by the prober, which decides when and how often. Control side. What is kept between tries: the address and
//! the HTTP version that worked.
//! Source: `knative.dev/serving/pkg/queue/readiness/probe.go` (`probeContainerImpl`), `pkg/queue/health/probe.go`.
use std::time::Duration;

use super::Probe;
use super::grpc::GrpcTry;
use super::http_get::HttpTry;
use super::target::Target;

/// Why a try was not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In the words of the Go queue.
    pub(super) text: String,
    /// Nothing listens: the application starts or was restarted.
    pub(super) refused: bool,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), refused: false }
    }

    /// The same with other words around it.
    pub(super) fn wrap(self, around: impl FnOnce(String) -> String) -> Self {
        Self { text: around(self.text), refused: self.refused }
    }
}

/// How a container is tried.
pub(super) enum Attempt {
    Http(Box<HttpTry>),
    Tcp(Target),
    Grpc(GrpcTry),
    /// The setting can never be good.
    Never(String),
}

impl Attempt {
    /// The handler of `probe`: the first that is set in the order of the Go queue.
    pub(super) fn new(probe: &Probe, auto_detect_http2: bool) -> Self {
        let made = if let Some(get) = &probe.http_get {
            HttpTry::new(get, auto_detect_http2).map(|get| Self::Http(Box::new(get)))
        } else if let Some(tcp) = &probe.tcp_socket {
            Target::new(&tcp.host, &tcp.port.0).map(Self::Tcp)
        } else if let Some(grpc) = &probe.grpc {
            GrpcTry::new(grpc).map(Self::Grpc)
        } else if probe.exec.is_some() {
            Err("exec probe not supported".to_owned())
        } else {
            Err("no probe found".to_owned())
        };
        made.unwrap_or_else(Self::Never)
    }

    /// Tries once; `limit` bounds each connection that the try makes, `None` is no limit.
    pub(super) async fn run(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        match self {
            Self::Http(get) => get.run(limit).await,
            Self::Tcp(target) => {
                let address = target.authority();
                let timed_out = || Failure::new(format!("dial tcp {address}: i/o timeout"));
                within(limit, target.connect(), timed_out).await.map(drop)
            }
            Self::Grpc(grpc) => grpc.run(limit).await,
            Self::Never(reason) => Err(Failure::new(reason.clone())),
        }
    }
}

/// `future`, or `timed_out` if it takes longer than `limit`.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    future: impl Future<Output = Result<T, Failure>>,
    timed_out: impl FnOnce() -> Failure,
) -> Result<T, Failure> {
    match limit {
        None => future.await,
        Some(limit) => tokio::time::timeout(limit, future).await.unwrap_or_else(|_| Err(timed_out())),
    }
}
