//! Templates of logs: compiled, and rendered for requests of any kind.

use std::time::Duration;

use ::http::{HeaderMap, Method, Version};

use super::http::{header_lines, texts_of};
use crate::gateway::access_log::{self, Entry};
use crate::telemetry::request_log::{Record, RevisionFacts, Template, TlsFacts, trace_id};

/// A template of the request log, a NUL byte, a target, a NUL byte, header lines.
pub(super) fn request_log(data: &[u8]) {
    let ([text, target], lines) = texts_of(data);
    let template = match Template::parse(&text) {
        Ok(template) => template,
        Err(refused) => {
            let line = text.split('\n').nth(refused.line - 1).expect("a line of the template");
            assert!((1..=line.len() + 1).contains(&refused.column), "{refused}");
            assert!(!refused.reason.is_empty());
            return;
        }
    };
    let headers = header_lines(lines);
    let tls = TlsFacts {
        version: 0x304,
        resumed: false,
        cipher_suite: 0x1301,
        group: 29,
        protocol: "h2",
        server_name: target.as_str().into(),
    };
    let mut out = b"before".to_vec();
    template.render(
        &Record {
            method: &Method::GET,
            request_uri: &target,
            version: Version::HTTP_2,
            host: &target,
            remote_addr: ([127, 0, 0, 1], 1).into(),
            content_length: -1,
            headers: &headers,
            tls: (target.len() % 2 == 1).then_some(&tls),
            code: 200,
            size: u64::MAX,
            latency: Duration::MAX,
            revision: &RevisionFacts { name: "hello-00001".to_owned(), ..Default::default() },
            trace_id: trace_id(&headers),
        },
        &mut out,
    );
    assert!(out.starts_with(b"before"), "what was there is kept");
    assert!(out.ends_with(b"\n") || text.contains("{{"), "{}", String::from_utf8_lossy(&out));
}

/// A template of the gateway's log, a NUL byte, a path, a NUL byte, header lines.
pub(super) fn access_log(data: &[u8]) {
    let ([text, path], lines) = texts_of(data);
    let template = match access_log::Template::parse(&text) {
        Ok(template) => template,
        Err(refused) => {
            assert!((1..=text.len() + 1).contains(&refused.column), "{refused:?}");
            return;
        }
    };
    let (request, response) = (header_lines(lines), HeaderMap::new());
    let entry = Entry {
        start: time::OffsetDateTime::UNIX_EPOCH,
        duration: Duration::MAX,
        method: "GET",
        path: &path,
        authority: "hello.default.example.com",
        scheme: "https",
        protocol: "HTTP/2",
        request: &request,
        response: &response,
        status: 503,
        flags: "UF",
        details: "upstream_refused",
        received: 0,
        sent: u64::MAX,
        upstream: None,
        cluster: "default/hello",
        remote: ([127, 0, 0, 1], 1).into(),
        local: None,
        server_name: None,
        tls_version: None,
    };
    template.render(&entry, &mut String::new());
}
