//! Connections and requests.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lockkeeper::local::pki::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use super::state::{Audit, Resource, Selector, State};
use super::watch::{Piece, Watch};
use super::{Run, Shared};
use crate::support::port::free_port;

pub(super) fn tls(authority: &Authority) -> [Arc<rustls::ServerConfig>; 2] {
    let leaf = authority.leaf(&["kubernetes.default.svc", "localhost", "127.0.0.1"], 7).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let mut only_http1 = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    only_http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    [Arc::new(config), Arc::new(only_http1)]
}

pub(super) async fn run(
    shared: &Arc<Shared>,
    runs: &mut channel::Receiver<Run>,
    tell: &std::sync::mpsc::Sender<SocketAddr>,
) {
    // It stops and comes again: nobody else may have the port meanwhile.
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    loop {
        let wanted = *runs.borrow_and_update();
        match wanted {
            Run::Ended => return,
            Run::Stopped => {}
            Run::Serving => {
                let listener = TcpListener::bind(address).await.unwrap();
                let _ = tell.send(address);
                shared.listening.send_replace(true);
                // Dropping the set cuts every connection, and the watches of a connection end when it does.
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.unwrap();
                            connections.spawn_local(connection(Arc::clone(shared), stream));
                        }
                        _ = runs.changed() => break,
                    }
                }
            }
        }
        shared.listening.send_replace(false);
        if *runs.borrow() == Run::Stopped {
            let _ = runs.changed().await;
        }
    }
}

#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn connection(shared: Arc<Shared>, stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let config = {
        let mut state = shared.state.lock().unwrap();
        state.connections += 1;
        Arc::clone(&shared.tls[usize::from(state.only_http1)])
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let io = TokioIo::new(stream);
    let _ = match h2 {
        true => hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await,
        false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
    };
}

/// A whole body, or one that comes in pieces.
pub(super) enum Body {
    Whole(Option<Bytes>),
    Pieces(Receiver<Piece>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "message": message, "reason": reason, "code": code})
}

type Answer = Result<Reply, (u16, &'static str, String)>;

enum Reply {
    Json(u16, Value),
    Watch(Box<Watch>),
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let query: BTreeMap<String, String> =
        head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).map(decode).collect();
    let payload = payload(body).await;
    let path = head.uri.path().to_owned();
    let token = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let result = {
        let mut state = shared.state.lock().unwrap();
        respond(&mut state, &head.method, &path, &query, &token, &payload)
    };
    let code = match &result {
        Ok(Reply::Json(code, _)) | Err((code, ..)) => *code,
        Ok(Reply::Watch(_)) => 200,
    };
    let audit =
        Audit { method: head.method.to_string(), path, query, status: code, protocol: format!("{:?}", head.version) };
    shared.state.lock().unwrap().audit.push(audit);
    if head.method != Method::GET {
        shared.turn.send_modify(|turn| *turn += 1);
    }
    let body = match result {
        Ok(Reply::Json(_, value)) => Body::Whole(Some(value.to_string().into())),
        Err((code, reason, message)) => Body::Whole(Some(status(code, reason, &message).to_string().into())),
        Ok(Reply::Watch(watch)) => {
            let (to, pieces) = mpsc::channel(1);
            tokio::task::spawn_local(watch.run(Arc::clone(shared), to));
            Body::Pieces(pieces)
        }
    };
    let mut response = Response::builder().status(code).header("content-type", "application/json");
    if code == 429 {
        response = response.header("retry-after", "1");
    }
    response.body(body).unwrap()
}

fn decode((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), lockkeeper::telemetry::observability::percent_decode(value).unwrap())
}

async fn payload(mut body: Incoming) -> Value {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

fn respond(
    state: &mut State,
    method: &Method,
    path: &str,
    query: &BTreeMap<String, String>,
    token: &str,
    payload: &Value,
) -> Answer {
    if token != format!("Bearer {}", state.token) {
        return Err((401, "Unauthorized", "Unauthorized".to_owned()));
    }
    if path == "/version" {
        return Ok(Reply::Json(200, json!({"major": "1", "minor": "34", "gitVersion": state.version})));
    }
    let Some(target) = Target::parse(path) else {
        return Err((404, "NotFound", "the server could not find the requested resource".to_owned()));
    };
    let plural = target.resource.plural.clone();
    if let Some((times, code)) = state.failures.get_mut(&plural)
        && *times > 0
    {
        *times -= 1;
        return Err((*code, "InternalError", "an error on the server".to_owned()));
    }
    if state.forbidden.contains(&plural) {
        let message = format!("{plural} is forbidden: User \"test\" cannot list resource \"{plural}\"");
        return Err((403, "Forbidden", message));
    }
    match (method, &target.name) {
        (&Method::GET, None) if matches!(query.get("watch").map(String::as_str), Some("true" | "1")) => {
            watch(state, target, query)
        }
        (&Method::GET, None) => list(state, target, query),
        _ => single(state, method, &target, payload),
    }
}

/// What a path names.
struct Target {
    resource: Resource,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let api = match parts.next()? {
            "api" => parts.next()?.to_owned(),
            "apis" => format!("{}/{}", parts.next()?, parts.next()?),
            _ => return None,
        };
        let mut next = parts.next()?;
        let mut namespace = None;
        if next == "namespaces" {
            namespace = Some(parts.next()?.to_owned());
            next = parts.next()?;
        }
        let resource = Resource { api, plural: next.to_owned() };
        let mut rest = parts.map(str::to_owned);
        Some(Self { resource, namespace, name: rest.next(), subresource: rest.next() })
    }
}

fn selected(state: &State, resource: &Resource, selector: &Selector) -> Vec<Value> {
    let of_kind = state.objects.iter().filter(|((kind, ..), _)| kind == resource);
    of_kind.map(|(_, object)| object).filter(|object| selector.matches(object)).cloned().collect()
}

fn list(state: &mut State, target: Target, query: &BTreeMap<String, String>) -> Answer {
    let selector = Selector::of(target.namespace, query);
    let (version, mut items) = match query.get("continue") {
        Some(token) => state
            .pages
            .remove(token)
            .ok_or_else(|| (410, "Expired", "The provided continue parameter is too old".to_owned()))?,
        None => (state.now, selected(state, &target.resource, &selector)),
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let rest = items.split_off(limit.unwrap_or(items.len()).min(items.len()));
    let mut meta = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        let token = format!("page/{}={}", state.audit.len(), rest.len());
        meta["continue"] = token.clone().into();
        state.pages.insert(token, (version, rest));
    }
    Ok(Reply::Json(200, json!({"kind": "List", "apiVersion": target.resource.api, "metadata": meta, "items": items})))
}

fn watch(state: &mut State, target: Target, query: &BTreeMap<String, String>) -> Answer {
    let parameter = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let bookmarks = parameter("allowWatchBookmarks") == "true";
    let mut streaming = parameter("sendInitialEvents") == "true";
    if streaming && let Some(code) = state.refuse_streaming {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList \
                       feature gate is enabled";
        return Err((code, if code == 422 { "Invalid" } else { "BadRequest" }, message.to_owned()));
    }
    if streaming && (parameter("resourceVersionMatch") != "NotOlderThan" || !bookmarks) {
        return Err((422, "Invalid", "resourceVersionMatch: Forbidden".to_owned()));
    }
    streaming &= !state.ignore_streaming;
    let selector = Selector::of(target.namespace, query);
    let from = parameter("resourceVersion");
    let anew = streaming || from.is_empty() || from == "0";
    let (from, initial) = match anew {
        true => (state.now, selected(state, &target.resource, &selector)),
        false => (from.parse().map_err(|_| (400, "BadRequest", "no version".to_owned()))?, Vec::new()),
    };
    if from < state.oldest {
        return Err((410, "Expired", format!("too old resource version: {from} ({})", state.oldest)));
    }
    let seconds = parameter("timeoutSeconds").parse().unwrap_or(1800);
    let limit = Duration::from_secs(seconds);
    let resource = target.resource;
    Ok(Reply::Watch(Box::new(Watch { resource, selector, from, initial, mark_end: streaming, bookmarks, limit })))
}

fn single(state: &mut State, method: &Method, target: &Target, payload: &Value) -> Answer {
    let plural = target.resource.plural.as_str();
    let namespace = target.namespace.clone().unwrap_or_default();
    let named = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
    let name = target.name.clone().or_else(|| named(payload)).unwrap_or_default();
    let known = state.objects.get(&(target.resource.clone(), namespace.clone(), name.clone())).cloned();
    let absent = || (404, "NotFound", format!("{plural} {name:?} not found"));
    let mut new = match (method, known) {
        (&Method::POST, None) => payload.clone(),
        (&Method::POST, Some(_)) => return Err((409, "AlreadyExists", format!("{plural} {name:?} already exists"))),
        (_, None) => return Err(absent()),
        (&Method::GET, Some(known)) => return Ok(Reply::Json(200, known)),
        (&Method::DELETE, Some(known)) => {
            state.delete(plural, &namespace, &name);
            return Ok(Reply::Json(200, known));
        }
        (_, Some(mut known)) => {
            let sent = payload.pointer("/metadata/resourceVersion").filter(|version| !version.is_null());
            if sent.is_some_and(|version| *version != known["metadata"]["resourceVersion"]) {
                let message =
                    format!("Operation cannot be fulfilled on {plural} {name:?}: the object has been modified");
                return Err((409, "Conflict", message));
            }
            match (method, target.subresource.as_deref()) {
                (&Method::PATCH, _) => merge(&mut known, payload),
                (_, Some(part)) => known[part] = payload[part].clone(),
                (_, None) => known = payload.clone(),
            }
            known
        }
    };
    new["apiVersion"] = target.resource.api.clone().into();
    new["metadata"]["namespace"] = namespace.clone().into();
    state.apply(new);
    let code = if method == Method::POST { 201 } else { 200 };
    Ok(Reply::Json(code, state.object(plural, &namespace, &name).unwrap_or_default()))
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Value::Object(into) = into else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.remove(key)),
            value => merge(into.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}
