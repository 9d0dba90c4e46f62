//! Which revision a request is for (`pkg/activator/handler/context_handler.go`).

use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::activator::worker::{Local, Worker};
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::knative::names;

/// A request whose revision was looked for.
pub struct Routed {
    /// The request.
    pub request: Request,
    /// The revision, or the name by which there is none.
    pub revision: Result<Rc<Local>, Box<str>>,
}

/// The layer.
#[derive(Clone)]
pub struct Route<S> {
    /// What serves a request for a revision.
    pub inner: S,
    /// Knows the revisions.
    pub worker: Rc<Worker>,
}

impl<S: tower::Service<Routed, Response = Response, Error = Cause>> tower::Service<Request> for Route<S> {
    type Response = Response;
    type Error = Cause;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let head = &request.head;
        let host = match head.uri.authority() {
            Some(authority) => authority.as_str(),
            None => text(&head.headers, &header::HOST),
        };
        let (namespace, name) = named(&head.headers, host, &self.worker.cluster_domain);
        let found = self.worker.find(namespace, name, request.call.started);
        let revision = found.ok_or_else(|| name.into());
        self.inner.call(Routed { request, revision })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).map(HeaderValue::to_str).and_then(Result::ok).unwrap_or_default()
}

/// Namespace and name: the headers win when both are there; else the host, if it is one of a revision.
fn named<'a>(headers: &'a HeaderMap, host: &'a str, domain: &str) -> (&'a str, &'a str) {
    let (namespace, name) = (text(headers, &names::REVISION_NAMESPACE), text(headers, &names::REVISION_NAME));
    if !namespace.is_empty() && !name.is_empty() {
        return (namespace, name);
    }
    let mut parts = host.splitn(4, '.');
    if let (Some(name), Some(namespace), Some("svc"), Some(rest)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
        && rest.split(':').next() == Some(domain)
    {
        return (namespace, name);
    }
    (namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_headers_and_hosts_then_the_revision_is_the_original_s_choice() {
        let full = &[("knative-serving-namespace", "demo"), ("knative-serving-revision", "hello")][..];
        for (lines, host, expected) in [
            (full, "a.b.svc.cluster.local", ("demo", "hello")),
            (&full[..1], "a.b.svc.cluster.local:80", ("b", "a")),
            (&full[1..], "a.example.com", ("", "hello")),
            (&[], "a.b.svc.cluster.local", ("b", "a")),
            (&[], "a.b.svc.other.local", ("", "")),
            (&[], "a.b.svc", ("", "")),
            (&[], "a.b.x.cluster.local", ("", "")),
            (&[], "", ("", "")),
        ] {
            let headers: HeaderMap =
                lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
            assert_eq!(named(&headers, host, "cluster.local"), expected, "{lines:?} {host}");
        }
    }
}
