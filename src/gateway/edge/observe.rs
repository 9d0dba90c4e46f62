//! What is told of a request when its response has ended: a line of the access log, and numbers.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Version};
use time::OffsetDateTime;

use crate::gateway::access_log::{Entry, Template};
use crate::gateway::backends::Backend;
use crate::gateway::kourier::Kourier;
use crate::http::Response;
use crate::http::body::{End, Watch};
use crate::http::call::Call;
use crate::http::cause::Cause;
use crate::telemetry::causes::Causes;
use crate::telemetry::trace::Attribute;
use crate::telemetry::writer;

/// Numbers of the process. Workers add, the scrape reads.
#[derive(Debug, Default)]
pub struct Counts {
    /// Responses by the first digit of their status; 0: the caller left before there was one.
    pub by_class: [AtomicU64; 6],
    /// Requests under way.
    pub active: AtomicU64,
    /// Answers of the gateway's own, and responses that were cut.
    pub causes: Causes,
    /// Callers that left before their answer was complete.
    pub left: AtomicU64,
    /// Handshakes with callers that failed.
    pub handshake_failures: Causes,
}

/// Where a request went in the end, if it was sent anywhere.
#[derive(Default)]
pub struct Went {
    /// The upstream.
    pub address: Cell<Option<SocketAddr>>,
    /// The backend, if it is not the one that the request was first meant for.
    pub backend: Cell<Option<Arc<Backend>>>,
}

/// A request that will be told of.
pub struct Told {
    counts: Arc<Counts>,
    settings: Arc<Kourier>,
    call: Rc<Call>,
    version: Version,
    log: Option<Box<Line>>,
    traced: Option<Box<Traced>>,
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

/// What only the span needs.
struct Traced {
    method: Method,
    url: String,
    user_agent: String,
    upstream: Option<SocketAddr>,
}

impl Traced {
    fn new(call: &Call, head: &http::request::Parts, authority: &str) -> Box<Self> {
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let scheme = if call.connection.tls { "https" } else { "http" };
        let agent = head.headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        Box::new(Self {
            method: head.method.clone(),
            url: format!("{scheme}://{authority}{path}"),
            user_agent: agent.unwrap_or_default().into_owned(),
            upstream: None,
        })
    }
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
        let sampled = call.trace.borrow().as_ref().is_some_and(|trace| trace.is_sampled());
        counts.active.fetch_add(1, Ordering::Relaxed);
        Self {
            counts: counts.clone(),
            settings: settings.clone(),
            call: call.clone(),
            version: head.version,
            log,
            traced: sampled.then(|| Traced::new(call, head, authority)),
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
    pub fn answered(mut self, response: &mut Response, went: &Went) {
        if let Some(backend) = went.backend.take() {
            self.backend = Some(backend);
        }
        self.status = response.status().as_u16();
        self.cause = self.call.cause.get();
        if let (Some(line), Some(template)) = (&mut self.log, &self.settings.access_log) {
            line.response = template.response_headers(response.headers());
            line.upstream = went.address.get();
        }
        if let Some(traced) = &mut self.traced {
            traced.upstream = went.address.get();
        }
        response.body_mut().watch(Box::new(self));
    }

    /// Tells of a request that was answered with a cause.
    pub fn failed(mut self, cause: &Cause, went: &Went) {
        if let Some(backend) = went.backend.take() {
            self.backend = Some(backend);
        }
        self.status = cause.status().as_u16();
        self.cause = Some(cause.token());
        if let Some(line) = &mut self.log {
            line.upstream = went.address.get();
        }
        if let Some(traced) = &mut self.traced {
            traced.upstream = went.address.get();
        }
    }

    /// The span of a request, with the attributes of Envoy's tracers.
    fn trace(&self, traced: &Traced) {
        let Some(trace) = self.call.trace.borrow_mut().take() else { return };
        let text = |name, value: &str| (name, Attribute::Text(value.to_owned()));
        let cluster = self.backend.as_ref().map_or("service_stats", |backend| &backend.cluster);
        let flags = self.cause.map_or("", flags);
        let mut attributes = vec![
            text("component", "proxy"),
            text("http.method", traced.method.as_str()),
            text("http.url", cut(&traced.url)),
            text("http.protocol", protocol(self.version)),
            text("http.status_code", &self.status.to_string()),
            text("user_agent", cut(&traced.user_agent)),
            text("upstream_cluster", cluster),
            text("peer.address", &self.call.connection.peer.ip().to_string()),
            text("request_size", &self.call.request_bytes.get().to_string()),
            text("response_size", &self.sent.to_string()),
            text("response_flags", if flags.is_empty() { "-" } else { flags }),
        ];
        attributes.extend(traced.upstream.map(|address| text("upstream_address", &address.to_string())));
        trace.finish_alone(Instant::now(), "ingress", attributes, self.status >= 500 || self.status == 0);
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
            protocol: protocol(self.version),
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
            tls_version: connection.negotiated.get().and_then(|facts| tls_version(facts.version)),
        };
        let mut text = String::with_capacity(256);
        template.render(&entry, &mut text);
        writer::stdout().line(text.as_bytes());
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// A version as it is on the wire, as Envoy writes it.
fn tls_version(version: u16) -> Option<&'static str> {
    match version {
        0x303 => Some("TLSv1.2"),
        0x304 => Some("TLSv1.3"),
        _ => None,
    }
}

/// Callers choose these: a span holds 1 KiB of each.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(1024)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
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
        match self.cause {
            Some(token) if token == Cause::CallerLeft.token() => {
                self.counts.left.fetch_add(1, Ordering::Relaxed);
            }
            Some(token) => self.counts.causes.count(token),
            None => {}
        }
        self.counts.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(class) = self.counts.by_class.get(usize::from(self.status / 100)) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(traced) = self.traced.take() {
            self.trace(&traced);
        }
        if let (Some(template), Some(line)) = (&self.settings.access_log, &self.log) {
            self.tell(template, line);
        }
    }
}

/// `Server` of responses, unless the application's is kept.
pub const SERVER: HeaderValue = HeaderValue::from_static("envoy");
