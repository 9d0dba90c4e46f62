//! Cuts the body of a watch into lines, each of which is an event.
use std::pin::Pin;

use bytes::Bytes;
use http_body::Body;

use crate::kube::api::error::Error;
use crate::kube::api::transport::Answer;

/// Longest line: an object holds 1.5 MiB in etcd, and JSON may blow it up.
const MAX_LINE: usize = 16 << 20;
/// A buffer that grew beyond this is given back after its line.
const KEPT: usize = 64 << 10;

/// The lines of a body.
pub(super) struct Lines {
    body: Answer,
    frame: Bytes,
    partial: Vec<u8>,
}

impl Lines {
    pub(super) fn of(body: Answer) -> Self {
        Self { body, frame: Bytes::new(), partial: Vec::new() }
    }

    /// Gives the next line to `take`; none at the end. A last line without an end was cut and is none.
    ///
    /// # Errors
    /// The connection broke, or a line is too long.
    pub(super) async fn next<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Error> {
        loop {
            if let Some(end) = self.frame.iter().position(|byte| *byte == b'\n') {
                let rest = self.frame.split_off(end + 1);
                let line = std::mem::replace(&mut self.frame, rest);
                let line = line.get(..end).unwrap_or_default();
                if self.partial.is_empty() {
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    return Ok(Some(take(line)));
                }
                self.partial.extend_from_slice(line);
                let result = take(&self.partial);
                self.partial.clear();
                self.partial.shrink_to(KEPT);
                return Ok(Some(result));
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.frame));
            if self.partial.len() > MAX_LINE {
                return Err(Error::Nonsense(format!("an event is longer than {MAX_LINE} bytes")));
            }
            match std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(frame) => self.frame = frame.map_err(Error::lost)?.into_data().unwrap_or_default(),
                None => return Ok(None),
            }
        }
    }
}
