//! Input that looks like the real thing, which random bytes seldom do, given to the same targets; and what can only be
//! said of it when it is known how it was made.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::config::value;
use crate::fuzzing::run;
use crate::http::tunnel::Frames;
use crate::tls::pem;

fn text(words: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    vec(select(words), 0..most).prop_map(|words| words.concat())
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r\r\n"), 1 => Just("\r")]
}

/// Header lines, most of them sound.
fn header_lines(most: usize) -> impl Strategy<Value = String> {
    let name = prop_oneof![
        8 => select(&["x-a", "X-B", "cookie", "Set-Cookie", "link", "accept"][..]),
        4 => select(&["connection", "Host", "content-length", "transfer-encoding", "TE", "trailer", "upgrade", "expect"][..]),
        1 => select(&["", " x", "x ", "\tx", "a b", "x\u{e4}", "b@d", "\0"][..]),
    ];
    let value = prop_oneof![
        12 => text(&["a", " ", ",", "x-a", "close", "chunked", "\t", "5", "keep-alive", "\u{e4}", "upgrade", "trailers"], 5),
        1 => text(&["a", "\x0b", "\x0c", "\x7f", "\x01", " ", "\r"], 4),
    ];
    let colon = prop_oneof![20 => Just(":"), 4 => Just(": "), 1 => Just(""), 1 => Just(" :")];
    let line =
        (name, colon, value, line_end()).prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"));
    vec(line, 0..most).prop_map(|lines| lines.concat())
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn given_heads_of_many_lines_then_they_mean_what_they_meant(
        first in select(&["GET / HTTP/1.1", "POST /a?b HTTP/1.0", "HTTP/1.1 200 OK", "HTTP/1.1 204", "junk"][..]),
        lines in header_lines(30), end in line_end(), body in text(&["\r\n", "\n", "body", "GET / HTTP/1.1\r\n"], 5),
        size in any::<u8>(), kind in any::<u8>(), more in 60_u8..,
    ) {
        let mut input = vec![size, kind, more];
        input.extend(format!("{first}\r\n{lines}{end}{body}").bytes());
        run("lines", &input);
    }

    #[test]
    fn given_responses_with_interim_heads_then_only_those_are_taken_off(
        heads in vec((select(&["100 Continue", "103 Early Hints", "102", "199 ", "1x3 A", "1000 B", "101 S"][..]),
            header_lines(4), line_end()), 0..4),
        size in any::<u8>(),
    ) {
        let mut input = vec![size];
        for (status, lines, end) in heads {
            input.extend(format!("HTTP/1.1 {status}\r\n{lines}{end}").bytes());
        }
        input.extend(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
        run("interim", &input);
    }

    #[test]
    fn given_header_lines_then_the_rules_of_a_proxy_hold(lines in header_lines(12)) {
        run("headers", lines.as_bytes());
    }

    #[test]
    fn given_templates_then_they_are_refused_in_their_text_or_rendered(
        pieces in vec(select(&[
            "{{", "}}", "{{-", "-}}", " ", "if", "else", "end", "with", " .Request.Method", ".Request", ".Header", ".Get ",
            " \"X-A\"", "`", "\"", "$x", ":=", "|", "(", ")", "printf", " \"%5.2f %q %v\"", "index", "js", "eq", "not",
            " 1", " 1.5", "\n", "/*", "*/", ".Response.Latency", ".Revision.Name", ".TraceID", ".", "\u{e4}", "\\", ",",
            "{{.Request.Method}}", "{{if .Request.TLS}}", "{{else}}", "{{end}}", "{{with $y := .Request.Header.Get \"X-A\"}}",
        ][..]), 0..14),
    ) {
        run("request_log", pieces.concat().as_bytes());
    }

    #[test]
    fn given_access_log_templates_then_they_are_refused_in_their_text_or_rendered(
        pieces in vec(select(&[
            "%", "%%", "REQ", "(", ")", ":", "?", "%REQ(X-A)%", "%REQ(X-A?:PATH):3%", "%START_TIME(", "%Y", "%3f", "%s", "%f",
            ")%", "%START_TIME%", "%DURATION%", "%RESP(", "X-B", "5", "-", "\n", "\u{e4}", "%UNKNOWN%", "%PROTOCOL%", "99999999999",
        ][..]), 0..10),
    ) {
        run("access_log", pieces.concat().as_bytes());
    }

    #[test]
    fn given_durations_as_go_prints_them_then_they_are_read_back(nanos in prop_oneof![0..2_000_000_000_u64, 0..=i64::MAX as u64]) {
        let duration = Duration::from_nanos(nanos);
        let text = go_duration(duration);
        prop_assert_eq!(value::duration(&text), Ok(duration), "{}", text);
    }

    #[test]
    fn given_quantities_then_they_are_worth_their_number_times_their_unit_or_refused(
        number in 0..5_000_000_u64, (unit, worth) in select(&[("", 1_u64), ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)][..]),
    ) {
        let expected = number.checked_mul(worth).and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        prop_assert_eq!(value::bytes(&format!("{number}{unit}")).ok(), expected);
    }

    #[test]
    fn given_integers_in_any_of_gos_bases_then_they_have_their_value(number in any::<i64>(), base in 0..5_u8) {
        let (sign, size) = (if number < 0 { "-" } else { "" }, number.unsigned_abs());
        let text = match base {
            0 => format!("{sign}{size:#x}"),
            1 => format!("{sign}{size:#b}"),
            2 => format!("{sign}{size:#o}"),
            3 => format!("{sign}0{size:o}"),
            _ => number.to_string(),
        };
        prop_assert_eq!(value::int(&text), Ok(number), "{}", text);
    }

    #[test]
    fn given_good_blocks_with_junk_between_then_each_is_found_where_it_stands(
        junk in vec(text(&["subject=CN = a\n", "\n", "\r\n", "-----BEGIN", "=====\n", "MIIB\n", "\0\n", "\u{e4}\n"], 4), 1..5),
        windows in any::<bool>(),
    ) {
        let block = include_str!("../../../certs-fixtures/good/p256/ca.crt").trim_end();
        let block = if windows { block.replace('\n', "\r\n") } else { block.to_owned() };
        let (mut bundle, mut lines) = (String::new(), Vec::new());
        for junk in &junk {
            let _ = writeln!(bundle, "{junk}");
            lines.push(bundle.matches('\n').count() + 1);
            let _ = writeln!(bundle, "{block}");
        }
        let found = pem::blocks(bundle.as_bytes());
        prop_assert_eq!(found.iter().map(|block| block.line).collect::<Vec<_>>(), lines);
        prop_assert_eq!(pem::certificates(bundle.as_bytes()).map(|found| found.len()), Ok(junk.len()));
        run("pem", bundle.as_bytes());
        run("bundle", bundle.as_bytes());
    }

    #[test]
    fn given_frames_of_a_websocket_in_pieces_then_their_borders_are_known(
        lengths in vec(prop_oneof![0..126_usize, 126..300_usize, 65_530..65_540_usize], 1..4),
        masked in any::<bool>(), piece in 1..5000_usize,
    ) {
        let (mut stream, mut borders) = (Vec::new(), vec![0]);
        for length in lengths {
            let mask = if masked { 0x80 } else { 0 };
            stream.push(0x82);
            match length {
                0..126 => stream.push(mask | length as u8),
                126..65_536 => stream.extend([&[mask | 126][..], &(length as u16).to_be_bytes()].concat()),
                _ => stream.extend([&[mask | 127][..], &(length as u64).to_be_bytes()].concat()),
            }
            stream.resize(stream.len() + if masked { 4 } else { 0 } + length, 0x81);
            borders.push(stream.len());
        }
        let (mut frames, mut passed) = (Frames::default(), 0);
        for piece in stream.chunks(piece) {
            frames.pass(piece);
            passed += piece.len();
            prop_assert_eq!(frames.at_border(), borders.contains(&passed), "after {} bytes", passed);
        }
    }
}

/// `time.Duration.String`.
fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |value: u128, unit: u128, name: &str| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        let point = if digits.is_empty() || unit == 1 { String::new() } else { format!(".{digits}") };
        format!("{}{point}{name}", value / unit)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}
