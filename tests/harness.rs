//! The harness against itself: the raw client, the scripted application and the sample application.
use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use crate::support::app::{App, ok};
use crate::support::client::{Raw, get, local, run};
use crate::support::scrape;
use crate::support::wait::eventually;

#[test]
fn given_a_scripted_application_when_it_cuts_its_body_then_the_client_notices() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    });

    let reply = get(app.port(), "/", "");

    assert_eq!((reply.text().as_str(), reply.body.complete), ("abc", false));
    eventually("the connection is closed", || app.open() == 0);
}

#[test]
fn given_a_scripted_application_when_asked_twice_on_one_connection_then_it_keeps_what_it_saw() {
    let app = App::each(|head, body| ok(&format!("{} {}", head.target(), body.len())));
    let mut client = Raw::plain(app.port());

    assert_eq!(client.get("/a", "").reply().text(), "/a 0");
    assert_eq!(client.post("/b", "four").reply().text(), "/b 4");

    let seen: Vec<String> = app.seen().iter().map(|head| head.line.clone()).collect();
    assert_eq!(seen, ["GET /a HTTP/1.1", "POST /b HTTP/1.1"]);
    assert_eq!(app.accepted(), 1);
}

#[test]
fn given_the_sample_application_when_asked_over_both_protocols_then_each_path_answers() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        run(async {
            let mut client = Connection::open(app.addr(), None, protocol).await.unwrap();
            let hello = client.get("hello", "/").await.unwrap();
            assert!(String::from_utf8(hello.body).unwrap().starts_with("hello from the sample application\nGET "));
            assert_eq!(client.get("hello", "/status?code=418").await.unwrap().status, 418);
            assert_eq!(client.get("hello", "/bytes?n=200000").await.unwrap().body.len(), 200_000);
            assert_eq!(client.get("hello", "/sse?n=2&ms=1").await.unwrap().body, b"data: 0\n\ndata: 1\n\n");
            let request = client.request("POST", "hello", "/echo").body(Outgoing::whole("ping")).unwrap();
            assert_eq!(client.fetch(request).await.unwrap().body, b"ping");
            let request = client.request("POST", "hello", "/grpc.Echo/Stream").header("te", "trailers");
            let answer = client.fetch(request.body(Outgoing::whole("ping")).unwrap()).await.unwrap();
            assert_eq!(answer.body, b"ping");
            if protocol == Protocol::Http2 {
                assert_eq!(answer.trailers.unwrap().get("grpc-status").unwrap(), "0");
            }
        });
    }
}

#[test]
fn given_a_stat_message_when_decoded_then_absent_fields_are_zero() {
    let mut message = vec![0x0a, 3, b'p', b'o', b'd', 0x31];
    message.extend_from_slice(&1.5f64.to_le_bytes());

    let stat = scrape::decode(&message);

    assert_eq!((stat.pod_name.as_str(), stat.uptime(), stat.requests()), ("pod", 1.5, 0.0));
}
