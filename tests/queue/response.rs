//! Sections 3.5, 3.7 and 3.8: responses, interim ones, trailers, upgrades and both directions at once.
use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use crate::support::app::{App, ok, response};
use crate::support::binary::queue;
use crate::support::client::{Raw, get, local, run};

/// 3.5: status, values in order, hop-by-hop removed, `Date` added, nothing else.
#[test]
fn when_the_application_answers_then_status_headers_and_body_pass() {
    let app = App::each(|_, _| {
        response("418 whatever", &[("X-A", "1"), ("X-A", "2"), ("Connection", "X-Hop"), ("X-Hop", "1")], "tea")
    });
    let mut queue = queue(app.port()).start();
    let reply = get(queue.http(), "/", "");
    assert_eq!((reply.status(), reply.text().as_str()), (418, "tea"));
    assert_eq!(reply.head.all("x-a"), ["1", "2"]);
    assert!(reply.header("date").is_some());
    for name in ["x-hop", "server", "via", "x-lockkeeper-cause"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
}

/// 3.5: HEAD, 204 and 304 have no body, and the connection stays usable.
#[test]
fn given_responses_without_a_body_when_asked_on_one_connection_then_the_next_one_fits() {
    let app = App::each(|head, _| match head.target() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(),
        _ => ok("ok"),
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for path in ["/204", "/304", "/200"] {
        let reply = client.get(path, "").reply();
        assert_eq!(format!("/{}", reply.status()), path);
    }
}

/// 3.5: a chunk is passed on before the next one exists.
#[test]
fn given_a_stream_when_a_chunk_comes_then_it_is_passed_on_at_once() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send("3\r\none\r\n");
        // The second chunk only after the caller has confirmed the first one, on another connection.
        conn.wait_close();
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    let head = client.get("/", "").head().unwrap();
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert_eq!(client.chunk().unwrap(), b"one");
}

/// 3.5: trailers of responses pass.
#[test]
fn given_response_trailers_when_proxied_then_the_caller_gets_them() {
    let app = App::each(|_, _| {
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n"
            .to_owned()
    });
    let mut queue = queue(app.port()).start();
    let reply = Raw::plain(queue.http()).get("/", "TE: trailers\r\n").reply();
    assert_eq!(reply.text(), "ab");
    let trailers: Vec<_> = reply.body.trailers.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())).collect();
    assert_eq!(trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

/// RFC 9112 section 5.2: a folded line of a response becomes one.
#[test]
fn given_a_folded_header_of_a_response_when_proxied_then_it_is_one_line() {
    let app = App::each(|_, _| "HTTP/1.1 200 OK\r\nX-A: a\r\n  b\r\nContent-Length: 2\r\n\r\nok".to_owned());
    let mut queue = queue(app.port()).start();
    let reply = Raw::plain(queue.http()).get("/", "").reply();
    assert_eq!(reply.status(), 200);
    let words: Vec<_> = reply.header("x-a").unwrap().split_whitespace().collect();
    assert_eq!(words, ["a", "b"]);
}

/// 14.1: interim responses and the real final status pass (the original makes it 200). RFC 9110 section 15.2.
#[test]
fn given_early_hints_and_a_404_when_proxied_then_both_arrive() {
    let app = App::each(|_, _| {
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_owned() + &response("404 Not Found", &[], "no")
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    let first = client.get("/", "").head().unwrap();
    assert_eq!((first.status(), first.get("link")), (103, Some("</a.css>")));
    let reply = client.reply();
    assert_eq!((reply.status(), reply.text().as_str()), (404, "no"));
}

/// 3.5, 14.8: an upgrade passes bytes both ways, those sent with the request too.
#[test]
fn given_an_upgrade_when_bytes_come_with_the_request_then_none_is_lost() {
    let app = App::start(|conn| {
        conn.head();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: Echo\r\nX-App: 1\r\n\r\n");
        loop {
            let bytes = conn.some();
            if bytes.is_empty() {
                return;
            }
            conn.send(bytes);
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly");
    let head = client.head().unwrap();
    assert_eq!((head.status(), head.get("x-app")), (101, Some("1")));
    assert_eq!(client.bytes(5), b"early");
    client.send("late");
    assert_eq!(client.bytes(4), b"late");
    assert_eq!(app.last().get("upgrade"), Some("echo"));
}

/// 3.7: the expectation goes to the application, its 100 comes back, then the body goes.
#[test]
fn given_an_expectation_when_the_application_continues_then_the_body_follows() {
    let app = App::start(|conn| {
        let head = conn.head().unwrap();
        conn.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = conn.body(&head);
        conn.send(ok(&String::from_utf8_lossy(&body.bytes)));
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().unwrap().status(), 100);
    assert_eq!(client.send("body").reply().text(), "body");
    assert_eq!(app.last().get("expect"), Some("100-continue"));
}

/// 3.7: a final answer in place of 100 arrives without the body having been sent.
#[test]
fn given_an_expectation_when_the_application_refuses_then_the_refusal_arrives() {
    let app = App::start(|conn| {
        conn.head();
        conn.send(response("417 Expectation Failed", &[("Connection", "close")], ""));
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    let mut head = client.head().unwrap();
    if head.status() == 100 {
        head = client.send("body").head().unwrap();
    }
    assert_eq!(head.status(), 417);
}

/// 3.8, Q4: an answer that begins before the request has ended goes out at once, without any setting.
#[test]
fn given_an_unfinished_upload_when_the_application_answers_then_the_caller_sees_it_at_once() {
    let app = App::start(|conn| {
        let Some(_) = conn.head() else { return };
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Some(chunk) = conn.chunk() {
            if chunk.is_empty() {
                conn.send("0\r\n\r\n");
                return;
            }
            conn.send(format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(&chunk)));
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.send("3\r\none\r\n").head().unwrap().status(), 200);
    assert_eq!(client.chunk().unwrap(), b"one");
    client.send("3\r\ntwo\r\n");
    assert_eq!(client.chunk().unwrap(), b"two");
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk().unwrap(), b"");
}

/// 3.5: gRPC-like streams, message by message, trailers at the end.
#[test]
fn given_a_grpc_stream_when_messages_alternate_then_each_is_passed_at_once() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port()).start();
    run(async {
        let mut client = Connection::open(local(queue.http()), None, Protocol::Http2).await.unwrap();
        let (sender, body) = Outgoing::stream();
        let request = client.request("POST", "hello", "/grpc.Echo/S").header("te", "trailers").body(body).unwrap();
        let mut incoming = client.send(request).await.unwrap().into_body();
        for text in ["one", "two", "three"] {
            sender.send(http_body::Frame::data(text.into())).await.unwrap();
            let frame = lockkeeper::local::client::frame(&mut incoming).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
        }
        drop(sender);
        let last = lockkeeper::local::client::frame(&mut incoming).await.unwrap().unwrap();
        assert_eq!(last.into_trailers().unwrap().get("grpc-status").unwrap(), "0");
    });
}
