//! Runs a program for one record.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::Write;

use super::program::{Expr, Function, Op, Program};
use super::value::{Value, lines};
use super::{Record, printf};
use crate::telemetry::go_format;

/// Bytes that a function may make: about as much as the longest header block.
const MAX_TEXT: usize = 1 << 20;

/// The template can't be run with this record.
#[derive(Debug)]
pub(super) struct Failed;

impl Program {
    pub(super) fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) -> Result<(), Failed> {
        let mut next = 0;
        while let Some(op) = self.ops.get(next) {
            next += 1;
            match op {
                Op::Text(range) => out.extend_from_slice(self.text.get(range.clone()).unwrap_or_default().as_bytes()),
                Op::Print(expr) => print(expr, record, out)?,
                Op::JumpUnless(expr, target) if !eval(expr, record)?.truth() => next = *target,
                Op::JumpUnless(..) => {}
                Op::Jump(target) => next = *target,
            }
        }
        Ok(())
    }
}

/// What Go writes instead of a line that it could not make.
pub(super) fn failure(record: &Record<'_>, out: &mut Vec<u8>) {
    let (method, code, url) = (record.method, record.code, record.request_uri);
    let _ = write!(out, "Invalid request log template: method: {method}, response code: {code}, latency: ");
    go_format::float(out, record.latency.as_secs_f64());
    let _ = writeln!(out, ", url: {url}");
}

fn print(expr: &Expr, record: &Record<'_>, out: &mut Vec<u8>) -> Result<(), Failed> {
    match expr {
        Expr::Field(field) => field.print(record, out),
        Expr::Call(Function::Js, arguments) if let [argument] = arguments.as_slice() => {
            // Escape in place what was printed: the shipped template needs no memory of its own.
            let start = out.len();
            print(argument, record, out)?;
            if out.get(start..).unwrap_or_default().iter().any(|byte| js_special(*byte)) {
                let plain = out.split_off(start);
                escape_js(&plain, out);
                short_enough(out.len() - start)?;
            }
        }
        other => eval(other, record)?.print(out),
    }
    Ok(())
}

fn eval<'a>(expr: &'a Expr, record: &Record<'a>) -> Result<Value<'a>, Failed> {
    Ok(match expr {
        Expr::Text(text) => Value::Text(Cow::Borrowed(text.as_bytes())),
        Expr::Int(n) => Value::Int(*n),
        Expr::Float(n) => Value::Float(*n),
        Expr::Bool(b) => Value::Bool(*b),
        Expr::Field(field) => field.value(record),
        Expr::TlsField(field) => field.value(record.tls.ok_or(Failed)?),
        Expr::HeaderMember(name) => match lines(record.headers, name.as_bytes()) {
            lines if lines.is_empty() => Value::Absent,
            lines => Value::List(lines),
        },
        Expr::HeaderGet(name) => {
            let Value::Text(name) = eval(name, record)? else { return Err(Failed) };
            Value::Text(Cow::Borrowed(lines(record.headers, &name).first().copied().unwrap_or_default()))
        }
        Expr::HeaderValues(name) => {
            let Value::Text(name) = eval(name, record)? else { return Err(Failed) };
            Value::List(lines(record.headers, &name))
        }
        Expr::Call(function, arguments) => {
            // These two stop at the first argument that decides.
            if let Function::And | Function::Or = function {
                let mut last = Value::Bool(false);
                for argument in arguments {
                    last = eval(argument, record)?;
                    if last.truth() == (*function == Function::Or) {
                        break;
                    }
                }
                return Ok(last);
            }
            let arguments = arguments.iter().map(|a| eval(a, record)).collect::<Result<Vec<_>, _>>()?;
            let value = call(*function, &arguments)?;
            if let Value::Text(text) = &value {
                short_enough(text.len())?;
            }
            value
        }
    })
}

fn call<'a>(function: Function, arguments: &[Value<'a>]) -> Result<Value<'a>, Failed> {
    let first = arguments.first().unwrap_or(&Value::Absent);
    let order = |i: usize| compare(first, arguments.get(i).unwrap_or(&Value::Absent));
    let escaped = |escape: fn(&[u8], &mut Vec<u8>)| {
        let mut out = Vec::new();
        escape(&printed(arguments), &mut out);
        Value::Text(Cow::Owned(out))
    };
    Ok(match function {
        Function::Not => Value::Bool(!first.truth()),
        Function::Eq => {
            let mut equal = false;
            for i in 1..arguments.len() {
                equal = equal || order(i)? == Ordering::Equal;
            }
            Value::Bool(equal)
        }
        Function::Ne => Value::Bool(order(1)? != Ordering::Equal),
        Function::Lt => Value::Bool(order(1)? == Ordering::Less),
        Function::Le => Value::Bool(order(1)? != Ordering::Greater),
        Function::Gt => Value::Bool(order(1)? == Ordering::Greater),
        Function::Ge => Value::Bool(order(1)? != Ordering::Less),
        Function::Len => match first {
            Value::Text(text) => size(text.len()),
            Value::List(list) => size(list.len()),
            Value::Header(headers) => size(headers.keys_len()),
            _ => return Err(Failed),
        },
        Function::Index => {
            let mut value = first.clone();
            for key in arguments.get(1..).unwrap_or_default() {
                value = index(value, key)?;
            }
            value
        }
        Function::Print => Value::Text(Cow::Owned(printed(arguments))),
        Function::Println => {
            let mut out = Vec::new();
            for (i, argument) in arguments.iter().enumerate() {
                out.extend((i > 0).then_some(b' '));
                argument.print(&mut out);
            }
            out.push(b'\n');
            Value::Text(Cow::Owned(out))
        }
        Function::Printf => {
            let Value::Text(format) = first else { return Err(Failed) };
            Value::Text(Cow::Owned(printf::format(format, arguments.get(1..).unwrap_or_default())))
        }
        Function::Js => escaped(escape_js),
        Function::Html => escaped(escape_html),
        Function::UrlQuery => escaped(escape_query),
        Function::And | Function::Or => return Err(Failed),
    })
}

/// Text that is escaped again and again doubles each time.
fn short_enough(length: usize) -> Result<(), Failed> {
    if length <= MAX_TEXT { Ok(()) } else { Err(Failed) }
}

fn size<'a>(n: usize) -> Value<'a> {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// A member of a map or list. Where Go fails, there is nothing: a header that one caller does not send must not cost
/// the whole line.
fn index<'a>(value: Value<'a>, key: &Value<'_>) -> Result<Value<'a>, Failed> {
    let nothing = Value::Text(Cow::Borrowed(&b""[..]));
    match (value, key) {
        (Value::Header(headers), Value::Text(name)) => Ok(Value::List(lines(headers, name))),
        (Value::List(list), Value::Int(i)) => {
            let line = usize::try_from(*i).ok().and_then(|i| list.get(i).copied());
            Ok(line.map_or(nothing, |line| Value::Text(Cow::Borrowed(line))))
        }
        (Value::Text(text), Value::Int(i)) => {
            let byte = usize::try_from(*i).ok().and_then(|i| text.get(i).copied());
            Ok(byte.map_or(nothing, |byte| Value::Int(byte.into())))
        }
        (Value::Absent, _) => Ok(nothing),
        _ => Err(Failed),
    }
}

fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, Failed> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).ok_or(Failed),
        // Go refuses these; an operator who compares the latency with 1 means 1.0.
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)).ok_or(Failed),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b).ok_or(Failed),
        (Value::Absent, Value::Absent) => Ok(Ordering::Equal),
        _ => Err(Failed),
    }
}

/// Go's `print`: a space between two operands when neither is a text.
fn printed(arguments: &[Value<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut text = true;
    for argument in arguments {
        if !text && !argument.is_text() {
            out.push(b' ');
        }
        text = argument.is_text();
        argument.print(&mut out);
    }
    out
}

fn js_special(byte: u8) -> bool {
    matches!(byte, b'\\' | b'\'' | b'"' | b'<' | b'>' | b'&' | b'=' | 0..=0x1f | 0x7f..)
}

fn escape_js(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | '\'' | '"' => out.extend([b'\\', c as u8]),
                '<' | '>' | '&' | '=' => drop(write!(out, "\\u{:04X}", c as u32)),
                // Go escapes what has no glyph; control characters are all that matters to a log.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                    let _ = write!(out, "\\u{:04X}", c as u32);
                }
                c => drop(write!(out, "{c}")),
            }
        }
        // Bytes that are not UTF-8: Go's rune for them has a glyph, so they pass as they are.
        out.extend_from_slice(chunk.invalid());
    }
}

fn escape_html(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            0 => out.extend_from_slice("\u{fffd}".as_bytes()),
            other => out.push(*other),
        }
    }
}

fn escape_query(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b' ' => out.push(b'+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            other => drop(write!(out, "%{other:02X}")),
        }
    }
}
