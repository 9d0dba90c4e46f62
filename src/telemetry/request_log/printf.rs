//! Go's `printf`, for the values that a request log has: verbs `v s d q t f e g x X` with width, precision, `-`, `0`.

use std::io::Write;

use super::value::Value;
use crate::telemetry::{go_format, json};

/// Widths and precisions beyond this are cut: a template must not make lines of any size.
const MAX_WIDTH: usize = 1024;

/// Formats like Go, its complaints about wrong arguments included.
pub(super) fn format(format: &[u8], arguments: &[Value<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut arguments = arguments.iter();
    let mut bytes = format.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (mut left, mut zero) = (false, false);
        while let Some(flag) = bytes.next_if(|b| b"-0+ #".contains(b)) {
            left |= flag == b'-';
            zero |= flag == b'0';
        }
        let width = number(&mut bytes).unwrap_or(0);
        let precision = bytes.next_if_eq(&b'.').map(|_| number(&mut bytes).unwrap_or(0));
        let Some(verb) = bytes.next() else {
            out.extend_from_slice(b"%!(NOVERB)");
            break;
        };
        if verb == b'%' {
            out.push(b'%');
            continue;
        }
        let Some(argument) = arguments.next() else {
            out.extend_from_slice(b"%!");
            out.push(verb);
            out.extend_from_slice(b"(MISSING)");
            continue;
        };
        let text = one(verb, precision, argument);
        let pad = width.saturating_sub(String::from_utf8_lossy(&text).chars().count());
        let numeric = matches!(argument, Value::Int(_) | Value::Float(_));
        match (left, zero && numeric) {
            (true, _) => {
                out.extend_from_slice(&text);
                out.extend(std::iter::repeat_n(b' ', pad));
            }
            (false, true) => {
                let (sign, digits) = text.split_at(usize::from(text.starts_with(b"-")));
                out.extend_from_slice(sign);
                out.extend(std::iter::repeat_n(b'0', pad));
                out.extend_from_slice(digits);
            }
            (false, false) => {
                out.extend(std::iter::repeat_n(b' ', pad));
                out.extend_from_slice(&text);
            }
        }
    }
    let rest: Vec<_> = arguments.collect();
    if !rest.is_empty() {
        out.extend_from_slice(b"%!(EXTRA ");
        for (i, argument) in rest.into_iter().enumerate() {
            out.extend_from_slice(if i > 0 { b", " } else { b"" });
            out.extend_from_slice(kind(argument).as_bytes());
            out.push(b'=');
            argument.print(&mut out);
        }
        out.push(b')');
    }
    out
}

/// A number in decimal digits, if there is one.
fn number(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Option<usize> {
    let mut n = None;
    while let Some(digit) = bytes.next_if(u8::is_ascii_digit) {
        n = Some((n.unwrap_or(0) * 10 + usize::from(digit - b'0')).min(MAX_WIDTH));
    }
    n
}

fn one(verb: u8, precision: Option<usize>, argument: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match (verb, argument) {
        (b'v', argument) => argument.print(&mut out),
        (b's', Value::Text(text)) => {
            let text = String::from_utf8_lossy(text);
            out.extend(text.chars().take(precision.unwrap_or(usize::MAX)).collect::<String>().into_bytes());
        }
        (b's', Value::List(_) | Value::Header(_) | Value::Tls(_)) => argument.print(&mut out),
        (b'q', Value::Text(text)) => json::quote(&mut out, &String::from_utf8_lossy(text)),
        (b'd', Value::Int(n)) => drop(write!(out, "{n}")),
        (b'x', Value::Int(n)) => drop(write!(out, "{}{:x}", if *n < 0 { "-" } else { "" }, n.unsigned_abs())),
        (b'X', Value::Int(n)) => drop(write!(out, "{}{:X}", if *n < 0 { "-" } else { "" }, n.unsigned_abs())),
        (b'x', Value::Text(text)) => text.iter().for_each(|byte| drop(write!(out, "{byte:02x}"))),
        (b'X', Value::Text(text)) => text.iter().for_each(|byte| drop(write!(out, "{byte:02X}"))),
        (b't', Value::Bool(b)) => drop(write!(out, "{b}")),
        (b'f', Value::Float(n)) => drop(write!(out, "{n:.*}", precision.unwrap_or(6))),
        (b'e', Value::Float(n)) => go_format::exponent(&mut out, *n, Some(precision.unwrap_or(6))),
        (b'g', Value::Float(n)) => go_format::float(&mut out, *n),
        _ => {
            out.extend_from_slice(b"%!");
            out.push(verb);
            out.push(b'(');
            out.extend_from_slice(kind(argument).as_bytes());
            out.push(b'=');
            argument.print(&mut out);
            out.push(b')');
        }
    }
    out
}

/// Go's name of the type.
fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Text(_) => "string",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::Bool(_) => "bool",
        Value::List(_) => "[]string",
        Value::Header(_) => "http.Header",
        Value::Tls(_) => "*tls.ConnectionState",
        Value::Absent => "<nil>",
    }
}
