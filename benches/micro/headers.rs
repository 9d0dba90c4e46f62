//! Rules about headers: what a request passes on its way to the application.

use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue};
use lockkeeper::http::headers::{self, Has};
use lockkeeper::queue::layer::forwarded;

/// What a browser sends, with what a gateway adds.
const USUAL: &[(&str, &str)] = &[
    ("host", "hello.default.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ("x-forwarded-for", "203.0.113.7, 10.1.2.3"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "c3a1f6a0-6a1c-4f3a-9f7c-0d5a3f1f6d31"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
];

pub(crate) fn map(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

pub(crate) fn usual(more: &[(&str, &str)]) -> HeaderMap {
    map(&[USUAL, more].concat())
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("headers");
    let mut change = |name: &str, headers: HeaderMap, rule: &dyn Fn(&mut HeaderMap)| {
        group.bench_function(name, |b| b.iter_batched_ref(|| headers.clone(), rule, BatchSize::SmallInput));
    };
    change("hop-by-hop, none", usual(&[]), &|map| headers::strip_hop_by_hop(map, Has::of(map)));
    change("hop-by-hop, keep-alive", usual(&[("connection", "keep-alive")]), &|map| {
        headers::strip_hop_by_hop(map, Has::of(map))
    });
    let named = usual(&[("connection", "close, X-Request-Id"), ("te", "trailers"), ("connection", "cookie")]);
    change("hop-by-hop, two named", named, &|map| headers::strip_hop_by_hop(map, Has::of(map)));
    let peer = HeaderValue::from_static("10.244.0.17");
    change("x-forwarded-for, appended", usual(&[]), &|map| headers::append_forwarded_for(map, Has::of(map), &peer));
    change("x-forwarded-for, first", map(&[("host", "hello")]), &|map| {
        headers::append_forwarded_for(map, Has::of(map), &peer)
    });
    let crumbs = usual(&[("cookie", "a=1"), ("cookie", "b=2")]);
    change("cookie crumbs joined", crumbs, &|map| headers::join_cookies(map));

    let headers = usual(&[]);
    group.bench_function("forwarded, made of three", |b| b.iter(|| forwarded::made_of(&headers)));
    group.bench_function("upgrade and trailers, neither", |b| {
        b.iter(|| (headers::upgrade(&headers), headers::accepts_trailers(&headers)));
    });
    group.finish();
}
