//! Reads the operators of a template, and the formats of time in them.

use http::HeaderName;

use super::{Field, Part, Piece};

/// The closing `%`: behind the closing parenthesis and the length, if there are any.
pub(super) fn operator_end(operator: &str) -> Option<usize> {
    let percent = operator.get(1..)?.find('%')? + 1;
    match operator.find('(') {
        Some(open) if open < percent => {
            let rest = operator.get(open..)?;
            let close = rest.match_indices(')').find(|(at, _)| {
                // Behind it, nothing or a length; a format of time has parentheses and per cent signs of its own.
                rest.get(at + 1..).is_some_and(|after| after.starts_with('%') || after.starts_with(':'))
            });
            let close = close?.0 + open;
            Some(operator.get(close..)?.find('%')? + close)
        }
        _ => Some(percent),
    }
}

pub(super) fn read(inside: &str) -> Option<Part> {
    let (name, argument, length) = match inside.split_once('(') {
        None => (inside, None, None),
        Some((name, rest)) => {
            let (argument, length) = rest.rsplit_once(')')?;
            let length = match length.strip_prefix(':') {
                Some(digits) => Some(digits.parse().ok()?),
                None if length.is_empty() => None,
                None => return None,
            };
            (name, Some(argument), length)
        }
    };
    Some(match (name, argument) {
        ("START_TIME", None) => Part::Start(None),
        ("START_TIME", Some(format)) => Part::Start(Some(strftime(format))),
        ("DURATION", None) => Part::Duration,
        ("PROTOCOL", None) => Part::Protocol,
        ("RESPONSE_CODE", None) => Part::Code,
        ("RESPONSE_CODE_DETAILS", None) => Part::CodeDetails,
        ("RESPONSE_FLAGS" | "RESPONSE_FLAGS_LONG", None) => Part::Flags,
        ("BYTES_RECEIVED", None) => Part::Received,
        ("BYTES_SENT", None) => Part::Sent,
        ("UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS", None) => Part::UpstreamHost,
        ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => Part::UpstreamCluster,
        ("DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => Part::Remote { port: true },
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", None) => {
            Part::Remote { port: false }
        }
        ("DOWNSTREAM_LOCAL_ADDRESS", None) => Part::Local { port: true },
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => Part::Local { port: false },
        ("REQUESTED_SERVER_NAME", None) => Part::ServerName,
        ("DOWNSTREAM_TLS_VERSION", None) => Part::TlsVersion,
        ("REQ", Some(argument)) => {
            let (first, second) = alternatives(argument);
            Part::Request(field(first)?, second.map(field).transpose_option()?, length)
        }
        ("RESP", Some(argument)) => {
            let (first, second) = alternatives(argument);
            Part::Response(header(first)?, second.map(header).transpose_option()?, length)
        }
        _ => return None,
    })
}

/// `Some(None)` is a failure, `None` nothing to do.
trait TransposeOption<T> {
    fn transpose_option(self) -> Option<Option<T>>;
}

impl<T> TransposeOption<T> for Option<Option<T>> {
    fn transpose_option(self) -> Option<Option<T>> {
        match self {
            None => Some(None),
            Some(None) => None,
            Some(some) => Some(some),
        }
    }
}

fn alternatives(argument: &str) -> (&str, Option<&str>) {
    argument.split_once('?').map_or((argument, None), |(first, second)| (first, Some(second)))
}

fn header(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok()
}

fn field(name: &str) -> Option<Field> {
    match name.to_ascii_lowercase().as_str() {
        ":method" => Some(Field::Method),
        ":path" => Some(Field::Path),
        ":authority" | "host" => Some(Field::Authority),
        ":scheme" => Some(Field::Scheme),
        name => header(name).map(Field::Header),
    }
}

fn strftime(format: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        match (char, if char == '%' { chars.next() } else { None }) {
            ('%', Some('%')) => text.push('%'),
            ('%', Some(spec)) => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                let digits = spec.to_digit(10).and_then(|digits| usize::try_from(digits).ok());
                pieces.push(match digits.filter(|digits| (1..=9).contains(digits)) {
                    Some(digits) if chars.as_str().starts_with('f') => {
                        chars.next();
                        Piece::Fraction(digits)
                    }
                    _ if spec == 'f' => Piece::Fraction(9),
                    _ => Piece::Spec(spec),
                });
            }
            (char, _) => text.push(char),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}
