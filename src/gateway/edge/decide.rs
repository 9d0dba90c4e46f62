//! Which way a request takes: its route, a redirect, or an answer of the gateway's own.
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Uri};

use super::way::{self, Way};
use crate::gateway::backends::Backend;
use crate::gateway::certificates;
use crate::gateway::listeners::{self, INTERNAL_HTTP, Kind};
use crate::gateway::live::Live;
use crate::gateway::route::Route;
use crate::gateway::route::table::Side;
use crate::http::body::Body;
use crate::http::call::Connection;
use crate::http::cause::Cause;
use crate::http::proxy::Prepared;
use crate::http::{Response, headers};
use crate::knative::ingress::{Visibility, hosts};

/// The host that asks about this replica itself, on the internal plain port (net-kourier's `config.InternalKourierDomain`).
const OWN_HOST: &str = "internalkourier";
/// What becomes of a request.
#[allow(clippy::large_enum_variant, reason = "it lives for a moment, in the future of one request")]
pub enum Decision {
    /// It is answered here.
    Answer(Response),
    /// It takes this way; its headers are set.
    Forward(Way),
}

/// The host that a request is for, port and case as they came.
#[must_use]
pub fn authority(head: &http::request::Parts) -> String {
    match (head.uri.authority(), head.headers.get(header::HOST)) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => host.to_str().unwrap_or_default().to_owned(),
        (None, None) => String::new(),
    }
}

/// Decides about a request and sets its headers.
///
/// # Errors
/// Why it goes nowhere.
pub fn decide(
    live: &Live,
    connection: &Connection,
    head: &mut http::request::Parts,
    host: &str,
    random: impl FnMut() -> u32,
) -> Result<Decision, Cause> {
    let listener = listeners::of(connection.port);
    if listener == INTERNAL_HTTP && hosts::normal(host) == OWN_HOST {
        return own(live, head.uri.path());
    }
    let routes = live.routes.load_full();
    let path = head.uri.path();
    let route = way::find(&routes, listener.side, host, path, &head.headers)?;
    if listener.tls {
        check_tls(live, connection, listener, host, route)?;
    } else if redirects(live, route, host) {
        return Ok(Decision::Answer(redirect(host, &head.uri)));
    }
    if let Some(protocol) = headers::upgrade(&head.headers)
        && !protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    {
        return Err(Cause::UpgradeRefused);
    }
    let way = way::follow(live, &routes, route, path, &mut head.headers, random)?;
    if let Some(host) = &way.host {
        set_host(head, host);
    }
    Ok(Decision::Forward(way))
}

/// Another way for a request that nobody took on `before`, if the routes have changed since: its upstreams may have gone
/// with the old ones. `host` is the caller's.
pub fn again(
    live: &Live,
    connection: &Connection,
    prepared: &mut Prepared,
    host: &str,
    before: Way,
    random: impl FnMut() -> u32,
) -> Option<Way> {
    if !before.is_outdated(live) {
        return None;
    }
    let listener = listeners::of(connection.port);
    if before.host.is_some() {
        prepared.set_host(HeaderValue::from_str(host).ok()?);
    }
    before.undo(prepared.headers_mut());
    let path = prepared.path().to_owned();
    let routes = live.routes.load_full();
    let route = way::find(&routes, listener.side, host, &path, prepared.headers_mut()).ok()?;
    if listener.tls {
        check_tls(live, connection, listener, host, route).ok()?;
    } else if redirects(live, route, host) {
        return None;
    }
    let way = way::follow(live, &routes, route, &path, prepared.headers_mut(), random).ok()?;
    if let Some(host) = &way.host {
        prepared.set_host(host.clone());
    }
    Some(way)
}

/// What this replica says of itself.
fn own(live: &Live, path: &str) -> Result<Decision, Cause> {
    match path {
        "/ready" if live.is_ready() => {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            Ok(Decision::Answer(response))
        }
        "/ready" => Err(Cause::Draining),
        _ => Err(Cause::NoRoute("no_route_path")),
    }
}

/// On a TLS port a route is there for hosts that have TLS, and for connections whose certificate is for the host
/// (RFC 9110 section 7.4).
fn check_tls(
    live: &Live,
    connection: &Connection,
    listener: Kind,
    host: &str,
    route: &Route<Arc<Backend>>,
) -> Result<(), Cause> {
    let names = live.certificates(listener.side).names();
    let local = listener.side == Side::Internal && route.visibility == Visibility::ExternalIp;
    let served = route.has_tls || names.find(None).is_some();
    if !served || (local && names.find(None).is_none()) {
        return Err(Cause::NoRoute("no_route_tls"));
    }
    let shown = connection.server_name.get().map(|name| &**name);
    let host = hosts::normal(host);
    if shown == Some(&*host) {
        return Ok(());
    }
    let covered = names.find(shown).is_some_and(|identity| {
        // The host's own certificate, whatever it says: the caller has judged it.
        let own = names.find(Some(&host)).is_some_and(|of_host| Arc::ptr_eq(of_host, identity));
        let wild = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        own || identity.leaf.has_name(host.as_bytes())
            || wild.is_some_and(|wild| identity.leaf.has_name(wild.as_bytes()))
    });
    // A caller who sent no name has the default certificate and knows what it is doing.
    if covered || shown.is_none() { Ok(()) } else { Err(Cause::Misdirected) }
}

/// Plain HTTP is sent to https where the object says so, once the host is served there; never on the way to an ACME
/// solver, which is how the certificate comes about.
fn redirects(live: &Live, route: &Route<Arc<Backend>>, host: &str) -> bool {
    route.origin.redirects
        && route.visibility == Visibility::ExternalIp
        && !live.never_redirect
        && !route.is_acme()
        && certificates::reaches(&live.external.names(), &hosts::normal(host), route.has_tls)
}

/// As Envoy writes it: the host as it came, less `:80`.
fn redirect(host: &str, uri: &Uri) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let location = format!("https://{}{path}", host.strip_suffix(":80").unwrap_or(host));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// The authority that the upstream sees.
fn set_host(head: &mut http::request::Parts, host: &HeaderValue) {
    head.headers.insert(header::HOST, host.clone());
    if head.method != Method::CONNECT {
        // An authority in the target would go before the header.
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or(Uri::from_static("/"), Uri::from);
    }
}
