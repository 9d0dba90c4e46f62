//! Contract, section 9: external authorisation, against real authorisers over HTTP, TLS and gRPC.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lockkeeper::gateway::authz::message::{
    Allowed, CheckRequest, CheckResponse, Denied, Flag, Header, HeaderOption, HttpStatus, Status,
};
use lockkeeper::local::app::LocalExecutor;
use prost::Message as _;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use super::harness::{Directory, Gateway, SYSTEM, app, builder, get, get_with, path, rule, simple};
use crate::support::accept::accept;
use crate::support::app::{App, ok, response};
use crate::support::client::Raw;
use crate::support::objects::{Object, config_map, trust_bundle};
use crate::support::wait::eventually;

fn asks(protocol: &str, port: u16) -> Object {
    config_map(SYSTEM, "config-kourier")
        .entry("extauthz-host", &format!("localhost:{port}"))
        .entry("extauthz-protocol", protocol)
}

/// Allows the path that ends in `/success`, and refuses all else, probes included, in words of its own.
fn http_authorizer() -> App {
    App::each(|head, _| match head.target().ends_with("/success") {
        true => ok(""),
        false => response("401 Unauthorized", &[("WWW-Authenticate", "Basic"), ("X-Why", "because")], "who are you?"),
    })
}

/// A gateway with one host and one backend, which runs already.
fn gateway(settings: Option<Object>) -> (Gateway, App) {
    let (directory, backend) = (Directory::new(), app("one"));
    let mut object = simple("hello", "a", "app");
    object["metadata"]["labels"] = json!({"team": "blue"});
    let paths = vec![path("", "app"), path("/.well-known/acme-challenge/token", "app")];
    object["spec"] = json!({"rules": [rule("ExternalIP", &["a"], paths)]});
    directory.backend("app", "http", &[backend.port()]).apply(object);
    if let Some(settings) = settings {
        directory.apply(settings);
    }
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    (gateway, backend)
}

fn post(port: u16, path: &str, headers: &str, body: &[u8]) -> crate::support::client::Reply {
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    Raw::plain(port).send([head.as_bytes(), body].concat()).reply()
}

/// net-kourier's `extauthz` over HTTP, with and without a prefix: the Ingress becomes ready although its probe would be
/// refused, ACME challenges and `/ready` are served, a refusal is the authoriser's own, and it all ends when the setting
/// does.
#[test]
fn given_an_http_authorizer_when_asked_then_it_decides_and_can_be_switched_while_the_gateway_runs() {
    let authorizer = http_authorizer();
    let (mut gateway, backend) = gateway(Some(asks("http", authorizer.port())));
    let (port, internal) = (gateway.http(), gateway.internal_http());

    let refused = get_with(port, "a", "/x?y", "Authorization: Basic eA==\r\nCookie: c\r\n");
    assert_eq!((refused.status(), refused.text().as_str()), (401, "who are you?"));
    assert_eq!((refused.header("x-why"), refused.header("server")), (Some("because"), Some("envoy")));
    let asked = authorizer.last();
    assert_eq!((asked.get("host"), asked.target(), asked.get("client")), (Some("a"), "/x?y", Some("kourier")));
    assert_eq!((asked.get("authorization"), asked.get("cookie")), (Some("Basic eA=="), None));
    assert_eq!(get(internal, "a", "/").status(), 401, "on every listener");
    assert_eq!(get(port, "a", "/success").text(), "one");
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(post(port, "/success", "", &all).status(), 200);
    assert_eq!(backend.last().get("content-length"), Some("256"), "the upstream has all of the body");
    assert_eq!(authorizer.last().get("content-length"), Some("256"));

    assert_eq!(get(port, "a", "/.well-known/acme-challenge/token").status(), 200);
    assert_eq!(get(internal, "internalkourier", "/ready").status(), 200);
    assert_eq!(get(port, "b", "/").status(), 404, "what leads nowhere is not asked about");

    // Not a probe: it would tell the application something.
    let claims = "K-Network-Probe: probe\r\nK-Network-Hash: override\r\nUser-Agent: Knative-Ingress-Probe\r\n";
    assert_eq!(get_with(port, "a", "/x?y", claims).status(), 401);
    assert_eq!(get_with(port, "a", "/x", &format!("{claims}Cookie: c\r\n")).status(), 200);
    assert_eq!(backend.last().get("cookie"), None);

    let fewer = asks("http", authorizer.port()).entry("extauthz-path-prefix", "/check");
    gateway.directory.apply(fewer.entry("extauthz-max-request-body-bytes", "100"));
    eventually("the prefix is there", || {
        post(port, "/success", "Expect: 100-continue\r\n", &all);
        authorizer.last().target() == "/check/success"
    });
    let asked = authorizer.last();
    assert_eq!((asked.get("content-length"), asked.get("x-envoy-auth-partial-body")), (Some("100"), Some("true")));
    assert_eq!(backend.last().get("content-length"), Some("256"));

    gateway.directory.apply(config_map(SYSTEM, "config-kourier"));
    eventually("nobody decides any more", || get(port, "a", "/").status() == 200);
}

/// An authoriser that fails, is slow or is not there: nothing is allowed, unless that is what was asked for.
#[test]
fn given_an_authorizer_that_gives_no_decision_when_asked_then_the_request_is_refused() {
    let failing = App::each(|_, _| response("500 Internal Server Error", &[], "mine"));
    let silent = App::start(|conn| {
        conn.request();
        conn.wait_close();
    });
    let nowhere = crate::support::port::free_port();
    let (mut gateway, _backend) = gateway(None);
    let port = gateway.http();

    for (authorizer, cause) in [
        (asks("http", failing.port()), "authorizer_failed"),
        (asks("http", silent.port()).entry("extauthz-timeout", "100"), "authorizer_timeout"),
        (asks("grpc", nowhere), "authorizer_unreachable"),
        (asks("https", failing.port()), "authorizer_unreachable"),
        (asks("grpc", failing.port()), "authorizer_unreachable"),
    ] {
        gateway.directory.apply(authorizer.clone());
        eventually(cause, || get(port, "a", "/").header("x-lockkeeper-cause") == Some(cause));
        let reply = get(port, "a", "/");
        assert_eq!((reply.status(), reply.text().as_str()), (403, ""), "{cause}");
        gateway.directory.apply(authorizer.entry("extauthz-failure-mode-allow", "true"));
        eventually("failure allows", || get(port, "a", "/").status() == 200);
    }
}

/// A ConfigMap that can't be used from the start does not open what it was to close.
#[test]
fn given_a_mistake_in_the_settings_at_the_start_when_asked_then_nothing_is_allowed_until_it_is_repaired() {
    let authorizer = http_authorizer();
    let (mut gateway, _backend) = gateway(Some(asks("tcp", authorizer.port())));
    let port = gateway.http();

    assert_eq!(get(port, "a", "/success").status(), 403);
    gateway.directory.apply(asks("http", authorizer.port()));
    eventually("it is repaired", || get(port, "a", "/success").status() == 200);
    gateway.directory.apply(asks("tcp", 1));
    gateway.binary.logs("the previous settings stay");
    assert_eq!(get(port, "a", "/success").status(), 200, "a later mistake leaves what was before");
}

/// `https` is TLS: the authoriser proves its name to the authorities that are trusted.
#[test]
fn given_an_https_authorizer_when_asked_then_it_has_to_prove_its_name() {
    let authority = super::harness::authority();
    let leaf = authority.leaf(&["localhost"], 1).unwrap();
    let (port_right, _) = serve(Some(tls(&leaf)), |_| CheckResponse::default());
    let (port_wrong, _) = serve(Some(tls(&authority.leaf(&["elsewhere"], 2).unwrap())), |_| CheckResponse::default());
    let (mut gateway, _backend) = gateway(None);
    let port = gateway.http();
    gateway.directory.apply(trust_bundle(SYSTEM, "bundle", authority.pem())).apply(asks("https", port_wrong));
    eventually("it is asked", || get(port, "a", "/").status() == 403);

    gateway.directory.apply(asks("https", port_right));

    eventually("the right one allows", || get(port, "a", "/").status() == 200);
    gateway.directory.apply(asks("https", port_wrong));
    eventually("the wrong one is refused", || get(port, "a", "/").status() == 403);
}

fn tls(leaf: &lockkeeper::local::pki::Leaf) -> rustls::ServerConfig {
    use rustls::pki_types::pem::PemObject;
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(chain.unwrap(), key).unwrap()
}

/// net-kourier's `extauthz` over gRPC: what is told, what is changed, what is refused.
#[test]
fn given_a_grpc_authorizer_when_it_answers_then_headers_change_and_refusals_are_its_own() {
    let option = |name: &str, value: &str| HeaderOption {
        header: Some(Header { key: name.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        ..HeaderOption::default()
    };
    let decide = move |question: &CheckRequest| {
        let http = question.attributes.clone().unwrap().request.unwrap().http.unwrap();
        if http.path == "/success" {
            let more = HeaderOption { append: Some(Flag { value: true }), ..option("x-list", "2") };
            let ok = Allowed {
                headers: vec![
                    option("x-user", "blue"),
                    more,
                    option("host", "elsewhere"),
                    option("content-length", "1"),
                ],
                headers_to_remove: vec!["authorization".to_owned(), "host".to_owned()],
                response_headers: vec![option("x-checked", "yes")],
            };
            return CheckResponse { status: Some(Status { code: 0 }), ok: Some(ok), denied: None };
        }
        let denied = (http.path == "/told").then(|| Denied {
            status: Some(HttpStatus { code: 429 }),
            headers: vec![option("retry-after", "7")],
            body: "too much".to_owned(),
        });
        CheckResponse { status: Some(Status { code: 7 }), ok: None, denied }
    };
    let (authorizer, questions) = serve(None, decide);
    let (mut gateway, backend) = gateway(Some(asks("grpc", authorizer)));
    let port = gateway.http();
    let all: Vec<u8> = (0..=255).collect();

    let headers =
        "Authorization: secret\r\nX-User: me\r\nX-List: 1\r\nX-Two: a\r\nX-Two: b\r\nX-Forwarded-For: 192.0.2.1\r\n";
    let reply = post(port, "/success", headers, &all);

    assert_eq!((reply.status(), reply.text().as_str(), reply.header("x-checked")), (200, "one", Some("yes")));
    let seen = backend.last();
    assert_eq!((seen.all("x-user"), seen.all("x-list")), (vec!["blue"], vec!["1", "2"]));
    assert_eq!((seen.get("authorization"), seen.get("host")), (None, Some("a")));
    assert_eq!(seen.get("content-length"), Some("256"));
    let question = questions.recv().unwrap().attributes.unwrap();
    let http = question.request.unwrap().http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_str()), ("POST", "/success", "a"));
    assert_eq!((http.scheme.as_str(), http.protocol.as_str(), http.size), ("http", "HTTP/1.1", 256));
    assert_eq!(http.body, String::from_utf8_lossy(&all));
    assert_eq!((http.headers["x-two"].as_str(), http.headers[":path"].as_str()), ("a,b", "/success"));
    let extensions = question.context_extensions;
    assert_eq!(
        (&*extensions["client"], &*extensions["visibility"], &*extensions["team"]),
        ("kourier", "ExternalIP", "blue")
    );
    assert_eq!(question.source.unwrap().address.unwrap().socket_address.unwrap().address, "127.0.0.1");

    assert_eq!((get(port, "a", "/").status(), get(port, "a", "/").text().as_str()), (403, ""));
    let told = get(port, "a", "/told");
    assert_eq!((told.status(), told.header("retry-after"), told.text().as_str()), (429, Some("7"), "too much"));

    gateway.directory.apply(asks("grpc", authorizer).entry("extauthz-pack-as-bytes", "true"));
    eventually("the body comes as bytes", || {
        while questions.try_recv().is_ok() {}
        assert_eq!(post(port, "/success", "", &all).status(), 200);
        let http = questions.recv().unwrap().attributes.unwrap().request.unwrap().http.unwrap();
        http.raw_body == all && http.body.is_empty()
    });
}

/// An authoriser: gRPC over HTTP/2 in plaintext, or over TLS one that allows everything over HTTP/1.1.
fn serve(
    tls: Option<rustls::ServerConfig>,
    decide: impl Fn(&CheckRequest) -> CheckResponse + Clone + Send + 'static,
) -> (u16, Receiver<CheckRequest>) {
    let (sender, seen) = channel();
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let port = accept(move |socket| {
        let (acceptor, sender, decide) = (acceptor.clone(), sender.clone(), decide.clone());
        async move {
            if let Some(acceptor) = acceptor {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(String::new())) });
                let server = hyper::server::conn::http1::Builder::new();
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                return;
            }
            let service = service_fn(move |request: Request<Incoming>| {
                let (sender, decide) = (sender.clone(), decide.clone());
                async move {
                    assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
                    assert_eq!(request.headers()["client"], "kourier");
                    let bytes = all_of(request.into_body()).await;
                    let question = CheckRequest::decode(&bytes[5..]).unwrap();
                    let answer = decide(&question).encode_to_vec();
                    let _ = sender.send(question);
                    let mut framed = vec![0];
                    framed.extend(u32::try_from(answer.len()).unwrap().to_be_bytes());
                    framed.extend(answer);
                    let response = Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(response.body(Grpc(Some(framed.into()), true)).unwrap())
                }
            });
            let server = hyper::server::conn::http2::Builder::new(LocalExecutor);
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        }
    });
    (port, seen)
}

async fn all_of(body: Incoming) -> Vec<u8> {
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        bytes.extend(frame.into_data().unwrap_or_default());
    }
    bytes
}

/// A message and `grpc-status: 0` as a trailer.
struct Grpc(Option<Bytes>, bool);

impl http_body::Body for Grpc {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let trailers =
            || Frame::trailers(http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]));
        std::task::Poll::Ready(match self.0.take() {
            Some(data) => Some(Ok(Frame::data(data))),
            None => std::mem::take(&mut self.1).then(|| Ok(trailers())),
        })
    }
}
