//! Section 5.4: HTTP/2 through activator and queue: the protocol that comes in goes out, and dialogues are dialogues.
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use lockkeeper::local::client::{Connection, Outgoing, Protocol, Trust, dial};

use super::world::{NAMESPACE, REVISION, World, free_ip};
use crate::support::accept::accept;
use crate::support::client::{local, run};
use crate::support::h2_streams::{connect, some};
use crate::support::objects::private_endpoints;

/// A gRPC server of sorts: each message goes back as it comes, and trailers end the answer when the caller has ended. The
/// trailers of requests are told.
fn echo() -> (u16, Receiver<HeaderMap>) {
    let (tell, told) = std::sync::mpsc::channel();
    let port = accept(move |socket| {
        let tell = tell.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(socket).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let tell = tell.clone();
                tokio::task::spawn_local(async move {
                    let mut body = request.into_body();
                    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                    let Ok(mut back) = respond.send_response(head, false) else { return };
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                        let _ = back.send_data(data, false);
                    }
                    let _ = tell.send(body.trailers().await.ok().flatten().unwrap_or_default());
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let _ = back.send_trailers(trailers);
                });
            }
        }
    });
    (port, told)
}

/// A dialogue: held until there is a pod, then message for message, and trailers both ways; on either hop in plaintext or
/// over TLS. The pod of an h2c revision is found by the name of its port.
#[test]
fn given_a_dialogue_when_a_pod_appears_then_messages_pass_one_by_one_and_trailers_both_ways() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision().h2c());
        let mut activator = world.start();
        let trust = tls.then(|| Trust::new(world.authority.der(), "kn-routing"));
        let port = if tls { activator.https() } else { activator.h2c };
        let (app, told) = echo();
        let ip = free_ip();
        let _queue = world.queue_at(ip, NAMESPACE, app, |builder| builder);
        let addresses = [ip.to_string()];
        let listed = |name: &str| private_endpoints(NAMESPACE, REVISION).subset(&[&addresses[0]], &[], name, 8012);
        run(async {
            let (stream, _) = dial(local(port), trust.as_ref(), Protocol::Http2).await.unwrap();
            let (mut send, _driver) = connect(stream).await.unwrap();
            let request =
                http::Request::post(format!("http://{REVISION}.{NAMESPACE}.svc.cluster.local/echo.Echo/Talk"));
            let request = request.header("content-type", "application/grpc").header("te", "trailers");
            let (response, mut to) = send.send_request(request.body(()).unwrap(), false).unwrap();
            let mut response = std::pin::pin!(response);
            // A port of another name is not the revision's.
            world.api.apply(listed("http"));
            let held = tokio::time::timeout(Duration::from_millis(300), &mut response).await;
            assert!(held.is_err(), "it waits: {held:?}");
            world.api.apply(listed("http2"));

            let response = response.await.unwrap();
            assert_eq!((response.status(), response.version()), (http::StatusCode::OK, http::Version::HTTP_2));
            let mut from = response.into_body();
            for message in ["one", "two", "three"] {
                to.send_data(Bytes::from_static(message.as_bytes()), false).unwrap();
                assert_eq!(some(&mut from, message.len()).await, message.as_bytes(), "TLS: {tls}");
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "11".parse().unwrap());
            to.send_trailers(trailers).unwrap();
            while let Some(data) = from.data().await {
                assert!(data.unwrap().is_empty());
            }
            let trailers = from.trailers().await.unwrap().unwrap();
            assert_eq!(trailers.get("grpc-status").unwrap(), "0", "TLS: {tls}");
        });
        let trailers = told.recv().unwrap();
        assert_eq!(trailers.get("x-sum").unwrap(), "11", "TLS: {tls}");
    }
}

/// What comes in by one protocol goes out by it, whatever the revision's ports are called.
#[test]
fn given_either_protocol_when_a_request_passes_then_the_application_sees_the_same_one() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let app = lockkeeper::local::app::App::start(local(0)).unwrap();
        let ip = free_ip();
        let _queue = world.queue_at(ip, NAMESPACE, app.addr().port(), |builder| builder);
        world.endpoints(&[ip], &[]);
        run(async {
            for (protocol, version) in [(Protocol::Http1, "HTTP/1.1"), (Protocol::Http2, "HTTP/2.0")] {
                let mut client = Connection::open(local(activator.http1), None, protocol).await.unwrap();
                let request = client.request("GET", &format!("{REVISION}.{NAMESPACE}.svc.cluster.local"), "/");
                let page = client.fetch(request.body(Outgoing::whole("")).unwrap()).await.unwrap();
                let page = String::from_utf8(page.body).unwrap();
                let line = page.lines().nth(1).unwrap_or_default();
                assert!(line.ends_with(version), "TLS: {tls}: {page}");
            }
        });
    }
}
