//! Section 3.5: trailers, of requests and of responses. Those of requests pass, which is better than the original.
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use lockkeeper::local::client::{Connection, Outgoing, Protocol, read};
use rustls::version::TLS13;

use crate::support::accept::accept;
use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, local, run};
use crate::support::pki::{NAME, Pki};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";

fn lower(trailers: &[(String, String)]) -> Vec<(String, String)> {
    trailers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}

/// Announced trailers of a chunked request reach the application, and their announcement does.
#[test]
fn given_a_chunked_request_with_trailers_when_proxied_then_the_application_gets_them() {
    let (sender, seen) = std::sync::mpsc::channel();
    let app = App::start(move |conn| {
        while let Some((head, body)) = conn.request() {
            let _ = sender.send((head, body));
            conn.send(crate::support::app::ok("ok"));
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    client.send(format!("{CHUNKED}3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"));
    assert_eq!(client.reply().status(), 200);
    let (head, body) = seen.recv().unwrap();
    assert_eq!((head.get("trailer"), body.bytes.as_slice()), (Some("X-Sum"), b"abc".as_slice()));
    assert_eq!(lower(&body.trailers), [("x-sum".to_owned(), "7".to_owned())]);
    // The connection is in order: the next request is understood.
    assert_eq!(client.get("/", "").reply().status(), 200);
}

/// Over HTTP/2 trailers need no announcement, in either direction.
#[test]
fn given_http2_when_both_sides_send_trailers_then_both_arrive() {
    let (port, seen) = h2_application();
    let mut queue = queue(port).start();
    let http = queue.http();
    let trailers = run(async {
        let mut client = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
        let (body, outgoing) = Outgoing::stream();
        let request = client.request("POST", "hello", "/").header("te", "trailers").body(outgoing).unwrap();
        let feed = async {
            body.send(Frame::data(Bytes::from_static(b"abc"))).await.unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            body.send(Frame::trailers(trailers)).await.unwrap();
            drop(body);
        };
        let (response, ()) = tokio::join!(client.send(request), feed);
        read(response.unwrap()).await.unwrap().trailers.expect("trailers of the response")
    });
    assert_eq!(seen.recv().unwrap().get("x-sum").unwrap(), "7");
    assert_eq!(trailers.get("x-back").unwrap(), "8");
}

/// An HTTP/2 application that takes one request with trailers and answers with trailers.
fn h2_application() -> (u16, std::sync::mpsc::Receiver<HeaderMap>) {
    let (sender, seen) = std::sync::mpsc::channel();
    // The queue looks first whether HTTP/2 is spoken, on a connection of its own.
    let port = accept(move |socket| {
        let sender = sender.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(socket).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let sender = sender.clone();
                tokio::task::spawn_local(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    let _ = sender.send(body.trailers().await.unwrap().unwrap_or_default());
                    let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                    stream.send_data(Bytes::from_static(b"ok"), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-back", "8".parse().unwrap());
                    stream.send_trailers(trailers).unwrap();
                });
            }
        }
    });
    (port, seen)
}

/// An HTTP/2 caller gets the trailers of an HTTP/1.1 application, announced or not.
#[test]
fn given_an_http1_application_when_an_http2_caller_asks_then_it_gets_all_trailers() {
    let app = App::each(|_, _| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n".to_owned()
    });
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    let answer = run(async {
        let mut client = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
        let request = client.request("GET", "hello", "/").body(Outgoing::whole("")).unwrap();
        read(client.send(request).await.unwrap()).await.unwrap()
    });
    assert_eq!(
        (answer.body.as_ref(), answer.trailers.unwrap().get("x-sum").unwrap().as_bytes()),
        (&b"ab"[..], &b"7"[..])
    );
}

/// Trailers of a response in chunks reach an HTTP/1.1 caller, announced or not, asked for or not, and the connection goes
/// on; a body that ends in what looks like a last chunk changes nothing.
#[test]
fn given_an_http1_caller_when_a_response_has_trailers_then_they_arrive_behind_the_last_chunk() {
    let chunks = "Transfer-Encoding: chunked\r\n\r\n7\r\nab0\r\n\r\n\r\n0\r\nX-Sum: 7\r\nX-Sum: 8\r\n\r\n";
    for (announced, asks) in [("Trailer: X-Sum\r\n", ""), ("", "TE: trailers\r\n"), ("", "")] {
        let answer = format!("HTTP/1.1 200 OK\r\n{announced}{chunks}");
        let app = App::each(move |_, _| answer.clone());
        let pki = Pki::new();
        let mut queue = queue(app.port()).certs(pki.dir()).start();
        let encrypted = Raw::tls(queue.tls(), pki.client(&[&TLS13], &[]), NAME);
        for mut client in [Raw::plain(queue.http()), encrypted] {
            for _ in 0..3 {
                let reply = client.get("/", asks).reply();
                assert_eq!((reply.text().as_str(), reply.body.complete), ("ab0\r\n\r\n", true), "{announced}{asks}");
                let two = [("x-sum".to_owned(), "7".to_owned()), ("x-sum".to_owned(), "8".to_owned())];
                assert_eq!(lower(&reply.body.trailers), two, "{announced}{asks}");
            }
        }
    }
}

/// Who gets no chunks gets no trailers, and all the rest: an HTTP/1.0 caller. Fields that would change how the message is
/// read are no trailers.
#[test]
fn given_trailers_that_cannot_pass_when_proxied_then_the_rest_is_whole() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 7\r\n\r\n";
    let app = App::each(move |_, _| answer.to_owned());
    let mut old = queue(app.port()).start();
    let mut client = Raw::plain(old.http());
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "ab");

    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nContent-Length: 7\r\n\r\n";
    let app = App::each(move |_, _| answer.to_owned());
    let mut other = queue(app.port()).start();
    let mut client = Raw::plain(other.http());
    for _ in 0..2 {
        let reply = client.get("/", "").reply();
        assert_eq!((reply.text().as_str(), reply.body.complete, reply.body.trailers.len()), ("ab", true, 0));
    }
}
