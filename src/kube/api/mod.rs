//! Objects from the API server: list and watch, with an own small client.
//!
//! [`Client`] finds its server through [`cluster`] and sends requests over [`transport`]; [`watch`] keeps a set of
//! objects up to date and [`lines`] cuts its answers into events. The protocol is that of Kubernetes' *API concepts*:
//! streaming lists with bookmarks, paged lists where those are refused, and a new list when the server has forgotten
//! the version that we know.
mod backoff;
pub mod cluster;
pub mod error;
mod kubeconfig;
mod lines;
mod transport;
mod version;
mod watch;

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response};
use http_body::Body;
use serde::Deserialize;

use crate::kube::api::cluster::Cluster;
use crate::kube::api::error::Refusal;
use crate::kube::api::transport::{Answer, Payload, Transport};
use crate::kube::counters::Activity;
use crate::kube::object::{Object, Selection};
use crate::kube::objects::Objects;

pub use error::Error;

/// Limit of the body of an answer that is not a watch.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Longest such body: a page of 500 large objects.
const BODY_BYTES: usize = 256 << 20;

/// A client of one API server. Clones share its connection. Lives on one thread, within a `LocalSet`.
#[derive(Clone)]
pub struct Client {
    transport: Rc<Transport>,
    activity: Activity,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("cluster", self.transport.cluster()).finish()
    }
}

impl Client {
    /// A client. Connects with its first request.
    pub fn new(cluster: Cluster) -> Self {
        Self { transport: Transport::new(cluster), activity: Activity::default() }
    }

    /// The objects of one kind, from now on, as [`crate::kube::Source::objects`] has it.
    pub fn objects<T: Object>(&self, selection: Selection) -> Objects<T> {
        let (objects, writer) = Objects::new();
        self.activity.add(T::KIND.plural, objects.counters());
        let task = tokio::task::spawn_local(watch::run(self.clone(), selection, writer));
        objects.kept_by(task.abort_handle());
        objects
    }

    /// What is read through this client now.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Checks that the server is not older than `minimum` (`v1.34.0`). Both versions have to be as semver.org has it.
    ///
    /// # Errors
    /// No answer, or a version that is too old or none at all.
    pub async fn check_version(&self, minimum: &str) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "gitVersion")]
            git_version: String,
        }
        let body = self.request(Method::GET, "/version", None).await?;
        let version: Version = serde_json::from_slice(&body)
            .map_err(|error| Error::Nonsense(format!("the answer to /version can't be read: {error}")))?;
        version::check(&version.git_version, minimum)
    }

    /// Sends one request and reads its whole answer. `path` begins with a slash and may have a query; a body comes with
    /// its content type.
    ///
    /// # Errors
    /// No answer, or one whose status is not 2xx.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Bytes, Error> {
        let response = self.send(method, path, body).await?;
        read(response.into_body()).await
    }

    /// Sends one request; an answer whose status is not 2xx is an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Response<Answer>, Error> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(concat!("lockkeeper/", env!("CARGO_PKG_VERSION"))));
        let mut payload = Payload::default();
        if let Some((content_type, bytes)) = body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(content_type));
            payload = Payload::new(bytes);
        }
        let request = request.body(payload).map_err(Error::settings)?;
        let answer = self.transport.send(request).await;
        let status = answer.as_ref().ok().map(Response::status);
        self.activity.answered(&self.transport.cluster().authority(), &method, status);
        let response = answer?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = read(response.into_body()).await.unwrap_or_default();
        Err(Error::Refused(Refusal::read(status, seconds.map(Duration::from_secs), &body)))
    }
}

/// Reads a body to its end.
async fn read(mut body: Answer) -> Result<Bytes, Error> {
    let whole = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
            if let Ok(data) = frame.map_err(Error::lost)?.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > BODY_BYTES {
                return Err(Error::Nonsense(format!("the answer is longer than {BODY_BYTES} bytes")));
            }
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(BODY_TIME, whole).await {
        Ok(result) => result,
        Err(_) => Err(Error::lost(format!("the answer did not end within {BODY_TIME:?}"))),
    }
}
