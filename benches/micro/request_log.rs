//! The request log: compiling a template (at start), rendering a line (each request).

use std::time::Duration;

use criterion::Criterion;
use http::{Method, Version};
use lockkeeper::telemetry::observability::DEFAULT_REQUEST_LOG_TEMPLATE;
use lockkeeper::telemetry::request_log::{Record, RevisionFacts, Template, trace_id};

use crate::headers::usual;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("request log");
    let headers = usual(&[("referer", "https://example.com/\"quoted\"")]);
    let plain = usual(&[]);
    let revision =
        RevisionFacts { name: "hello-00001".to_owned(), pod_ip: "10.1.2.3".to_owned(), ..Default::default() };
    let record = |headers| Record {
        method: &Method::GET,
        request_uri: "/api/v1/items?page=2&sort=name",
        version: Version::HTTP_11,
        host: "hello.default.example.com",
        remote_addr: ([10, 1, 2, 4], 51234).into(),
        content_length: 0,
        headers,
        tls: None,
        code: 200,
        size: 1234,
        latency: Duration::from_micros(1834),
        revision: &revision,
        trace_id: trace_id(headers),
    };
    group.bench_function("template compiled", |b| b.iter(|| Template::parse(DEFAULT_REQUEST_LOG_TEMPLATE).unwrap()));
    let template = Template::parse(DEFAULT_REQUEST_LOG_TEMPLATE).unwrap();
    let mut line = Vec::with_capacity(4096);
    let mut render = |name: &str, template: &Template, headers| {
        group.bench_function(name, |b| {
            b.iter(|| {
                line.clear();
                template.render(&record(headers), &mut line);
                line.len()
            });
        });
    };
    render("line of the shipped template", &template, &plain);
    render("line with text to escape", &template, &headers);
    let busy = r#"{{with .Request.Header.Get "X-Request-Id"}}{{printf "%q" .}}{{end}} {{if ge .Response.Code 500}}E{{else}}-{{end}} {{index .Request.Header "Accept" 0 | js}}"#;
    render("line of a template with conditions", &Template::parse(busy).unwrap(), &plain);
    group.finish();
}
