//! Why there is no response of the application, and what it is called.
use super::Prepared;
use crate::http::cause::Cause;
use crate::http::dial::Unreached;
use crate::http::h1_framing::Fault;
use crate::http::inbound::Broken;
use crate::http::upstream::Failed;

/// Why an upstream gave no response.
pub enum Failure {
    /// There was no connection: no byte of the request was taken, and it may go elsewhere.
    Unreached(Box<Prepared>, Unreached),
    /// The connection ended before a byte of the response to a request that may be sent again ([`Prepared::kept`]).
    Lost(Box<Prepared>, Cause),
    /// The request was or may have been taken.
    Taken(Cause),
}

impl Failure {
    pub(super) fn into_cause(self) -> Cause {
        match self {
            Self::Unreached(_, error) => unreached(error),
            Self::Lost(_, cause) | Self::Taken(cause) => cause,
        }
    }
}

/// No connection that takes requests.
pub(super) fn closed() -> Unreached {
    Unreached::Refused(std::io::ErrorKind::ConnectionReset.into())
}

/// The cause of a request that reached no upstream.
#[must_use]
pub fn unreached(error: Unreached) -> Cause {
    match error {
        Unreached::Refused(error) => Cause::UpstreamRefused(error),
        Unreached::ConnectTimeout(_) | Unreached::HandshakeTimeout(_) => Cause::UpstreamTimeout(error),
        Unreached::Handshake(error) => Cause::UpstreamTls(error),
    }
}

/// The cause of a request that went with its connection.
pub(super) fn exchange(failed: Failed) -> Cause {
    match failed {
        Failed::Exchange(Broken::Upstream(Fault::Eof)) => Cause::UpstreamEof,
        Failed::Exchange(Broken::Upstream(fault @ Fault::Malformed(_))) => Cause::UpstreamMalformed(Some(fault)),
        Failed::Exchange(Broken::Upstream(Fault::HeadTooLarge(what))) => Cause::UpstreamHead(what),
        Failed::Exchange(error @ Broken::Upstream(Fault::ShortBody)) => Cause::RequestBody(error),
        Failed::Exchange(Broken::Upstream(Fault::Io(error))) => match error.downcast::<Unreached>() {
            // A connection in the place of a pooled one.
            Ok(error) => unreached(error),
            Err(error) => Cause::UpstreamReset(Broken::Upstream(Fault::Io(error))),
        },
        Failed::Exchange(error) | Failed::Lost(_, error) => Cause::UpstreamReset(error),
        Failed::RequestBody(error) => Cause::RequestBody(error),
        Failed::Again { error: Some(error), .. } => Cause::UpstreamReset(error),
        Failed::Again { error: None, .. } => unreached(closed()),
    }
}
