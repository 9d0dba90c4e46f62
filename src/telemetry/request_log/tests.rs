#![allow(clippy::unwrap_used)]
use super::*;
use crate::telemetry::observability::DEFAULT_REQUEST_LOG_TEMPLATE;
use http::header::{HOST, HeaderName, HeaderValue, REFERER, USER_AGENT};
use proptest::prelude::*;

struct Fixture {
    headers: HeaderMap,
    revision: RevisionFacts,
}

fn fixture() -> Fixture {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("a.b"));
    headers.insert(USER_AGENT, HeaderValue::from_static("ua\"x"));
    headers.insert(REFERER, HeaderValue::from_static("http://r/"));
    headers.append("x-two", HeaderValue::from_static("1"));
    headers.append("x-two", HeaderValue::from_static("2"));
    let revision = RevisionFacts { pod_ip: "127.0.0.1".into(), name: "hello-00001".into(), ..Default::default() };
    Fixture { headers, revision }
}

impl Fixture {
    fn record(&self) -> Record<'_> {
        Record {
            method: &Method::GET,
            request_uri: "/echo?x=1",
            version: Version::HTTP_11,
            host: "a.b",
            remote_addr: "127.0.0.1:44876".parse().unwrap(),
            content_length: 0,
            headers: &self.headers,
            tls: None,
            code: 200,
            size: 250,
            latency: Duration::from_nanos(808_099),
            revision: &self.revision,
            trace_id: trace_id(&self.headers),
        }
    }
}

fn render(template: &str) -> String {
    let mut out = Vec::new();
    Template::parse(template).unwrap_or_else(|e| panic!("{template}: {e}")).render(&fixture().record(), &mut out);
    String::from_utf8(out).unwrap().trim_end_matches('\n').to_owned()
}

/// The line that Go's component was seen to write.
#[test]
fn given_the_shipped_template_when_a_request_is_logged_then_the_line_is_go_s() {
    let mut out = Vec::new();
    Template::parse(DEFAULT_REQUEST_LOG_TEMPLATE).unwrap().render(&fixture().record(), &mut out);

    assert_eq!(
        String::from_utf8(out).unwrap(),
        concat!(
            r#"{"httpRequest": {"requestMethod": "GET", "requestUrl": "/echo?x\u003D1", "requestSize": "0", "#,
            r#""status": 200, "responseSize": "250", "userAgent": "ua\"x", "remoteIp": "127.0.0.1:44876", "#,
            r#""serverIp": "127.0.0.1", "referer": "http://r/", "latency": "0.000808099s", "#,
            r#""protocol": "HTTP/1.1"}, "traceId": ""}"#,
            "\n"
        )
    );
}

#[test]
fn when_templates_use_what_logs_use_then_they_print_what_go_prints() {
    for (template, expected) in [
        ("a{{/* no */}}b", "ab"),
        ("a {{- .Response.Code -}} b", "a200b"),
        ("{{.Request.Method | printf \"%s-%d\" \"x\" }}", "x-%!d(string=GET)"),
        (
            "{{printf \"%05d|%-4s|%q|%.2f|%t|%v\" 42 \"a\" \"b\" 1.5 true .Response.Latency}}",
            "00042|a   |\"b\"|1.50|true|0.000808099",
        ),
        ("{{printf \"%d\"}}{{printf \"x\" 1}}", "%!d(MISSING)x%!(EXTRA int=1)"),
        ("{{index .Request.Header \"X-Two\" 1}}", "2"),
        ("[{{index .Request.Header \"X-None\" 0}}]", "[]"),
        ("{{index .Request.Header \"x-two\"}}", "[1 2]"),
        ("{{.Request.Header.Get \"User-Agent\"}}|{{.Request.Header.Get \"Host\"}}", "ua\"x|"),
        ("{{.Request.Header.Absent}}", "<no value>"),
        ("{{if eq .Response.Code 404 200}}yes{{else}}no{{end}}", "yes"),
        ("{{if lt .Response.Latency 1}}fast{{end}}", "fast"),
        ("{{if and .Request.Method (gt .Response.Code 399)}}e{{else if ne .Request.Host \"\"}}h{{else}}o{{end}}", "h"),
        ("{{with .Request}}{{.Method}} {{.Proto}}{{end}}", "GET HTTP/1.1"),
        ("{{with .Revision.Service}}{{.}}{{else}}none{{end}}", "none"),
        ("{{with .Request.Host}}{{.}} {{$.Response.Code}}{{end}}", "a.b 200"),
        ("{{$c := .Response.Code}}{{if not (eq $c 200)}}x{{end}}{{$c}}", "200"),
        ("{{len .Request.Host}} {{len (index .Request.Header \"X-Two\")}}", "3 2"),
        (
            "{{html \"<a&'>\"}} {{urlquery \"a b&c\"}} {{js \"<a='b'>\"}}",
            "&lt;a&amp;&#39;&gt; a+b%26c \\u003Ca\\u003D\\'b\\'\\u003E",
        ),
        ("{{print 1 2 \"x\" 3}}", "1 2x3"),
        ("{{.Request.URL}} {{.Request.URL.Path}} {{.Request.URL.RawQuery}}", "/echo?x=1 /echo x=1"),
        ("{{if .Request.TLS}}tls{{else}}plain{{end}}", "plain"),
        ("TLS: {{.Request.TLS}}", "TLS: <nil>"),
        ("{{`raw \\n`}}{{\"\\t\\u0041\"}}", "raw \\n\tA"),
        ("{{or .Revision.Service .Revision.Name}}", "hello-00001"),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn given_a_connection_over_tls_when_a_template_names_it_then_go_s_struct_is_printed() {
    let facts = TlsFacts {
        version: 0x304,
        resumed: true,
        cipher_suite: 0x1301,
        group: 29,
        protocol: "h2",
        server_name: "kn-user-default".into(),
    };
    let fixture = fixture();
    for (template, expected) in [
        ("{{.Request.TLS}}", "{772 true true 4865 X25519 h2 true kn-user-default [] [] [] [] [] false}"),
        ("{{if .Request.TLS}}tls{{end}}", "tls"),
        (
            "{{with .Request.TLS}}{{.ServerName}} {{.NegotiatedProtocol}} {{.DidResume}}{{end}}",
            "kn-user-default h2 true",
        ),
        ("{{printf \"%x %x\" .Request.TLS.Version .Request.TLS.CipherSuite}}", "304 1301"),
        ("{{$t := .Request.TLS}}{{$t.HandshakeComplete}}", "true"),
    ] {
        let mut out = Vec::new();
        Template::parse(template).unwrap().render(&Record { tls: Some(&facts), ..fixture.record() }, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"), "{template}");
    }
    assert!(render("{{.Request.TLS.Version}}").starts_with("Invalid request log template: "));
}

#[test]
fn when_a_template_is_not_understood_then_the_error_names_the_column() {
    for (template, line, column) in [
        ("{{.Request.Nope}}", 1, 11),
        ("ab{{foo .Request.Method}}", 1, 5),
        ("x\n{{range .Request.Header}}{{end}}", 2, 3),
        ("{{if .Response.Code}}", 1, 3),
        ("{{end}}", 1, 3),
        ("{{.Request", 1, 3),
        ("{{.Request}}", 1, 3),
        ("{{.Request.TLS.Nope}}", 1, 15),
        ("{{js}}", 1, 3),
        ("{{.Response.Code 1}}", 1, 3),
        ("{{.Request.Header.Get}}", 1, 3),
        ("{{$x}}", 1, 3),
        ("{{\"a}}", 1, 3),
        ("{{(.Response.Code}}", 1, 3),
        ("{{if true}}{{else}}{{else}}{{end}}", 1, 22),
        ("{{}}", 1, 3),
    ] {
        let error = Template::parse(template).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{template}: {error}");
    }
}

#[test]
fn when_a_template_fails_for_a_request_then_the_line_says_so() {
    assert_eq!(
        render("{{lt .Response.Code .Request.Method}}"),
        "Invalid request log template: method: GET, response code: 200, latency: 0.000808099, url: /echo?x=1"
    );
}

#[test]
fn when_a_caller_sends_a_trace_then_its_id_is_found() {
    let id = |pairs: &[(&'static str, &'static str)]| {
        let header = |(k, v): &(&'static str, &'static str)| (HeaderName::from_static(k), HeaderValue::from_static(v));
        trace_id(&pairs.iter().map(header).collect()).to_owned()
    };

    assert_eq!(id(&[("traceparent", "00-abc-def-01"), ("x-b3-traceid", "b3")]), "abc");
    assert_eq!(id(&[("traceparent", "junk"), ("x-b3-traceid", "b3")]), "b3");
    assert_eq!(id(&[]), "");
}

#[test]
fn given_variables_that_name_each_other_when_the_template_would_explode_then_it_is_refused() {
    let mut template = "{{$a0 := \"x\"}}".to_owned();
    for i in 0..40 {
        template += &format!("{{{{$a{} := print $a{i} $a{i}}}}}", i + 1);
    }

    assert_eq!(Template::parse(&template).unwrap_err().reason, "expression too large");
}

proptest! {
    #[test]
    fn when_any_text_is_parsed_then_it_is_a_template_or_an_error_in_it(text in "[{}.|$\"()a-zRqu \n:=0-9/*-]{0,60}") {
        if let Err(error) = Template::parse(&text) {
            prop_assert!(error.line >= 1 && error.column >= 1 && error.column <= text.len() + 1);
        }
    }

    #[test]
    fn when_a_header_holds_anything_then_the_shipped_line_is_one_line(value in prop::collection::vec(32_u8..=255, 0..80)) {
        let mut fixture = fixture();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            fixture.headers.insert(USER_AGENT, value);
        }
        let mut out = Vec::new();
        Template::parse(DEFAULT_REQUEST_LOG_TEMPLATE).unwrap().render(&fixture.record(), &mut out);
        prop_assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1);
        if std::str::from_utf8(&out).is_ok() && !value.contains(&b'\'') {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
    }
}

/// A template of many functions overran a worker's stack, or its memory, with the first request.
#[test]
fn given_functions_of_functions_when_too_many_then_the_template_is_refused_and_else_it_is_rendered() {
    let piped =
        |count: usize, function: &str| format!("{{{{.Request.Method{}}}}}", format!(" | {function}").repeat(count));
    let worker = std::thread::Builder::new().stack_size(512 * 1024);
    let rendered = worker.spawn(move || render(&piped(64, "not"))).unwrap().join().unwrap();
    assert_eq!(rendered, "true");
    let variables: String = (0..100).map(|i| format!("{{{{$v{} := not $v{i}}}}}", i + 1)).collect();
    for template in [piped(65, "not"), format!("{{{{$v0 := .Request.TLS}}}}{variables}")] {
        assert_eq!(Template::parse(&template).unwrap_err().reason, "expression too deep");
    }
    let doubled = format!("{{{{`\\`{}}}}}", " | js".repeat(60));
    assert!(render(&doubled).starts_with("Invalid request log template"));
}
