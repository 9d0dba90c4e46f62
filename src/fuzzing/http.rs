//! What comes in with requests and responses.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};

use super::parts;
use crate::http::headers::{self as rules, Has};
use crate::http::interim as interims;
use crate::http::tunnel::Frames;
use crate::net::proxy_protocol::{self as proxy, Parsed};
use crate::queue::layer::forwarded;
use crate::queue::metrics::{ClientLabels, Metrics, RouteTag, ServerLabels};
use crate::queue::readiness::grpc;
use crate::telemetry::observability::Observability;
use crate::telemetry::request_log::trace_id;
use crate::telemetry::series;
use crate::telemetry::trace::{Names, Tracer};

/// Two texts and what follows them.
pub(super) fn texts_of(data: &[u8]) -> ([String; 2], &[u8]) {
    let [first, second, rest] = parts(data);
    ([first, second].map(|part| String::from_utf8_lossy(part).into_owned()), rest)
}

/// `name: value` lines; those that are none are left out.
pub(super) fn header_lines(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(1000) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value[1..].trim_ascii()))
        {
            headers.append(name, value);
        }
    }
    headers
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> Vec<Vec<u8>> {
    let lines = headers.get_all(name);
    lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(|t| t.trim_ascii().to_vec()).collect()
}

/// Nothing of one connection goes on to the next, everything else does; lists keep their items and their order.
pub(super) fn headers(data: &[u8]) {
    let before = header_lines(data);
    let mut after = before.clone();
    rules::strip_hop_by_hop(&mut after, Has::of(&before));
    let mut dropped: Vec<HeaderName> =
        tokens(&before, header::CONNECTION).iter().filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
    for name in ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization"] {
        dropped.push(HeaderName::from_static(name));
    }
    // Nobody takes away whom the request is for.
    dropped.retain(|name| name != header::HOST);
    dropped.extend([header::TE, header::TRANSFER_ENCODING, header::UPGRADE]);
    for name in before.keys() {
        let kept: Vec<_> = after.get_all(name).iter().collect();
        if dropped.contains(name) {
            assert!(kept.is_empty(), "{name} went on");
        } else {
            assert_eq!(kept, before.get_all(name).iter().collect::<Vec<_>>(), "{name} changed");
        }
    }
    assert!(rules::upgrade(&after).is_none() && !rules::accepts_trailers(&after));

    let mut appended = after.clone();
    rules::append_forwarded_for(&mut appended, Has::of(&after), &HeaderValue::from_static("192.0.2.1"));
    let mut expected =
        if after.contains_key(rules::X_FORWARDED_FOR) { tokens(&after, rules::X_FORWARDED_FOR) } else { Vec::new() };
    expected.push(b"192.0.2.1".to_vec());
    assert_eq!(tokens(&appended, rules::X_FORWARDED_FOR), expected);
    assert_eq!(appended.get_all(rules::X_FORWARDED_FOR).iter().count(), 1);

    let mut joined = after.clone();
    rules::join_cookies(&mut joined);
    assert!(joined.get_all(header::COOKIE).iter().count() <= 1);
    let crumbs = |map: &HeaderMap| -> Vec<Vec<u8>> {
        let lines = map.get_all(header::COOKIE).iter();
        let crumbs =
            lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(|c| c.trim_ascii().to_vec());
        crumbs.filter(|crumb| !crumb.is_empty()).collect()
    };
    assert_eq!(crumbs(&joined), crumbs(&after));

    if let Some(made) = forwarded::made_of(&after) {
        assert!(!made.is_empty() && after.get(header::FORWARDED).is_none_or(HeaderValue::is_empty));
        assert!(made.as_bytes().starts_with(b"for=") || !made.as_bytes().starts_with(b";"));
    }
    let _ = (RouteTag::of(&after).label(), trace_id(&after));
}

/// A trace is continued whole or begun anew, and what goes on is a `traceparent` that we understand ourselves.
pub(super) fn traceparent(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let config = r#"{"tracing":{"protocol":"stdout","samplingRate":1}}"#;
    let env = std::collections::HashMap::<String, String>::new();
    let tracer = Tracer::new(&Observability::parse(config, &env).unwrap(), Names::QUEUE).unwrap();
    let headers = HeaderMap::from_iter([(HeaderName::from_static("traceparent"), value)]);
    let first = tracer.begin(&headers).traceparent();
    let text = first.to_str().unwrap().to_owned();
    assert!(text.len() == 55 && text.starts_with("00-") && !text.contains(&"0".repeat(32)), "{text}");
    let second = tracer.begin(&HeaderMap::from_iter([(HeaderName::from_static("traceparent"), first)])).traceparent();
    let second = second.to_str().unwrap();
    assert_eq!(second.get(..36), text.get(..36), "the trace goes on");
    assert_eq!(second.get(52..), text.get(52..), "and so does the decision to sample it");
}

/// Hosts and tags, a line each, as labels: the exposition stays well-formed and bounded.
pub(super) fn labels(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let metrics = Metrics::new(1, Vec::new());
    let worker = metrics.worker(0);
    for line in text.lines().take(300) {
        let (host, tag) = line.split_once(' ').unwrap_or((line, ""));
        let (method, version) = (&Method::from_bytes(tag.as_bytes()).unwrap_or(Method::GET), Version::HTTP_11);
        let tag = if tag.is_empty() { RouteTag::Disabled } else { RouteTag::Named(tag) };
        let labels = ServerLabels { method, status: 200, version, host, https: false, tag };
        worker.server(&labels, Duration::ZERO, 0, 0);
        let labels = ClientLabels { method, status: Ok(200), version, user_port: 80, tag };
        worker.client(&labels, Duration::ZERO, 0);
    }
    let exposition = String::from_utf8(metrics.encode()).expect("text");
    let mut counts = 0;
    for line in exposition.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        counts += usize::from(line.starts_with("http_server_request_duration_seconds_count"));
        assert!(is_sample(line), "{line:?}");
    }
    assert!(counts <= series::LIMIT, "{counts} series");
}

/// `name{label="value",..} number`, quotes, backslashes and line ends escaped.
fn is_sample(line: &str) -> bool {
    let name = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(0);
    let Some(mut rest) = line.get(name..).filter(|_| name > 0) else { return false };
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let Some((label, value)) = inside.split_once("=\"") else { return false };
            if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return false;
            }
            let mut escaped = false;
            let Some(end) = value.find(|c| {
                let quote = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                quote
            }) else {
                return false;
            };
            inside = &value[end + 1..];
            match inside.strip_prefix(',') {
                Some(more) => inside = more,
                None => break,
            }
        }
        let Some(after) = inside.strip_prefix('}') else { return false };
        rest = after;
    }
    rest.strip_prefix(' ').is_some_and(|number| number.parse::<f64>().is_ok())
}

/// The body of an answer of the health service.
pub(super) fn grpc_health(data: &[u8]) {
    let status = grpc::status(data);
    if status.is_some() {
        let length = data.get(1..5).map(|length| length.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
        assert!(data.first() == Some(&0) && length == data.len().checked_sub(5), "one whole message");
    }
}

/// The bytes of a response, in pieces: interim heads are taken off whole, the rest is untouched, wherever it was cut.
pub(super) fn interim(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else { return };
    let size = usize::from(*size).max(1);
    let take = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut heads, mut held) = (Vec::new(), Vec::new());
        let mut fine = true;
        for piece in pieces {
            held.extend_from_slice(piece);
            if !fine || heads_are_over(&mut held, &mut heads, &mut fine) {
                continue;
            }
        }
        (heads, held, fine)
    };
    let (heads, held, fine) = take(&mut std::iter::once(stream));
    let pieces = take(&mut stream.chunks(size));
    assert!(pieces.2 == fine && (!fine || (&pieces.0, &pieces.1) == (&heads, &held)), "it depends on how it was cut");
    if fine {
        assert!(stream.ends_with(&held), "the rest is as it came");
    }
    for head in heads {
        assert_head(&head);
    }
}

/// One round of taking; true once a final head has begun, after which nothing may be taken any more.
fn heads_are_over(held: &mut Vec<u8>, heads: &mut Vec<Vec<u8>>, fine: &mut bool) -> bool {
    match interims::take(held, |head| heads.push(head.to_vec())) {
        Ok(over) => over,
        Err(_) => {
            *fine = false;
            true
        }
    }
}

/// What is written to a caller as an interim response is one and no more than one.
fn assert_head(head: &[u8]) {
    let text = String::from_utf8_lossy(head);
    let code = head.strip_prefix(b"HTTP/1.1 1").and_then(|rest| rest.get(..2)).expect("an interim status line");
    assert!(code.iter().all(u8::is_ascii_digit) && code != b"01", "{text:?}");
    assert!(matches!(head.get(12), Some(b' ' | b'\r')), "{text:?}");
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r"));
    let Some(Some(b"")) = lines.clone().rev().nth(1) else { panic!("no empty line: {text:?}") };
    assert_eq!(lines.next_back(), Some(None), "{text:?}");
    let count = lines.clone().count();
    for (index, line) in lines.enumerate() {
        let line = line.expect("every line ends with CR and LF");
        assert!(!line.contains(&b'\r') && !line.contains(&0), "{text:?}");
        assert_eq!(line.is_empty(), index + 1 == count, "an empty line within: {text:?}");
    }
}

/// Where frames end does not depend on how they arrive.
pub(super) fn websocket(data: &[u8]) {
    let Some((size, stream)) = data.split_first() else { return };
    let (mut whole, mut pieces) = (Frames::default(), Frames::default());
    whole.pass(stream);
    for piece in stream.chunks(usize::from(*size).max(1)) {
        pieces.pass(piece);
    }
    assert_eq!(whole.at_border(), pieces.at_border());
    let mut frame = vec![0x81];
    match u8::try_from(stream.len()) {
        Ok(short) if short < 126 => frame.push(short),
        _ => {
            frame.push(127);
            frame.extend((stream.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(stream);
    let mut frames = Frames::default();
    for piece in frame.chunks(usize::from(*size).max(1)) {
        assert!(frames.at_border() || piece.len() <= frame.len());
        frames.pass(piece);
    }
    assert!(frames.at_border(), "a whole frame ends at a border");
}

/// A header is found whole or not at all, and more bytes never change what was found.
pub(super) fn proxy_protocol(data: &[u8]) {
    let whole = proxy::parse(data);
    if let Parsed::Header { length, .. } = whole {
        assert!(length > 0 && length <= data.len());
    }
    for cut in 0..data.len() {
        match proxy::parse(&data[..cut]) {
            Parsed::Incomplete => {}
            early => assert_eq!(early, whole, "after {cut} bytes"),
        }
    }
}
