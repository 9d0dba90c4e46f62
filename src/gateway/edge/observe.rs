//! What is told of a request when its response has ended: a line of the access log, and numbers.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Instant;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Version};
use time::OffsetDateTime;

use crate::gateway::access_log::{Entry, Template};
use crate::gateway::backends::Backend;
use crate::gateway::kourier::Kourier;
use crate::http::Response;
use crate::http::body::{End, Watch};
use crate::http::call::Call;
use crate::http::cause::Cause;
use crate::telemetry::writer;

/// Numbers of the process. Workers add, the scrape reads.
#[derive(Debug, Default)]
pub struct Counts {
    /// Responses by the first digit of their status; 0: the caller left before there was one.
    pub by_class: [AtomicU64; 6],
    /// Requests under way.
    pub active: AtomicU64,
}

/// A request that will be told of.
pub struct Told {
    counts: Arc<Counts>,
    settings: Arc<Kourier>,
    call: Rc<Call>,
    version: Version,
    log: Option<Box<Line>>,
    backend: Option<Arc<Backend>>,
    status: u16,
    cause: Option<&'static str>,
    sent: u64,
}

/// What only the log needs.
struct Line {
    method: Method,
    path: String,
    authority: String,
    request: HeaderMap,
    response: HeaderMap,
    upstream: Option<SocketAddr>,
}

impl Told {
    /// Remembers what has to be told of a request that came in.
    #[must_use]
    pub fn new(
        counts: &Arc<Counts>,
        settings: &Arc<Kourier>,
        call: &Rc<Call>,
        head: &http::request::Parts,
        authority: &str,
    ) -> Self {
        let log = settings.access_log.as_ref().map(|template| {
            Box::new(Line {
                method: head.method.clone(),
                path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
                authority: authority.to_owned(),
                request: template.request_headers(&head.headers),
                response: HeaderMap::new(),
                upstream: None,
            })
        });
        counts.active.fetch_add(1, Ordering::Relaxed);
        Self {
            counts: counts.clone(),
            settings: settings.clone(),
            call: call.clone(),
            version: head.version,
            log,
            backend: None,
            status: 0,
            cause: None,
            sent: 0,
        }
    }

    /// Remembers where it goes.
    pub fn goes_to(&mut self, backend: &Arc<Backend>) {
        self.backend = Some(backend.clone());
    }

    /// Ties itself to a response.
    pub fn answered(mut self, response: &mut Response, went: &Cell<Option<SocketAddr>>) {
        self.status = response.status().as_u16();
        self.cause = self.call.cause.get();
        if let (Some(line), Some(template)) = (&mut self.log, &self.settings.access_log) {
            line.response = template.response_headers(response.headers());
            line.upstream = went.get();
        }
        response.body_mut().watch(Box::new(self));
    }

    /// Tells of a request that was answered with a cause.
    pub fn failed(mut self, cause: &Cause, went: &Cell<Option<SocketAddr>>) {
        self.status = cause.status().as_u16();
        self.cause = Some(cause.token());
        if let Some(line) = &mut self.log {
            line.upstream = went.get();
        }
    }

    fn tell(&self, template: &Template, line: &Line) {
        let now = Instant::now();
        let duration = now.saturating_duration_since(self.call.started);
        let connection = &self.call.connection;
        let entry = Entry {
            start: OffsetDateTime::now_utc() - duration,
            duration,
            method: line.method.as_str(),
            path: &line.path,
            authority: &line.authority,
            scheme: if connection.tls { "https" } else { "http" },
            protocol: match self.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            request: &line.request,
            response: &line.response,
            status: self.status,
            flags: self.cause.map_or("", flags),
            details: self.cause.unwrap_or_default(),
            received: self.call.request_bytes.get(),
            sent: self.sent,
            upstream: line.upstream,
            cluster: self.backend.as_ref().map_or("", |backend| &backend.cluster),
            remote: connection.peer,
            local: None,
            server_name: connection.server_name.get().map(|name| &**name),
            tls_version: None,
        };
        let mut text = String::with_capacity(256);
        template.render(&entry, &mut text);
        writer::stdout().line(text.as_bytes());
    }
}

/// Envoy's letters for a cause ("Access logging", `RESPONSE_FLAGS`).
fn flags(token: &str) -> &'static str {
    match token {
        "caller_left" => "DC",
        "upstream_refused" | "upstream_timeout" => "UF",
        "upstream_eof" | "upstream_reset" => "UC",
        "upstream_malformed" | "upstream_switch" => "UPE",
        "no_service" | "no_endpoints" | "name_unknown" => "UH",
        "timeout_idle" => "SI",
        "denied" => "UAEX",
        _ if token.starts_with("authorizer_") => "UAEX",
        _ if token.starts_with("no_route") => "NR",
        _ if token.starts_with("tls_") => "UF",
        _ => "",
    }
}

impl Watch for Told {
    fn sent(&mut self, bytes: usize, _cx: &mut Context<'_>) {
        self.sent += bytes as u64;
    }

    fn end(&mut self, end: End) {
        match end {
            End::Whole => {}
            End::Broken(token) => self.cause = Some(token),
            End::CallerLeft => self.cause = Some(Cause::CallerLeft.token()),
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.status == 0 {
            self.cause.get_or_insert(Cause::CallerLeft.token());
        }
        self.counts.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(class) = self.counts.by_class.get(usize::from(self.status / 100)) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        if let (Some(template), Some(line)) = (&self.settings.access_log, &self.log) {
            self.tell(template, line);
        }
    }
}

/// `Server` of responses, unless the application's is kept.
pub const SERVER: HeaderValue = HeaderValue::from_static("envoy");
