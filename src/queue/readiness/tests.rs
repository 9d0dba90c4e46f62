//! The prober against real applications on loopback.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::attempt::{Attempt, Failure};
use super::prober::{TIMING, Timing, start_with};
use super::*;
use crate::net::closed::{closed, open_async};

/// Long enough for a loaded machine; only failing tests wait for it.
const PATIENT: Option<Duration> = Some(Duration::from_secs(20));

/// An application: runs `serve` for every connection, counts them, keeps the heads of HTTP/1 requests.
#[derive(Clone)]
struct App {
    port: u16,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl App {
    async fn start<F, R>(address: &str, serve: F) -> Self
    where
        F: Fn(TcpStream, App) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::listen(TcpListener::bind(address).await.unwrap(), serve)
    }

    fn listen<F, R>(listener: TcpListener, serve: F) -> Self
    where
        F: Fn(TcpStream, App) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let port = listener.local_addr().unwrap().port();
        let app = Self { port, connections: Arc::default(), heads: Arc::default() };
        let shared = app.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        app
    }

    /// HTTP/1.1 only: answers each path with what `answer` says, status line and headers.
    async fn http1(answer: fn(&str) -> &'static str) -> Self {
        Self::start("127.0.0.1:0", move |stream, app| async move { app.answer_http1(stream, answer).await }).await
    }

    async fn answer_http1(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: fn(&str) -> &'static str) {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        if head.starts_with("PRI ") {
            // What an HTTP/1 server says to the preface of HTTP/2.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
            return;
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        self.heads.lock().unwrap().push(head);
        let _ = stream.write_all(format!("HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", answer(&path)).as_bytes()).await;
    }

    /// h2c only: answers with `status` and, for gRPC, `message` and trailers.
    async fn h2(status: u16, message: Option<&'static [u8]>, grpc_status: &'static str) -> Self {
        Self::start("127.0.0.1:0", move |stream, app| async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                app.heads.lock().unwrap().push(format!("{} {:?}", request.uri().path(), request.headers()));
                let response = http::Response::builder().status(status).body(()).unwrap();
                let mut body = respond.send_response(response, message.is_none()).unwrap();
                if let Some(message) = message {
                    body.send_data(Bytes::from_static(message), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", grpc_status.parse().unwrap());
                    body.send_trailers(trailers).unwrap();
                }
            }
        })
        .await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn probe(&self, rest: &str) -> Probe {
        let json = rest.replace("PORT", &self.port.to_string());
        Probe::parse_all(&json, false).unwrap().remove(0)
    }
}

const GET: &str = r#"{"httpGet":{"path":"/healthz","port":PORT,"host":"127.0.0.1","scheme":"HTTP",
    "httpHeaders":[{"name":"X-Mine","value":"1"},{"name":"Host","value":"other"}]}}"#;
const TCP: &str = r#"{"tcpSocket":{"port":PORT,"host":"127.0.0.1"}}"#;
const GRPC: &str = r#"{"grpc":{"port":PORT,"service":"mine"}}"#;

async fn try_once(probe: &Probe, auto_detect: bool) -> Result<(), Failure> {
    Attempt::new(probe, auto_detect).run(PATIENT).await
}

fn short_window() -> Timing {
    Timing { window: Duration::from_millis(300), attempt: Duration::from_secs(5), ..TIMING }
}

#[tokio::test]
async fn given_an_http1_application_then_the_request_is_kubelets_with_the_probes_headers() {
    let app = App::http1(|_| "200 OK").await;
    try_once(&app.probe(GET), false).await.unwrap();
    let head = app.heads().remove(0).to_lowercase();
    assert!(head.starts_with("get /healthz http/1.1\r\n"));
    for line in ["host: 127.0.0.1:", "user-agent: kube-probe//\r\n", "x-mine: 1\r\n", "connection: close\r\n"] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(!head.contains("other"));
}

#[tokio::test]
async fn given_a_status_outside_200_to_399_then_the_failure_names_it() {
    let app = App::http1(|_| "500 Oh").await;
    let failure = try_once(&app.probe(GET), false).await.unwrap_err();
    assert_eq!(failure.text, "HTTP probe did not respond Ready, got status code: 500");
}

#[tokio::test]
async fn given_nothing_listens_then_the_failure_is_a_refusal_in_gos_words() {
    let (_socket, address) = closed();
    let port = address.port();
    let app = App { port, connections: Arc::default(), heads: Arc::default() };
    let failure = try_once(&app.probe(TCP), false).await.unwrap_err();
    assert_eq!(failure.text, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    assert!(failure.refused);
    let failure = try_once(&app.probe(GET), false).await.unwrap_err();
    let expected =
        format!("Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(failure, Failure { text: expected, refused: true });
}

#[tokio::test]
async fn given_an_application_that_never_answers_then_the_limit_ends_the_try() {
    let app = App::start("127.0.0.1:0", |stream, _| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let failure = Attempt::new(&app.probe(GET), false).run(Some(Duration::from_millis(50))).await.unwrap_err();
    assert!(failure.text.ends_with("net/http: request canceled (Client.Timeout exceeded while awaiting headers)"));
    let failure = Attempt::new(&app.probe(GRPC), false).run(Some(Duration::from_millis(50))).await.unwrap_err();
    assert!(failure.text.starts_with("health rpc did not complete within 50ms: "));
}

#[tokio::test]
async fn given_redirects_then_they_are_followed_on_the_same_host_only() {
    let app = App::http1(|path| match path {
        "/healthz" => "302 Found\r\nLocation: /next",
        _ => "404 Not Found",
    })
    .await;
    let failure = try_once(&app.probe(GET), false).await.unwrap_err();
    assert_eq!(failure.text, "HTTP probe did not respond Ready, got status code: 404");

    let elsewhere = App::http1(|_| "302 Found\r\nLocation: http://192.0.2.1/").await;
    try_once(&elsewhere.probe(GET), false).await.unwrap();
    assert_eq!(elsewhere.connections(), 1);

    let endless = App::http1(|_| "302 Found\r\nLocation: healthz").await;
    let failure = try_once(&endless.probe(GET), false).await.unwrap_err();
    assert!(failure.text.ends_with("stopped after 10 redirects"));
    assert_eq!(endless.connections(), 10);
}

#[tokio::test]
async fn given_auto_detection_and_an_http1_application_then_both_versions_are_tried_once_and_the_good_one_is_remembered()
 {
    let app = App::http1(|_| "200 OK").await;
    let mut attempt = Attempt::new(&app.probe(GET), true);
    attempt.run(PATIENT).await.unwrap();
    assert_eq!(app.connections(), 2);
    attempt.run(PATIENT).await.unwrap();
    assert_eq!(app.connections(), 3);
    assert!(app.heads().iter().all(|head| head.to_lowercase().contains("x-mine: 1")));
}

#[tokio::test]
async fn given_auto_detection_and_an_h2c_application_then_h2c_is_enough() {
    let app = App::h2(200, None, "").await;
    let mut attempt = Attempt::new(&app.probe(GET), true);
    attempt.run(PATIENT).await.unwrap();
    attempt.run(PATIENT).await.unwrap();
    assert_eq!(app.connections(), 2);
    assert!(app.heads()[0].starts_with("/healthz") && app.heads()[0].contains("x-mine"));
}

#[tokio::test]
async fn given_a_self_signed_certificate_on_loopback_then_https_is_good() {
    let pair = rcgen::generate_simple_self_signed(["whatever".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let app = App::start("127.0.0.1:0", move |stream, app| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                app.answer_http1(stream, |_| "200 OK").await;
            }
        }
    })
    .await;
    let probe = app.probe(&GET.replace("\"HTTP\"", "\"HTTPS\""));
    try_once(&probe, true).await.unwrap();
    assert_eq!(app.heads().len(), 1);
}

#[tokio::test]
async fn given_health_services_then_only_serving_is_good() {
    let serving = App::h2(200, Some(b"\0\0\0\0\x02\x08\x01"), "0").await;
    try_once(&serving.probe(GRPC), false).await.unwrap();
    assert!(serving.heads()[0].starts_with("/grpc.health.v1.Health/Check"));

    let not_serving = App::h2(200, Some(b"\0\0\0\0\x02\x08\x02"), "0").await;
    let failure = try_once(&not_serving.probe(GRPC), false).await.unwrap_err();
    assert_eq!(failure.text, "service unhealthy (responded with \"NOT_SERVING\")");

    let unknown = App::h2(200, Some(b""), "12").await;
    let failure = try_once(&unknown.probe(GRPC), false).await.unwrap_err();
    assert!(failure.text.starts_with("this server does not implement the grpc health protocol"));
}

/// An application on ::1 only is reached too.
#[tokio::test]
async fn given_an_application_on_ipv6_loopback_only_then_it_is_reached() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        return; // a machine without IPv6
    }
    let app = App::start("[::1]:0", |_, _| async {}).await;
    try_once(&app.probe(TCP), false).await.unwrap();
}

#[tokio::test]
async fn given_no_handler_or_a_command_then_not_ready_at_once() {
    for (json, text) in [("{}", "no probe found"), (r#"{"exec":{"command":["true"]}}"#, "exec probe not supported")] {
        let probe = Probe::parse_all(json, false).unwrap().remove(0);
        assert_eq!(try_once(&probe, false).await.unwrap_err().text, text);
        // With the usual window of 10 s: a longer answer fails the test.
        let check = start(vec![probe], false);
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), check.check()).await, Ok(false));
    }
}

#[tokio::test]
async fn given_no_probe_then_always_ready() {
    assert!(start(Vec::new(), false).check().await);
}

#[tokio::test]
async fn given_many_callers_at_once_then_one_round_answers_all() {
    let app = App::http1(|_| "200 OK").await;
    let handle = start_with(vec![app.probe(GET)], false, Timing { attempt: Duration::from_secs(20), ..TIMING });
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.check().await })
        })
        .collect();
    for ask in asking {
        assert!(ask.await.unwrap());
    }
    // One round, or a few if the machine stopped in between; never one for each caller.
    assert!(app.connections() < 10, "{}", app.connections());
}

#[tokio::test]
async fn given_an_application_that_starts_later_then_the_round_under_way_finds_it() {
    let (socket, address) = closed();
    let waiting = App { port: address.port(), connections: Arc::default(), heads: Arc::default() };
    let window = Timing { window: Duration::from_secs(20), ..TIMING };
    let handle = start_with(vec![waiting.probe(TCP)], false, window);
    let asked = tokio::spawn(async move { handle.check().await });
    // The round has begun and found nothing.
    tokio::task::yield_now().await;
    assert!(!asked.is_finished());
    let _app = App::listen(open_async(socket), |_, _| async {});
    assert!(asked.await.unwrap());
}

#[tokio::test]
async fn given_a_caller_that_leaves_then_the_next_one_joins_its_round() {
    let (_socket, address) = closed();
    let nothing = App { port: address.port(), connections: Arc::default(), heads: Arc::default() };
    let handle = start_with(vec![nothing.probe(TCP)], false, short_window());
    let impatient = tokio::time::timeout(Duration::from_millis(1), handle.check()).await;
    assert!(impatient.is_err());
    assert!(!handle.check().await);
}

#[tokio::test]
async fn given_a_success_threshold_then_so_many_good_tries_are_made_once() {
    let app = App::http1(|_| "200 OK").await;
    let mut probe = app.probe(GET);
    probe.success_threshold = 3;
    let timing = Timing { window: Duration::from_secs(20), attempt: Duration::from_secs(5), ..TIMING };
    let handle = start_with(vec![probe], false, timing);
    assert!(handle.check().await);
    assert_eq!(app.connections(), 3);
}

#[tokio::test]
async fn given_standard_mode_then_a_round_is_one_try() {
    let app = App::http1(|_| "503 No").await;
    let mut probe = app.probe(GET);
    probe.period_seconds = 10;
    let handle = start(vec![probe], false);
    assert!(!handle.check().await);
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn given_several_containers_then_all_must_be_good() {
    let (good, bad) = (App::http1(|_| "200 OK").await, App::http1(|_| "500 No").await);
    let both = vec![good.probe(GET), bad.probe(GET)];
    assert!(!start_with(both, false, short_window()).check().await);
    let timing = Timing { attempt: Duration::from_secs(5), ..TIMING };
    assert!(start_with(vec![good.probe(GET), good.probe(TCP)], false, timing).check().await);
}

/// Workers have runtimes of their own.
#[tokio::test]
async fn given_a_handle_on_another_runtime_then_it_answers_there() {
    let app = App::http1(|_| "200 OK").await;
    let handle = start_with(vec![app.probe(GET)], false, Timing { attempt: Duration::from_secs(5), ..TIMING });
    let (answer, answered) = tokio::sync::oneshot::channel();
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        answer.send(runtime.block_on(handle.check()))
    });
    assert!(answered.await.unwrap());
    worker.join().unwrap().unwrap();
}
