//! Reads the beginning of a request's body for the authoriser, and leaves the request with all of it.
use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use http::{StatusCode, header};
use http_body::{Body as _, Frame};

use crate::http::cause::Cause;
use crate::http::inbound::{Ahead, Inbound};
use crate::http::{Request, headers};

/// The beginning of a body.
pub struct Beginning {
    /// At most as many bytes as were asked for.
    pub bytes: Vec<u8>,
    /// Whether there is more of it.
    pub partial: bool,
}

/// Reads up to `most` bytes of a body, or all of it. A gRPC call and an upgrade have a body whose end may depend on the
/// answer, so that nothing of it is read.
///
/// # Errors
/// The caller's body can't be read.
pub async fn read(request: &mut Request, most: usize) -> Result<Beginning, Cause> {
    let dialogue = request.call.grpc.get() || headers::upgrade(&request.head.headers).is_some();
    if request.body.is_end_stream() || dialogue || most == 0 {
        return Ok(Beginning { bytes: Vec::new(), partial: !request.body.is_end_stream() });
    }
    if request.head.headers.remove(header::EXPECT).is_some_and(|value| !value.is_empty())
        && request.call.connection.h2.get()
    {
        // The body is wanted here, whatever the upstream says later. Over HTTP/1.1 reading it says so.
        let mut go_ahead = http::Response::new(());
        *go_ahead.status_mut() = StatusCode::CONTINUE;
        request.call.informational.borrow_mut().push(go_ahead);
    }
    let mut rest = std::mem::replace(&mut request.body, Inbound::None);
    let (mut frames, mut length) = (VecDeque::<Frame<Bytes>>::new(), 0);
    while length < most && !rest.is_end_stream() {
        match std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await {
            Some(Ok(frame)) => {
                length += frame.data_ref().map_or(0, Bytes::len);
                frames.push_back(frame);
            }
            Some(Err(error)) => return Err(Cause::RequestBody(error)),
            None => break,
        }
    }
    let partial = length > most || !rest.is_end_stream();
    let mut bytes = Vec::with_capacity(length.min(most));
    for data in frames.iter().filter_map(Frame::data_ref) {
        bytes.extend_from_slice(data.get(..data.len().min(most - bytes.len())).unwrap_or_default());
    }
    request.call.request_ended.set(rest.is_end_stream());
    request.body = Inbound::Ahead(Box::new(Ahead { read: frames, rest }));
    Ok(Beginning { bytes, partial })
}
