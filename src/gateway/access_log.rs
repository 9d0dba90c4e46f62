//! The access log's line, in Envoy's template language.
//!
//! Parsed when settings are read (control side), rendered after each request (data side) without looking anything up
//! by name. Operators that are not known are named when the template is read and come out as `-`, as values do that a
//! request does not have. Source: Envoy's documentation, "Access logging", "Command operators".
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

mod read;

use read::{operator_end, read};

/// Envoy's default line, which is Kourier's.
pub const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// What a line can tell of a request.
#[derive(Debug)]
pub struct Entry<'a> {
    /// When its header had come in.
    pub start: OffsetDateTime,
    /// From then to the end of the response.
    pub duration: Duration,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Host as it was sent.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// Headers of the request.
    pub request: &'a HeaderMap,
    /// Headers of the response.
    pub response: &'a HeaderMap,
    /// Status; 0 if the caller left before there was one.
    pub status: u16,
    /// Why the gateway answered by itself, in Envoy's letters (`NR`, `UF`, `UH`, `DC`), or nothing.
    pub flags: &'a str,
    /// Why, as the cause's token.
    pub details: &'a str,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Where the request went.
    pub upstream: Option<std::net::SocketAddr>,
    /// `namespace/service` that it went to.
    pub cluster: &'a str,
    /// The caller.
    pub remote: std::net::SocketAddr,
    /// The address that the caller came in by.
    pub local: Option<std::net::SocketAddr>,
    /// The server name of the caller's TLS hello.
    pub server_name: Option<&'a str>,
    /// `TLSv1.3`, `TLSv1.2`.
    pub tls_version: Option<&'a str>,
}

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// Operators that are not known, as they stand in the template.
    pub unknown: Vec<String>,
}

/// A template that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access log template, column {column}: {expected}")]
pub struct Invalid {
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub expected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Start(Option<Vec<Piece>>),
    Duration,
    Protocol,
    Code,
    CodeDetails,
    Flags,
    Received,
    Sent,
    UpstreamHost,
    UpstreamCluster,
    Remote { port: bool },
    Local { port: bool },
    ServerName,
    TlsVersion,
    Request(Field, Option<Field>, Option<usize>),
    Response(HeaderName, Option<HeaderName>, Option<usize>),
    Absent,
}

/// A header or pseudo-header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Method,
    Path,
    Authority,
    Scheme,
    Header(HeaderName),
}

/// A piece of a `strftime` format.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Spec(char),
    /// Digits of the second's fraction.
    Fraction(usize),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A `%` without its partner, or parentheses that are not closed.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut parts = Vec::new();
        let mut unknown = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let column = text.len() - rest.len() + at;
            let invalid =
                |expected| Invalid { column: text.get(..column).map_or(0, |t| t.chars().count()) + 1, expected };
            let (before, operator) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = operator.strip_prefix("%%") {
                literal.push('%');
                rest = after;
                continue;
            }
            let end = operator_end(operator).ok_or(invalid("an operator that begins here is not closed by %"))?;
            let (inside, after) =
                (operator.get(1..end).unwrap_or_default(), operator.get(end + 1..).unwrap_or_default());
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            let part = read(inside).unwrap_or(Part::Absent);
            if part == Part::Absent {
                unknown.push(format!("%{inside}%"));
            }
            parts.push(part);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts, unknown })
    }

    /// The headers of a request that a line needs.
    #[must_use]
    pub fn request_headers(&self, headers: &HeaderMap) -> HeaderMap {
        let named = self.parts.iter().filter_map(|part| match part {
            Part::Request(first, second, _) => Some([Some(first), second.as_ref()]),
            _ => None,
        });
        keep(
            headers,
            named.flatten().flatten().filter_map(|field| match field {
                Field::Header(name) => Some(name),
                _ => None,
            }),
        )
    }

    /// The headers of a response that a line needs.
    #[must_use]
    pub fn response_headers(&self, headers: &HeaderMap) -> HeaderMap {
        let named = self.parts.iter().filter_map(|part| match part {
            Part::Response(first, second, _) => Some([Some(first), second.as_ref()]),
            _ => None,
        });
        keep(headers, named.flatten().flatten())
    }

    /// Appends the line of a request.
    pub fn render(&self, entry: &Entry<'_>, out: &mut String) {
        for part in &self.parts {
            let before = out.len();
            part.render(entry, out);
            if out.len() == before {
                out.push('-');
            }
        }
    }
}

fn keep<'n>(headers: &HeaderMap, names: impl Iterator<Item = &'n HeaderName>) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in names {
        if let Some(value) = headers.get(name) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

const ISO: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

impl Part {
    fn render(&self, entry: &Entry<'_>, out: &mut String) {
        // Writing to a string can't fail.
        let _ = match self {
            Self::Text(text) => out.write_str(text),
            Self::Start(None) => out.write_str(&entry.start.format(ISO).unwrap_or_default()),
            Self::Start(Some(pieces)) => pieces.iter().try_for_each(|piece| piece.render(entry.start, out)),
            Self::Duration => write!(out, "{}", entry.duration.as_millis()),
            Self::Protocol => out.write_str(entry.protocol),
            Self::Code => write!(out, "{}", entry.status),
            Self::CodeDetails => out.write_str(entry.details),
            Self::Flags => out.write_str(entry.flags),
            Self::Received => write!(out, "{}", entry.received),
            Self::Sent => write!(out, "{}", entry.sent),
            Self::UpstreamHost => entry.upstream.map_or(Ok(()), |address| write!(out, "{address}")),
            Self::UpstreamCluster => out.write_str(entry.cluster),
            Self::Remote { port } => address(entry.remote, *port, out),
            Self::Local { port } => entry.local.map_or(Ok(()), |local| address(local, *port, out)),
            Self::ServerName => out.write_str(entry.server_name.unwrap_or_default()),
            Self::TlsVersion => out.write_str(entry.tls_version.unwrap_or_default()),
            Self::Request(first, second, length) => {
                let value = entry.field(first).or_else(|| entry.field(second.as_ref()?));
                out.write_str(cut(value.unwrap_or_default(), *length))
            }
            Self::Response(first, second, length) => {
                let of = |name: &HeaderName| entry.response.get(name)?.to_str().ok();
                let value = of(first).or_else(|| of(second.as_ref()?));
                out.write_str(cut(value.unwrap_or_default(), *length))
            }
            Self::Absent => Ok(()),
        };
    }
}

impl Entry<'_> {
    fn field(&self, field: &Field) -> Option<&str> {
        match field {
            Field::Method => Some(self.method),
            Field::Path => Some(self.path),
            Field::Authority => Some(self.authority),
            Field::Scheme => Some(self.scheme),
            Field::Header(name) => self.request.get(name)?.to_str().ok(),
        }
    }
}

impl Piece {
    fn render(&self, at: OffsetDateTime, out: &mut String) -> std::fmt::Result {
        match self {
            Self::Text(text) => out.write_str(text),
            Self::Spec('Y') => write!(out, "{:04}", at.year()),
            Self::Spec('m') => write!(out, "{:02}", u8::from(at.month())),
            Self::Spec('d') => write!(out, "{:02}", at.day()),
            Self::Spec('H') => write!(out, "{:02}", at.hour()),
            Self::Spec('M') => write!(out, "{:02}", at.minute()),
            Self::Spec('S') => write!(out, "{:02}", at.second()),
            Self::Spec('F') => write!(out, "{:04}-{:02}-{:02}", at.year(), u8::from(at.month()), at.day()),
            Self::Spec('T') => write!(out, "{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second()),
            Self::Spec('s') => write!(out, "{}", at.unix_timestamp()),
            Self::Fraction(digits) => {
                out.write_str(format!("{:09}", at.nanosecond()).get(..*digits).unwrap_or_default())
            }
            Self::Spec('z') => out.write_str("+0000"),
            Self::Spec('Z') => out.write_str("UTC"),
            Self::Spec(other) => write!(out, "%{other}"),
        }
    }
}

fn address(address: std::net::SocketAddr, port: bool, out: &mut String) -> std::fmt::Result {
    if port { write!(out, "{address}") } else { write!(out, "{}", address.ip()) }
}

/// The first `length` characters.
fn cut(text: &str, length: Option<usize>) -> &str {
    let end = length.and_then(|length| text.char_indices().nth(length)).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(template: &str) -> String {
        let mut request = HeaderMap::new();
        request.insert("user-agent", "curl/8".parse().unwrap());
        let response = HeaderMap::new();
        let entry = Entry {
            start: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap() + Duration::from_millis(7),
            duration: Duration::from_micros(12_900),
            method: "GET",
            path: "/a?b",
            authority: "a.example.com",
            scheme: "https",
            protocol: "HTTP/2",
            request: &request,
            response: &response,
            status: 200,
            flags: "",
            details: "",
            received: 0,
            sent: 14,
            upstream: Some("10.0.0.1:8112".parse().unwrap()),
            cluster: "ns/app-00001",
            remote: "192.0.2.1:4711".parse().unwrap(),
            local: None,
            server_name: Some("a.example.com"),
            tls_version: Some("TLSv1.3"),
        };
        let mut out = String::new();
        Template::parse(template).unwrap().render(&entry, &mut out);
        out
    }

    #[test]
    fn given_the_default_when_rendered_then_the_line_is_envoys() {
        assert_eq!(
            line(DEFAULT),
            "[2023-11-14T22:13:20.007Z] \"GET /a?b HTTP/2\" 200 - 0 14 12 - \"-\" \"curl/8\" \"-\" \"a.example.com\" \
             \"10.0.0.1:8112\"\n"
        );
    }

    #[test]
    fn given_operators_when_rendered_then_each_says_what_it_stands_for() {
        for (template, expected) in [
            ("%START_TIME(%Y/%m/%d %H:%M:%S.%3f %s)%", "2023/11/14 22:13:20.007 1700000000"),
            ("%REQ(X-NONE?USER-AGENT)%|%REQ(USER-AGENT):4%|%RESP(X)%", "curl/8|curl|-"),
            ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "192.0.2.1:4711 192.0.2.1"),
            (
                "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %UPSTREAM_CLUSTER%",
                "a.example.com TLSv1.3 ns/app-00001",
            ),
            ("100%% %NONSENSE% %DOWNSTREAM_LOCAL_ADDRESS%", "100% - -"),
            ("", ""),
        ] {
            assert_eq!(line(template), expected, "{template}");
        }
    }

    #[test]
    fn given_unknown_operators_when_parsed_then_they_are_named() {
        let template = Template::parse("%PROTOCOL% %NONSENSE% %REQ(a b)% %REQ(x):y%").unwrap();

        assert_eq!(template.unknown, ["%NONSENSE%", "%REQ(a b)%", "%REQ(x):y%"]);
    }

    #[test]
    fn given_an_operator_without_end_when_parsed_then_the_column_is_named() {
        assert_eq!(Template::parse("abc %PROTOCOL").unwrap_err().column, 5);
        assert_eq!(Template::parse("ä %REQ(x").unwrap_err().column, 3);
        assert_eq!(Template::parse("%").unwrap_err().column, 1);
    }

    proptest::proptest! {
        #[test]
        fn given_any_template_when_parsed_then_nothing_panics(text in "[%():?a-zA-Z_äA-Z ]{0,40}") {
            if Template::parse(&text).is_ok() {
                line(&text);
            }
        }
    }
}
