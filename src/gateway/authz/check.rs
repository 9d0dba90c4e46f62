//! Asks the authoriser about one request. Data side.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, StatusCode, Version};
use http_body::Body as _;
use prost::Message as _;

use super::ahead::{self, Beginning};
use super::message::{self, Attributes, CheckRequest, CheckResponse, HeaderOption};
use super::settings::{Protocol, Settings};
use crate::gateway::backends::Backend;
use crate::gateway::route::Route;
use crate::http::body::Body;
use crate::http::call::{Call, Connection};
use crate::http::cause::Cause;
use crate::http::dial::Tls;
use crate::http::headers;
use crate::http::inbound::Inbound;
use crate::http::pools::Pools;
use crate::http::proxy::{ForwardedFor, Prepared, Replay};
use crate::http::{Request, Response};
use crate::knative::ingress::Visibility;
use crate::tls::client::{Connector, Sni};
use crate::tls::policy::Policy;
use crate::tls::trust;
use crate::tls::verifier::ExpectedSan;

/// Bytes of a gRPC answer that are read.
const MOST_GRPC: usize = 64 * 1024;
/// Bytes of an HTTP answer that are read: it is given to the caller whole.
const MOST_HTTP: usize = 1024 * 1024;
/// Where gRPC's method is.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Whether the body that the authoriser sees is not all of it (Envoy).
const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// By which Kourier tells who asks.
const CLIENT: (HeaderName, HeaderValue) = (HeaderName::from_static("client"), HeaderValue::from_static("kourier"));
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// An authoriser in use: its settings and, for `https`, what shakes hands with it.
#[derive(Debug)]
pub struct Authorizer {
    /// How it is asked.
    pub settings: Settings,
    /// Its name as the one to look up.
    pub name: Arc<str>,
    authority: HeaderValue,
    way: Way,
}

/// How connections to it are made.
#[derive(Debug)]
enum Way {
    Plain,
    Tls(Arc<Connector>, Arc<trust::Store>),
    /// Not at all: there will be no decision.
    None,
}

/// What was decided.
pub enum Verdict {
    /// The request goes on; these headers are set on its response.
    Allowed(Vec<HeaderOption>),
    /// The caller gets this.
    Denied(Box<Response>),
}

impl Authorizer {
    /// An authoriser that has to prove its name, over `https`, to the authorities in `trust`.
    #[must_use]
    pub fn new(settings: Settings, trust: &Arc<trust::Store>) -> Self {
        let host = if settings.host.contains(':') { format!("[{}]", settings.host) } else { settings.host.clone() };
        let authority = HeaderValue::try_from(format!("{host}:{}", settings.port));
        let way = match settings.protocol {
            Protocol::Https => tls(&settings.host, trust).unwrap_or_else(|error| {
                tracing::error!("config-kourier: extauthz-host={:?}: {error}: no request is allowed", settings.host);
                Way::None
            }),
            Protocol::Grpc | Protocol::Http => Way::Plain,
        };
        let authority = authority.unwrap_or(HeaderValue::from_static("unknown"));
        Self { name: settings.host.as_str().into(), authority, settings, way }
    }

    /// Asks at `address` whether a request may take its route, and changes it as the answer says.
    ///
    /// # Errors
    /// The caller's body can't be read, or there was no decision and none means no.
    pub async fn check(
        &self,
        request: &mut Request,
        host: &str,
        route: &Route<Arc<Backend>>,
        address: impl Future<Output = Option<SocketAddr>>,
        pools: &Pools,
    ) -> Result<Verdict, Cause> {
        let beginning = ahead::read(request, self.settings.max_body).await?;
        let ask = async {
            let address = address.await.ok_or("authorizer_unknown")?;
            match self.settings.protocol {
                Protocol::Grpc => self.ask_grpc(request, host, route, &beginning, address, pools).await,
                Protocol::Http | Protocol::Https => self.ask_http(request, host, beginning, address, pools).await,
            }
        };
        let answer = match tokio::time::timeout(self.settings.timeout, Box::pin(ask)).await {
            Ok(answer) => answer,
            Err(_) => Err("authorizer_timeout"),
        };
        match answer {
            Ok(Answer::Allowed { set, remove, response }) => {
                let headers = &mut request.head.headers;
                for name in remove.iter().filter_map(|name| message::settable(name)) {
                    headers.remove(name);
                }
                set.iter().for_each(|option| option.apply(headers));
                Ok(Verdict::Allowed(response))
            }
            Ok(Answer::Denied(denied)) => Ok(Verdict::Denied(Box::new(for_caller(denied, request)))),
            Err(why) => {
                tracing::debug!(authorizer = %self.name, why, "no decision about a request");
                if self.settings.failure_mode_allow {
                    Ok(Verdict::Allowed(Vec::new()))
                } else {
                    Err(Cause::Undecided(why))
                }
            }
        }
    }

    /// The request as it is, less what Envoy leaves out by default: only `Authorization` is told of its headers.
    async fn ask_http(
        &self,
        request: &Request,
        host: &str,
        beginning: Beginning,
        address: SocketAddr,
        pools: &Pools,
    ) -> Result<Answer, &'static str> {
        let path = request.head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = format!("{}{path}", self.settings.path_prefix);
        let mut head = empty_head(request.head.method.clone(), Version::HTTP_11, path.parse().map_err(|_| BAD)?);
        head.headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| BAD)?);
        head.headers.insert(CLIENT.0, CLIENT.1);
        for value in request.head.headers.get_all(header::AUTHORIZATION) {
            head.headers.append(header::AUTHORIZATION, value.clone());
        }
        head.headers.insert(PARTIAL, HeaderValue::from_static(if beginning.partial { "true" } else { "false" }));
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(beginning.bytes.len()));
        let response = self.send(request, head, beginning.bytes.into(), address, pools).await?;
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            return Ok(Answer::Allowed { set: Vec::new(), remove: Vec::new(), response: Vec::new() });
        }
        if head.status.is_server_error() {
            return Err("authorizer_failed");
        }
        let (body, _) = read(body, MOST_HTTP).await?;
        let mut denied = http::Response::new(body);
        *denied.status_mut() = head.status;
        *denied.headers_mut() = head.headers;
        Ok(Answer::Denied(denied))
    }

    async fn ask_grpc(
        &self,
        request: &Request,
        host: &str,
        route: &Route<Arc<Backend>>,
        beginning: &Beginning,
        address: SocketAddr,
        pools: &Pools,
    ) -> Result<Answer, &'static str> {
        let question = self.question(request, host, route, beginning).encode_to_vec();
        let mut framed = Vec::with_capacity(question.len() + 5);
        framed.push(0);
        framed.extend(u32::try_from(question.len()).map_err(|_| BAD)?.to_be_bytes());
        framed.extend(question);
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::try_from(self.authority.as_bytes()).map_err(|_| BAD)?);
        uri.path_and_query = Some(PathAndQuery::from_static(CHECK));
        let mut head = empty_head(Method::POST, Version::HTTP_2, Uri::from_parts(uri).map_err(|_| BAD)?);
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        head.headers.insert(CLIENT.0, CLIENT.1);
        let limit = format!("{}m", self.settings.timeout.as_millis());
        head.headers.insert("grpc-timeout", HeaderValue::try_from(limit).map_err(|_| BAD)?);
        let response = self.send(request, head, framed.into(), address, pools).await?;
        let (head, body) = response.into_parts();
        let (body, trailers) = read(body, MOST_GRPC).await?;
        let status = trailers.get(GRPC_STATUS).or_else(|| head.headers.get(GRPC_STATUS));
        if head.status != StatusCode::OK || status.is_none_or(|status| status != "0") {
            return Err("authorizer_failed");
        }
        // One message, not compressed, since no coding was offered.
        let message = body.get(5..).filter(|_| body.first() == Some(&0)).ok_or(BAD)?;
        let answer = CheckResponse::decode(message).map_err(|_| BAD)?;
        if answer.status.is_none_or(|status| status.code == 0) {
            let ok = answer.ok.unwrap_or_default();
            return Ok(Answer::Allowed {
                set: ok.headers,
                remove: ok.headers_to_remove,
                response: ok.response_headers,
            });
        }
        let told = answer.denied.unwrap_or_default();
        let mut denied = http::Response::new(Bytes::from(told.body));
        let code = told.status.and_then(|status| u16::try_from(status.code).ok()).filter(|code| *code >= 200);
        *denied.status_mut() = code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN);
        told.headers.iter().for_each(|option| option.apply(denied.headers_mut()));
        Ok(Answer::Denied(denied))
    }

    fn question(
        &self,
        request: &Request,
        host: &str,
        route: &Route<Arc<Backend>>,
        beginning: &Beginning,
    ) -> CheckRequest {
        let Request { head, call, .. } = request;
        let text = |name: &HeaderName| {
            head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let scheme = if call.connection.tls { "https" } else { "http" };
        let mut headers: std::collections::HashMap<String, String> = [
            (":method", head.method.as_str()),
            (":path", path),
            (":authority", host),
            (":scheme", scheme),
            (PARTIAL.as_str(), if beginning.partial { "true" } else { "false" }),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for name in head.headers.keys().filter(|name| **name != header::HOST) {
            let lines = head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            headers.insert(name.as_str().to_owned(), lines.collect::<Vec<_>>().join(","));
        }
        let (body, raw_body) = match self.settings.pack_as_bytes {
            true => (String::new(), beginning.bytes.clone()),
            false => (String::from_utf8_lossy(&beginning.bytes).into_owned(), Vec::new()),
        };
        let http = message::HttpRequest {
            id: text(&HeaderName::from_static("x-request-id")).unwrap_or_default(),
            method: head.method.as_str().to_owned(),
            headers,
            path: path.to_owned(),
            host: host.to_owned(),
            scheme: scheme.to_owned(),
            size: text(&header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(-1),
            protocol: if call.connection.h2.get() { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
            body,
            raw_body,
        };
        let peer = call.connection.peer;
        let socket = message::SocketAddress { address: peer.ip().to_string(), port: peer.port().into() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = message::Timestamp {
            seconds: i64::try_from(now.as_secs()).unwrap_or(0),
            nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
        };
        let visibility = match route.visibility {
            Visibility::ExternalIp => "ExternalIP",
            Visibility::ClusterLocal => "ClusterLocal",
        };
        let mut context_extensions: std::collections::HashMap<_, _> =
            route.origin.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        context_extensions.insert("client".to_owned(), "kourier".to_owned());
        context_extensions.insert("visibility".to_owned(), visibility.to_owned());
        CheckRequest {
            attributes: Some(Attributes {
                source: Some(message::Peer { address: Some(message::Address { socket_address: Some(socket) }) }),
                request: Some(message::Request { time: Some(time), http: Some(http) }),
                context_extensions,
            }),
        }
    }

    async fn send(
        &self,
        about: &Request,
        head: Parts,
        body: Bytes,
        address: SocketAddr,
        pools: &Pools,
    ) -> Result<Response, &'static str> {
        let tls = match &self.way {
            Way::Plain => None,
            Way::Tls(connector, trust) => Some(Tls {
                connector: connector.clone(),
                trust: trust.clone(),
                expected: ExpectedSan::new(&self.settings.host),
            }),
            Way::None => return Err("authorizer_unknown"),
        };
        let pool = pools.pool(address, tls.as_ref());
        // A connection of its own on paper: what the authoriser says must not get into the caller's.
        let of = &about.call.connection;
        let call = Rc::new(Call::new(Rc::new(Connection::new(of.peer, of.tls, of.port)), Instant::now()));
        let request = Request { head: Box::new(head), body: Inbound::whole(body), call };
        let prepared = Prepared::with(request, Replay::Any, ForwardedFor::Leave).map_err(|_| BAD)?;
        prepared.send_over(&pool, self.settings.protocol == Protocol::Grpc).await.map_err(|_| "authorizer_unreachable")
    }
}

fn tls(host: &str, trust: &Arc<trust::Store>) -> Result<Way, String> {
    // It may be a service from outside the cluster.
    let policy = Policy::parse("", Some("1.2"), None, None, None).map_err(|error| error.to_string())?;
    let sni = Sni::fixed(host).map_err(|error| error.to_string())?;
    let connector = Connector::new(&policy, trust.clone()).sni(sni);
    Ok(Way::Tls(Arc::new(connector), trust.clone()))
}

/// The answer is not one.
const BAD: &str = "authorizer_malformed";

enum Answer {
    Allowed { set: Vec<HeaderOption>, remove: Vec<String>, response: Vec<HeaderOption> },
    Denied(http::Response<Bytes>),
}

fn empty_head(method: Method, version: Version, uri: Uri) -> Parts {
    let (mut head, ()) = http::Request::new(()).into_parts();
    (head.method, head.version, head.uri) = (method, version, uri);
    head
}

async fn read(mut body: Body, most: usize) -> Result<(Bytes, HeaderMap), &'static str> {
    let (mut all, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await {
        match frame.map_err(|_| "authorizer_unreachable")?.into_data() {
            Ok(data) if all.len() + data.len() > most => return Err(BAD),
            Ok(data) => all.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok((all.into(), trailers))
}

/// The authoriser's answer as one of ours: its framing is its own affair, and a gRPC caller is told in gRPC's way.
fn for_caller(denied: http::Response<Bytes>, request: &Request) -> Response {
    let call = &request.call;
    let (mut head, body) = denied.into_parts();
    let has = headers::Has::of(&head.headers);
    headers::strip_hop_by_hop(&mut head.headers, has);
    head.version = Version::HTTP_11;
    head.headers.remove(header::CONTENT_LENGTH);
    call.cause.set(Some(DENIED));
    if call.grpc.get() {
        let status = match head.status {
            StatusCode::BAD_REQUEST => "13",
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::NOT_FOUND => "12",
            StatusCode::TOO_MANY_REQUESTS => "14",
            _ => "2",
        };
        head.status = StatusCode::OK;
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
        if let Ok(message) = HeaderValue::from_bytes(&body) {
            head.headers.insert("grpc-message", message);
        }
        return Response::from_parts(head, Body::empty());
    }
    let body = if request.head.method == Method::HEAD { Bytes::new() } else { body };
    if body.is_empty() {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if !call.request_ended.get() && !call.connection.h2.get() {
        // The rest of the request's body will not be read: the connection cannot be used again.
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(head, Body::full(body))
}

/// The token of a request that the authoriser refused.
pub const DENIED: &str = "denied";
