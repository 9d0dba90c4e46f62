//! T10: one message that two parsers understand differently is how a second request is smuggled past the first parser.
//! Each framing here is either refused, or goes on to the application with one framing that cannot be misread.
use std::time::Duration;

use crate::support::app::{App, ok};
use crate::support::binary::queue;
use crate::support::client::{Connected, Raw};
use crate::support::h2::{DATA, END_STREAM, Frames, GOAWAY, RST_STREAM};

/// What follows the head, so that a parser which takes less or more of it sees another request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\nX-Hidden: 1\r\n\r\n";

/// After which no more answers are expected. Were it too short, a fault would be missed, and never one invented.
const SILENCE: Duration = Duration::from_millis(700);

/// Sends bytes on a connection of their own, to which `lawful` answers are due; statuses that came back, heads that the
/// application saw.
fn exchange(bytes: &[u8], lawful: usize) -> Connected {
    let app = App::start(|conn| {
        while let Some(head) = conn.head() {
            let framings = head.all("content-length").len() + head.all("transfer-encoding").len();
            assert!(framings <= 1, "two framings went on: {head:?}");
            conn.body(&head);
            conn.send(ok("ok"));
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    client.send(bytes);
    // Until the connection ends, or nothing more comes: a half message may rightly be waited for.
    let due = (0..lawful).map_while(|_| client.try_reply()).collect::<Vec<_>>();
    let more = std::iter::from_fn(|| client.reply_within(SILENCE));
    let statuses = due.into_iter().chain(more).map(|reply| reply.status()).collect();
    Connected { statuses, seen: app.seen() }
}

/// Framings that no two parsers agree on are refused, and with them all that follows on the connection.
#[test]
fn given_framings_that_are_read_differently_when_sent_then_nothing_of_them_reaches_the_application() {
    let refused = [
        "Content-Length: 4\r\nContent-Length: 44",
        "Content-Length: 4, 44",
        "Content-Length: +4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length: 4a",
        "Content-Length: -4",
        "Content-Length: 99999999999999999999999",
        "Content-Length : 4",
        "Content-Length: ",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer\x00-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked;q=1",
    ];
    let mut wrong = Vec::new();
    for framing in refused {
        let request = format!("POST /first HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\n{HIDDEN}");
        let result = exchange(request.as_bytes(), 0);
        let refused =
            result.statuses.len() <= 1 && result.statuses.iter().all(|status| [400, 501, 502].contains(status));
        // A head may have gone on before its body turned out wrong; nothing that was hidden in the body may.
        if !refused || result.seen.iter().any(|head| head.get("x-hidden").is_some()) {
            wrong.push((framing, result.statuses, result.seen));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Chunks that are read differently: sizes with signs and prefixes, sizes beyond 64 bits, line ends that are none.
#[test]
fn given_chunks_that_are_read_differently_when_sent_then_nothing_hidden_reaches_the_application() {
    let bodies = [
        format!("+0\r\n\r\n{HIDDEN}"),
        format!("-1\r\n\r\n{HIDDEN}"),
        format!("0x0\r\n\r\n{HIDDEN}"),
        format!("10000000000000000\r\n\r\n{HIDDEN}"),
        format!("FFFFFFFFFFFFFFFFFFFFFFFFF0\r\n\r\n{HIDDEN}"),
        format!(" 0\r\n\r\n{HIDDEN}"),
        format!("1\r\nab\r\n0\r\n\r\n{HIDDEN}"),
        format!("1\nA\n0\n\n{HIDDEN}"),
        format!("5;\nxx\r\n0\r\n\r\n{HIDDEN}"),
        format!("\r\n0\r\n\r\n{HIDDEN}"),
        format!("0\r\n{HIDDEN}"),
        format!("{}\r\n\r\n{HIDDEN}", "0".repeat(100_000)),
        format!("0;{}\r\n\r\n{HIDDEN}", "x".repeat(100_000)),
    ];
    let mut wrong = Vec::new();
    for body in bodies {
        let request = format!("POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        // The body had ended by the letter of RFC 9112: what follows is a request of its own.
        let lawful = body.starts_with("0;") || body.starts_with("000");
        let result = exchange(request.as_bytes(), if lawful { 2 } else { 0 });
        let hidden = result.seen.iter().filter(|head| head.target() == "/hidden").count();
        let seen = hidden == 1 && lawful && result.statuses == [200, 200];
        if hidden > 0 && !seen || result.statuses.len() > 2 {
            wrong.push((body[..body.len().min(40)].to_owned(), result.statuses, result.seen));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is lawful stays so: a length twice the same, an extension, pipelined requests one by one.
#[test]
fn given_lawful_framings_when_sent_then_each_request_is_answered_in_its_order() {
    let pipelined = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
                     POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\ntwo\r\n0\r\n\r\n\
                     GET /3 HTTP/1.1\r\nHost: a\r\n\r\n";
    let result = exchange(pipelined.as_bytes(), 3);
    assert_eq!(result.statuses, [200, 200, 200]);
    let seen: Vec<_> = result.seen.iter().map(|head| head.target().to_owned()).collect();
    assert_eq!(seen, ["/1", "/2", "/3"]);
}

/// Answers that are read differently never poison the caller's connection: what follows them is no answer to anything.
#[test]
fn given_answers_with_two_framings_when_the_next_request_comes_then_its_answer_is_its_own() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 44\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\nContent-Length: 50\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    ];
    const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Poison: 1\r\n\r\npoison";
    let mut wrong = Vec::new();
    for answer in answers {
        let app = App::start(move |conn| {
            while let Some((head, _)) = conn.request() {
                if head.target() == "/next" {
                    conn.send(ok("next"));
                } else {
                    conn.send(format!("{answer}{POISON}"));
                    if answer.contains("xchunked") {
                        // Without a framing that is known, the answer ends with the connection.
                        return;
                    }
                }
            }
        });
        let mut queue = queue(app.port()).start();
        let mut client = Raw::plain(queue.http());
        // Where an answer ends with the connection, there may be none until then.
        let Some(first) = client.get("/first", "").reply_within(SILENCE) else { continue };
        let Some(next) = client.get("/next", "").try_reply() else { continue };
        if next.header("x-poison").is_some() || next.text() != "next" {
            wrong.push((answer, first, next));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// HTTP/2 has lengths of its own; what it must not carry, and lengths that lie, never become HTTP/1.1.
#[test]
fn given_http2_requests_that_would_be_two_in_http1_when_sent_then_the_application_sees_none() {
    const START: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":path", "/h2"), (":authority", "a")];
    let cases: [(&str, Vec<(&str, &str)>); 11] = [
        ("a transfer encoding", vec![("transfer-encoding", "chunked")]),
        ("a connection header", vec![("connection", "close")]),
        ("an upgrade", vec![("upgrade", "websocket")]),
        ("a line break in a value", vec![("x", "a\r\nX-Hidden: 1")]),
        ("a line feed in a value", vec![("x", "a\nX-Hidden: 1")]),
        ("a line break in a name", vec![("x: a\r\nx-hidden", "1")]),
        ("a colon in a name", vec![("x:y", "1")]),
        ("a blank in a name", vec![("x y", "1")]),
        ("a name in capitals", vec![("X-Upper", "1")]),
        ("a length that is too long", vec![("content-length", "400")]),
        ("a length that is too short", vec![("content-length", "1")]),
    ];
    let app = App::start(|conn| {
        while let Some(head) = conn.head() {
            let body = conn.body(&head);
            if body.complete {
                conn.send(ok("ok"));
            }
        }
    });
    let mut queue = queue(app.port()).start();
    let mut wrong = Vec::new();
    for (what, fields) in &cases {
        let mut frames = Frames::connect(queue.http());
        let fields: Vec<(&str, &str)> = START.iter().chain(fields).copied().collect();
        frames.headers(1, &fields, false);
        frames.send(DATA, END_STREAM, 1, b"body");
        let end = std::iter::from_fn(|| frames.next())
            .find(|frame| frame.kind == GOAWAY || frame.stream == 1 && frame.ends_stream());
        let refused = end.as_ref().is_none_or(|frame| matches!(frame.kind, RST_STREAM | GOAWAY));
        let answered = !refused;
        let hidden = app.seen().iter().any(|head| {
            head.get("x-hidden").is_some() || head.all("transfer-encoding").len() + head.all("content-length").len() > 1
        });
        if answered || hidden {
            wrong.push((*what, end));
        }
    }
    // An answer of our own, 400, would be as good: then the application must not have seen the request.
    let seen: Vec<_> = app.seen().into_iter().filter(|head| head.target() == "/h2").collect();
    assert!(wrong.is_empty() || seen.is_empty(), "{wrong:#?}\nseen: {seen:#?}");
}

/// Pseudo headers that are missing, doubled or late (RFC 9113 section 8.3).
#[test]
fn given_pseudo_headers_that_are_wrong_when_sent_then_the_application_sees_none() {
    let cases: [&[(&str, &str)]; 7] = [
        &[(":method", "GET"), (":scheme", "http"), (":authority", "a")],
        &[(":method", "GET"), (":path", "/"), (":authority", "a")],
        &[(":scheme", "http"), (":path", "/"), (":authority", "a")],
        &[(":method", "GET"), (":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")],
        &[(":method", "GET"), (":scheme", "http"), ("x", "1"), (":path", "/"), (":authority", "a")],
        &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a")],
        &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), (":status", "200")],
    ];
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    for fields in cases {
        let mut frames = Frames::connect(queue.http());
        frames.headers(1, fields, true);
        let end = std::iter::from_fn(|| frames.next())
            .find(|frame| frame.kind == GOAWAY || frame.stream == 1 && frame.ends_stream());
        assert_eq!(app.count(), 0, "{fields:?}: {end:?}");
    }
}

/// A coding that a proxy cannot undo would be lost on the way: 501 to callers (contract, section 3.9), 502 for an
/// application's. RFC 9112 section 6.1.
#[test]
fn given_a_coding_beside_chunked_when_sent_then_it_does_not_pass() {
    let sent = exchange(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n",
        1,
    );
    assert_eq!((sent.statuses, sent.seen.len()), (vec![501], 0));

    for codings in ["gzip", "gzip, chunked", "chunked\r\nTransfer-Encoding: chunked"] {
        let app = App::start(move |conn| {
            conn.request();
            conn.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {codings}\r\n\r\n2\r\nab\r\n0\r\n\r\n"));
        });
        let mut queue = queue(app.port()).start();
        let reply = Raw::plain(queue.http()).get("/", "").reply();
        assert_eq!(
            (reply.status(), reply.header("x-lockkeeper-cause")),
            (502, Some("upstream_malformed")),
            "{codings}"
        );
    }
}

/// RFC 9112 section 6.3: the coding decides, the length beside it does not go on.
#[test]
fn given_an_answer_with_both_framings_when_proxied_then_the_coding_counts_and_the_length_is_gone() {
    let app = App::each(|_, _| {
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n".to_owned()
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for _ in 0..2 {
        let reply = client.get("/", "").reply();
        assert_eq!((reply.status(), reply.text().as_str(), reply.body.complete), (200, "ab", true));
        assert_eq!(reply.header("content-length"), None);
    }
}

/// An upgrade to HTTP/2 in plaintext would be a tunnel past everything here. It is not passed on, and the request is served:
/// Java's client offers it with each first request.
#[test]
fn given_an_upgrade_to_h2c_when_offered_then_the_application_is_not_asked_for_it() {
    let app = App::start(|conn| {
        while let Some(head) = conn.head() {
            if head.get("upgrade").is_some() {
                conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
                return;
            }
            conn.send(ok("ok"));
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for offer in ["h2c", "H2C", "websocket, h2c"] {
        let headers =
            format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {offer}\r\nHTTP2-Settings: AAMAAABk\r\n");
        assert_eq!(client.get("/", &headers).reply().text(), "ok", "{offer}");
        let seen = app.last();
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(seen.get(name), None, "{offer}: {name}");
        }
    }
}
