#![allow(clippy::unwrap_used)]
use super::*;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Response, StatusCode};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

fn on_local<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

fn collector(transport: Transport, address: SocketAddr, path: &str) -> Collector {
    Collector {
        transport,
        url: format!("http://{address}{path}").parse().unwrap(),
        headers: vec![("authorization".into(), "Bearer x".into())],
        ca: None,
        timeout: Duration::from_secs(30),
    }
}

type Seen = (http::request::Parts, Vec<u8>);

/// A collector that answers each request with `status` and reports it.
async fn start(grpc: bool, status: StatusCode) -> (SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let (body, _) = read(body).await.unwrap();
                    let _ = sender.send((head, body));
                    let code = if status.is_success() { "0" } else { "14" };
                    let mut answer = Response::builder().status(if grpc { StatusCode::OK } else { status });
                    if grpc {
                        answer = answer.header("grpc-status", code).header("grpc-message", "go away");
                    }
                    Ok::<_, Infallible>(answer.body(Whole(Some(Bytes::from_static(b"")))).unwrap())
                }
            });
            let io = TokioIo::new(stream);
            tokio::task::spawn_local(async move {
                if grpc {
                    drop(server2::Builder::new(Local).serve_connection(io, service).await);
                } else {
                    drop(server1::Builder::new().serve_connection(io, service).await);
                }
            });
        }
    });
    (address, receiver)
}

#[test]
fn given_http_when_metrics_are_pushed_then_they_arrive_as_a_post() {
    on_local(async {
        let (address, mut seen) = start(false, StatusCode::OK).await;
        let to = collector(Transport::Http, address, "/v1/metrics");

        send(&to, Signal::Metrics, vec![1, 2, 3]).await.unwrap();

        let (head, body) = seen.recv().await.unwrap();
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/metrics"));
        assert_eq!(head.headers["content-type"], "application/x-protobuf");
        assert_eq!(head.headers["authorization"], "Bearer x");
        assert_eq!(body, [1, 2, 3]);
    });
}

#[test]
fn given_grpc_when_spans_are_pushed_then_they_arrive_framed() {
    on_local(async {
        let (address, mut seen) = start(true, StatusCode::OK).await;

        send(&collector(Transport::Grpc, address, "/"), Signal::Traces, vec![1, 2, 3]).await.unwrap();

        let (head, body) = seen.recv().await.unwrap();
        assert_eq!(head.uri.path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        assert_eq!(head.headers["content-type"], "application/grpc");
        assert_eq!(body, [0, 0, 0, 0, 3, 1, 2, 3]);
    });
}

#[test]
fn given_a_collector_that_refuses_when_something_is_pushed_then_the_error_says_why() {
    on_local(async {
        let (address, _seen) = start(false, StatusCode::FORBIDDEN).await;
        let error = send(&collector(Transport::Http, address, "/x"), Signal::Metrics, vec![]).await.unwrap_err();
        assert!(error.contains("403"), "{error}");

        let (address, _seen) = start(true, StatusCode::FORBIDDEN).await;
        let error = send(&collector(Transport::Grpc, address, "/"), Signal::Metrics, vec![]).await.unwrap_err();
        assert_eq!(error, "rpc error: code = 14 desc = go away");
    });
}

#[test]
fn when_the_process_stops_then_what_is_left_is_pushed_once_more() {
    on_local(async {
        let (address, mut seen) = start(false, StatusCode::OK).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let left = Rc::new(RefCell::new(vec![vec![9]]));
        let collect = move || left.borrow_mut().pop();
        let to = collector(Transport::Http, address, "/v1/traces");
        let never = Duration::from_secs(3600);
        let task = tokio::task::spawn_local(run(to, Signal::Traces, never, collect, async { drop(stopped.await) }));

        stop.send(()).unwrap();
        task.await.unwrap();

        assert_eq!(seen.recv().await.unwrap().1, [9]);
    });
}
