//! Sections 3.2 and 3.3: what the application sees.
use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{exchange, get, local, run};
use crate::support::message::Head;

#[track_caller]
fn seen(headers: &str) -> Head {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    assert_eq!(get(queue.http(), "/path?q=1", headers).status(), 200);
    app.last()
}

/// 3.2: `K-Original-Host` replaces `Host` and is removed.
#[test]
fn given_an_original_host_when_proxied_then_it_is_the_host() {
    let head = seen("K-Original-Host: original.example.com\r\n");
    assert_eq!(head.get("host"), Some("original.example.com"));
    assert_eq!(head.get("k-original-host"), None);
    let head = seen("K-Original-Host: \r\n");
    assert_eq!((head.get("host"), head.get("k-original-host")), (Some("hello.example.com"), Some("")));
}

/// 3.2: whom a request is for is said once: no caller takes it away, or says it twice.
#[test]
fn given_odd_words_about_the_host_when_proxied_then_the_application_sees_one_host() {
    assert_eq!(seen("Connection: host, x-a\r\nX-A: 1\r\n").all("host"), ["hello.example.com"]);

    let app = App::ok();
    let mut queue = queue(app.port()).start();
    exchange(queue.http(), "GET http://user:secret@other.example:81/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = app.last();
    assert_eq!((head.all("host"), head.target()), (vec!["other.example:81"], "/x"));
}

/// RFC 9113 section 8.3.1: over HTTP/2 the authority counts, not a `Host` beside it.
#[test]
fn given_http2_with_an_authority_and_another_host_when_proxied_then_the_authority_is_the_host() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    run(async {
        let mut client = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
        let request = client.request("GET", "authority.example", "/").header("host", "other.example");
        client.send(request.body(Outgoing::whole("")).unwrap()).await.unwrap();
    });
    assert_eq!(app.last().all("host"), ["authority.example"]);
}

/// 3.7: an empty `Expect` expects nothing.
#[test]
fn given_an_empty_expectation_when_proxied_then_the_request_passes() {
    assert_eq!(seen("Expect: \r\n").get("expect"), Some(""));
}

/// 3.2: what is the activator's is removed, the rest passes.
#[test]
fn when_proxied_then_revision_headers_go_and_other_knative_headers_stay() {
    let head = seen(
        "Knative-Serving-Revision: r\r\nKnative-Serving-Namespace: n\r\nK-Proxy-Request: activator\r\n\
         Knative-Serving-Tag: blue\r\nK-Passthrough-Lb: true\r\n",
    );
    assert_eq!((head.get("knative-serving-revision"), head.get("knative-serving-namespace")), (None, None));
    assert_eq!(head.get("k-proxy-request"), Some("activator"));
    assert_eq!(head.get("knative-serving-tag"), Some("blue"));
    assert_eq!(head.get("k-passthrough-lb"), Some("true"));
}

/// 3.2: several lines fold into one and the peer is appended.
#[test]
fn given_forwarded_for_when_proxied_then_the_peer_is_appended() {
    assert_eq!(seen("").all("x-forwarded-for"), ["127.0.0.1"]);
    let head = seen("X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n");
    assert_eq!(head.all("x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 127.0.0.1"]);
}

/// 3.2: hop-by-hop headers end here.
#[test]
fn given_hop_by_hop_headers_when_proxied_then_they_are_removed() {
    let head = seen(
        "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: secret\r\n\
         Proxy-Connection: x\r\nTe: gzip, trailers\r\nX-Stays: 1\r\n",
    );
    for name in ["x-mine", "keep-alive", "proxy-authorization", "proxy-connection", "upgrade"] {
        assert_eq!(head.get(name), None, "{name}");
    }
    assert_eq!((head.get("te"), head.get("x-stays")), (Some("trailers"), Some("1")));
}

/// 3.2: nothing is invented or undone.
#[test]
fn when_proxied_then_no_header_is_invented_and_values_keep_their_order() {
    let head = seen("X-A: 1\r\nX-A: 2\r\nAccept-Encoding: br\r\nX-Forwarded-Proto: https\r\n");
    assert_eq!(head.all("x-a"), ["1", "2"]);
    assert_eq!(head.get("accept-encoding"), Some("br"));
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    for name in ["user-agent", "via", "x-real-ip", "x-forwarded-host", "traceparent"] {
        assert_eq!(head.get(name), None, "{name}");
    }
}

/// 3.2: path and query byte for byte; an absolute target gives the host.
#[test]
fn given_an_odd_target_when_proxied_then_it_arrives_as_it_was() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    for target in ["//a/../b", "/x;y?a;b&%zz", "/?"] {
        assert_eq!(get(queue.http(), target, "").status(), 200, "{target}");
        assert_eq!(app.last().target(), target);
    }
    exchange(queue.http(), "GET http://abs.example.com/p HTTP/1.1\r\nHost: other\r\n\r\n");
    assert_eq!((app.last().target(), app.last().get("host")), ("/p", Some("abs.example.com")));
}

/// 3.2: no host in HTTP/1.0.
#[test]
fn given_no_host_when_proxied_then_it_is_the_applications_address() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    exchange(queue.http(), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(app.last().get("host").map(str::to_owned), Some(format!("127.0.0.1:{}", app.port())));
}

/// 3.3: made from `X-Forwarded-*` before the own address is appended.
#[test]
fn given_x_forwarded_headers_when_proxied_then_forwarded_says_the_same() {
    let cases = [
        (
            "X-Forwarded-For: 1.1.1.1, 2001:db8::1 ,3.3.3.3\r\nX-Forwarded-Host: a.b\r\nX-Forwarded-Proto: https\r\n",
            Some(r#"for=1.1.1.1;host=a.b;proto=https, for="[2001:db8::1]", for=3.3.3.3"#),
        ),
        ("X-Forwarded-Proto: https\r\n", Some("proto=https")),
        ("Forwarded: for=9.9.9.9\r\nX-Forwarded-For: 1.1.1.1\r\n", Some("for=9.9.9.9")),
        ("", None),
    ];
    for (headers, forwarded) in cases {
        assert_eq!(seen(headers).get("forwarded"), forwarded, "{headers}");
    }
}

/// 3.2: a `POST` without a length still has one for the application.
#[test]
fn given_a_post_without_length_when_proxied_then_the_framing_is_clear() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    assert_eq!(exchange(queue.http(), "POST / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(app.last().get("content-length"), Some("0"));
}
