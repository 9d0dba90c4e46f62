//! The two small servers of the queue's control side.
//!
//! | port | path | answer |
//! |---|---|---|
//! | admin | `/wait-for-drain` | 200 when the drain is over, or was taken back |
//! | statistics | `/metrics` | the autoscaler's `Stat` message |

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use tokio::sync::watch;

use super::drain::{Stage, hook};
use super::statistics::Statistics;
use crate::control::listener::{Handler, Response};
use crate::control::scrape::not_found;
use crate::http::body::Body;
use crate::knative::names;
use crate::lifecycle::drain::Drain;

/// The admin server (`pkg/queue/sharedmain`, `buildAdminServer`).
#[must_use]
pub fn handler(drain: Arc<Drain>, stage: watch::Receiver<Stage>, reset: Duration) -> Handler {
    Rc::new(move |request, peer| {
        let (drain, stage) = (drain.clone(), stage.clone());
        Box::pin(async move {
            let path = request.uri().path();
            if path == names::DRAIN_PATH {
                tracing::info!(
                    "Attached drain handler from user-container&{{{} {path} peer:{peer}}}",
                    request.method()
                );
                // The drain goes on when the caller leaves: the hook is what began it.
                let _ = tokio::task::spawn_local(hook(drain, stage, reset)).await;
                return Response::new(Body::empty());
            }
            let clean = cleaned(path);
            if clean == names::DRAIN_PATH
                && let Ok(location) = HeaderValue::try_from(clean)
            {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                response.headers_mut().insert(header::LOCATION, location);
                return response;
            }
            not_found()
        })
    })
}

/// The autoscaler's server.
#[must_use]
pub fn statistics(statistics: Arc<Statistics>) -> Handler {
    Rc::new(move |request, _| {
        let statistics = statistics.clone();
        Box::pin(async move {
            if request.uri().path() != "/metrics" {
                return not_found();
            }
            let mut response = Response::new(Body::full(statistics.message()));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(names::PROTOBUF));
            response
        })
    })
}

/// A path without empty, `.` and `..` parts, as Go's `path.Clean`.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    // A slash at the end stays: `/wait-for-drain/` is another path.
    let end = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_odd_paths_when_cleaned_then_they_are_what_go_makes_of_them() {
        for (path, clean) in
            [("//wait-for-drain", "/wait-for-drain"), ("/a/../wait-for-drain", "/wait-for-drain"), ("", "/")]
        {
            assert_eq!(cleaned(path), clean);
        }
    }
}
