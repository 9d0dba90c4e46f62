//! The request log: one line for each request, shaped by the operator's Go template.
//!
//! Parsed once at start ([`Template::parse`]); what we don't know is refused there with its place, so that nothing
//! fails per request that could have failed before. Data side: a worker renders into a buffer that it keeps and hands
//! the line to [`crate::telemetry::writer`]; for the template that Knative ships, rendering allocates only where something has to be escaped.
//!
//! Known: fields and methods of `.Request`, `.Response`, `.Revision` and `.TraceID` that logs are made of; `if`,
//! `with`, variables, pipelines, comments and trimming; the functions of [`parse`]. Unlike Go, a header that is absent
//! makes `index .Request.Header "X" 0` empty instead of losing the line.
//!
//! Source: `pkg/http/request_log.go`, Go's `text/template`.

mod lex;
mod parse;
mod printf;
mod program;
mod render;
mod tls;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Method, Version};

use program::Program;
pub use tls::TlsFacts;

/// A compiled template.
#[derive(Debug)]
pub struct Template(Program);

/// What of a template is not understood, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Line, from 1.
    pub line: usize,
    /// Column in that line, in bytes, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template: requestLog:{}:{}: {}", self.line, self.column, self.reason)
    }
}

impl std::error::Error for TemplateError {}

/// Facts of the revision that every line may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionFacts {
    /// `.Revision.Name`
    pub name: String,
    /// `.Revision.Namespace`
    pub namespace: String,
    /// `.Revision.Service`; may be empty.
    pub service: String,
    /// `.Revision.Configuration`; may be empty.
    pub configuration: String,
    /// `.Revision.PodName`
    pub pod_name: String,
    /// `.Revision.PodIP`
    pub pod_ip: String,
}

/// One request, as it came in, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Method.
    pub method: &'a Method,
    /// Target as the caller sent it.
    pub request_uri: &'a str,
    /// Protocol of the caller.
    pub version: Version,
    /// Host or authority, with its port if it has one.
    pub host: &'a str,
    /// The caller's address.
    pub remote_addr: SocketAddr,
    /// Announced body size; -1 when unknown.
    pub content_length: i64,
    /// Headers as received, before any change.
    pub headers: &'a HeaderMap,
    /// What its connection negotiated; nothing over plaintext.
    pub tls: Option<&'a TlsFacts>,
    /// Status.
    pub code: u16,
    /// Bytes of the response's body.
    pub size: u64,
    /// From the request's header to the response's end.
    pub latency: Duration,
    /// The revision.
    pub revision: &'a RevisionFacts,
    /// See [`trace_id`].
    pub trace_id: &'a str,
}

impl Template {
    /// Compiles a template. A line ending is added if it has none.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut program = Program::parse(text)?;
        if !text.ends_with('\n') {
            program.add_text("\n");
        }
        Ok(Self(program))
    }

    /// Appends the line of one request. A template that fails for this request (it compares text with a number)
    /// gives Go's line about it instead.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        if self.0.render(record, out).is_err() {
            out.truncate(start);
            render::failure(record, out);
        }
    }
}

/// The trace id that the caller sent: the second part of `traceparent`, else `X-B3-TraceId`, else nothing.
pub fn trace_id(headers: &HeaderMap) -> &str {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let parent = text("traceparent").and_then(|parent| parent.split('-').nth(1));
    parent.or_else(|| text("x-b3-traceid")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
