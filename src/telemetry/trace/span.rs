//! A finished span, and as a line on stdout.

use crate::telemetry::json;

/// The role of a span, with OTLP's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Within the process.
    Internal = 1,
    /// Answers a caller.
    Server = 2,
    /// Asks somebody.
    Client = 3,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Text, cut at 1024 bytes.
    Text(String),
    /// Number.
    Int(i64),
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Id of the trace.
    pub trace_id: u128,
    /// Id of this span; not 0.
    pub id: u64,
    /// Id of its parent; 0: none.
    pub parent: u64,
    /// Instrumentation scope.
    pub scope: &'static str,
    /// Name.
    pub name: String,
    /// Role.
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Attributes in order.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Status Error.
    pub failed: bool,
}

/// One span as a line for `protocol: stdout`, with the names of Go's exporter.
pub fn json_line(span: &Span, out: &mut Vec<u8>) {
    let text = |out: &mut Vec<u8>, name: &str, value: &str| {
        out.extend_from_slice(if out.last() == Some(&b'{') { b"\"" } else { b",\"" });
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        json::quote(out, value);
    };
    let context = |out: &mut Vec<u8>, name: &str, id: u64| {
        out.extend_from_slice(format!(",\"{name}\":{{").as_bytes());
        text(out, "TraceID", &format!("{:032x}", span.trace_id));
        text(out, "SpanID", &format!("{id:016x}"));
        out.push(b'}');
    };
    out.push(b'{');
    text(out, "Name", &span.name);
    context(out, "SpanContext", span.id);
    context(out, "Parent", span.parent);
    let numbers = format!(",\"SpanKind\":{},\"StartTime\":{},\"EndTime\":{}", span.kind as u8, span.start, span.end);
    out.extend_from_slice(numbers.as_bytes());
    out.extend_from_slice(b",\"Attributes\":{");
    for (name, value) in &span.attributes {
        match value {
            Attribute::Text(value) => text(out, name, value),
            Attribute::Int(n) => text(out, name, &n.to_string()),
        }
    }
    out.extend_from_slice(b"},\"Status\":{");
    text(out, "Code", if span.failed { "Error" } else { "Unset" });
    out.extend_from_slice(b"},\"InstrumentationScope\":{");
    text(out, "Name", span.scope);
    out.extend_from_slice(b"}}\n");
}
