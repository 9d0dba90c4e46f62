//! The `grpc` handler: `grpc.health.v1.Health/Check` over h2c.
//!
//! Called through [`super::attempt`]. Control side. Good is status SERVING; a new connection each try.
//! Source: `knative.dev/serving/pkg/queue/health/probe.go` (`GRPCProbe`); the protocol:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, `grpc/health/v1/health.proto`.
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Version};
use prost::Message;

use super::attempt::{Failure, within};
use super::http_get::{USER_AGENT_VALUE, drive};
use super::probe::Grpc;
use super::target::Target;

/// An answer of the health service takes seven bytes; more than this is not one.
const MAX_ANSWER: usize = 4096;

/// gRPC status codes that are worded on their own.
const OK: u32 = 0;
const UNIMPLEMENTED: u32 = 12;

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// What is known of one `grpc` probe.
pub(super) struct GrpcTry {
    target: Target,
    service: String,
}

impl GrpcTry {
    /// The try of `grpc`, or why it can never be good.
    pub(super) fn new(grpc: &Grpc) -> Result<Self, String> {
        let target = Target::new("127.0.0.1", &grpc.port.to_string())?;
        Ok(Self { target, service: grpc.service.clone() })
    }

    /// Tries once.
    pub(super) async fn run(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        let timed_out = || {
            let limit = in_go_words(limit.unwrap_or_default());
            Failure::new(format!(
                "health rpc did not complete within {limit}: rpc error: code = DeadlineExceeded desc = context \
                 deadline exceeded"
            ))
        };
        let answer = within(limit, Box::pin(self.check()), timed_out).await?;
        if answer == ServingStatus::Serving as i32 {
            return Ok(());
        }
        let name = match ServingStatus::try_from(answer) {
            Ok(ServingStatus::Unknown) => "UNKNOWN".to_owned(),
            Ok(ServingStatus::Serving) => "SERVING".to_owned(),
            Ok(ServingStatus::NotServing) => "NOT_SERVING".to_owned(),
            Ok(ServingStatus::ServiceUnknown) => "SERVICE_UNKNOWN".to_owned(),
            Err(_) => answer.to_string(),
        };
        Err(Failure::new(format!("service unhealthy (responded with {name:?})")))
    }

    async fn check(&mut self) -> Result<i32, Failure> {
        let stream = self.target.connect().await.map_err(|failure| {
            failure.wrap(|e| unavailable(&format!("connection error: desc = \"transport: Error while dialing: {e}\"")))
        })?;
        let broken = |error: &dyn std::error::Error| Failure::new(unavailable(&error.to_string()));
        let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|e| broken(&e))?;
        let request = Request::post(format!("http://{}/grpc.health.v1.Health/Check", self.target.authority()))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", USER_AGENT_VALUE)
            .body(())
            .map_err(|e| broken(&e))?;
        let (response, mut body) = sender.send_request(request, false).map_err(|e| broken(&e))?;
        body.send_data(framed(&CheckRequest { service: self.service.clone() }), true).map_err(|e| broken(&e))?;
        drive(read(response), connection).await
    }
}

/// The `status` field of the answer.
async fn read(response: h2::client::ResponseFuture) -> Result<i32, Failure> {
    let broken = |error: &dyn std::error::Error| Failure::new(unavailable(&error.to_string()));
    let (head, mut body) = response.await.map_err(|e| broken(&e))?.into_parts();
    match head.status.as_u16() {
        200 => {}
        404 => return Err(failed(UNIMPLEMENTED, "unexpected HTTP status code received from server: 404 (Not Found)")),
        status => return Err(broken(&std::io::Error::other(format!("unexpected HTTP status code {status}")))),
    }
    accepted(&head.headers)?;
    let mut message = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(|e| broken(&e))?;
        body.flow_control().release_capacity(part.len()).map_err(|e| broken(&e))?;
        message.put(part);
        if message.len() > MAX_ANSWER {
            return Err(failed(8, "received message larger than max"));
        }
    }
    if let Some(trailers) = body.trailers().await.map_err(|e| broken(&e))? {
        accepted(&trailers)?;
    }
    status(&message).ok_or_else(|| failed(13, "the answer is not a health check's"))
}

/// The `status` field of an answer's body: one message, not compressed, with its length before it.
pub(crate) fn status(body: &[u8]) -> Option<i32> {
    let decoded = match body {
        [0, a, b, c, d, payload @ ..] if usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])) == Ok(payload.len()) => {
            CheckResponse::decode(payload).ok()
        }
        _ => None,
    };
    decoded.map(|answer| answer.status)
}

/// Refuses a `grpc-status` other than 0; its absence is no refusal (it comes with the trailers).
fn accepted(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(|status| status.parse::<u32>().unwrap_or(2)) {
        None | Some(OK) => Ok(()),
        Some(code) => Err(failed(code, text("grpc-message").unwrap_or_default())),
    }
}

fn failed(code: u32, message: &str) -> Failure {
    let error = format!("rpc error: code = {} desc = {message}", code_name(code));
    Failure::new(if code == UNIMPLEMENTED {
        format!("this server does not implement the grpc health protocol (grpc.health.v1.Health) {error}")
    } else {
        format!("health rpc probe failed: {error}")
    })
}

fn unavailable(message: &str) -> String {
    format!("health rpc probe failed: rpc error: code = Unavailable desc = {message}")
}

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

/// A message with gRPC's prefix: not compressed, length.
fn framed(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + encoded.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    framed.put_slice(&encoded);
    framed.freeze()
}

fn in_go_words(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}
