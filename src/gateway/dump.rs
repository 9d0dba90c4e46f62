//! What is in force, as JSON for people: the very table and certificates that workers read.
//!
//! Control side; `GET /config` of the admin port, to callers on loopback only, since it names every host and Service.
//! Never in it: private keys, and the values of headers that routes set.
use http::HeaderValue;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::backends::{Backend, Place, Protocol};
use super::live::Live;
use super::route::compile::HostRoutes;
use super::route::{Route, Share};
use crate::tls::identity::Identity;
use crate::tls::resolver::Names;
use crate::tls::verifier::ExpectedSan;

type Backed = std::sync::Arc<Backend>;

/// Everything, or what there is for one `host` as routes and certificates name it (`*.example.com`).
#[must_use]
pub fn config(live: &Live, host: Option<&str>) -> Value {
    let wanted = |name: &str| host.is_none_or(|host| host.eq_ignore_ascii_case(name));
    let routes = live.routes.load();
    let mut hosts: Vec<_> = routes.all().filter(|routes| wanted(&routes.host)).collect();
    hosts.sort_by(|a, b| a.host.cmp(&b.host));
    json!({
        "ready": live.is_ready(),
        "leads": live.leads(),
        "hosts": hosts.into_iter().map(|routes| host_routes(routes)).collect::<Vec<_>>(),
        "certificates": {
            "external": certificates(&live.external.names(), wanted),
            "internal": certificates(&live.internal.names(), wanted),
        },
    })
}

fn host_routes(routes: &HostRoutes<Backed>) -> Value {
    let all = |routes: &[std::sync::Arc<Route<Backed>>]| routes.iter().map(|one| route(one)).collect::<Vec<_>>();
    json!({"host": routes.host, "external": all(&routes.external), "internal": all(&routes.internal)})
}

fn route(route: &Route<Backed>) -> Value {
    let words = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let conditions = route.conditions.iter().map(|is| json!({"name": is.name.as_str(), "value": words(&is.value)}));
    json!({
        "ingress": format!("{}/{}", route.origin.namespace, route.origin.name),
        "hash": words(&route.origin.hash),
        "path": route.prefix,
        "headers": conditions.collect::<Vec<_>>(),
        "rewriteHost": route.rewrite_host.as_ref().map(words),
        "redirects": route.origin.redirects,
        "shares": route.percentages().map(|(percent, one)| share(percent, one)).collect::<Vec<_>>(),
    })
}

fn share(percent: u32, share: &Share<Backed>) -> Value {
    let state = share.backend.state();
    let upstreams = match &state.place {
        Place::NoService => Value::Null,
        Place::Name(name, port) => json!([{"name": &**name, "port": port}]),
        Place::Addresses(all) => {
            let one = |upstream: &super::backends::Upstream| json!({"address": upstream.address.to_string(), "mustProve": upstream.expected.as_ref().map(proof)});
            all.iter().map(one).collect()
        }
    };
    json!({
        "percent": percent,
        "service": format!("{}/{}:{}", share.service.namespace, share.service.name, share.service.port),
        "protocol": match state.protocol { Protocol::Http1 => "http/1.1", Protocol::Http2 => "h2" },
        "sets": share.set.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        "upstreams": upstreams,
    })
}

/// The names of which one has to be presented.
fn proof(expected: &ExpectedSan) -> Vec<String> {
    expected.names().iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn certificates(names: &Names, wanted: impl Fn(&str) -> bool) -> Value {
    let mut all: Vec<_> = names.all().filter(|(name, _)| wanted(name)).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let certificate = |identity: &Identity| {
        let leaf = &identity.leaf;
        let covers = leaf.names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        json!({
            "serial": leaf.serial,
            "issuer": leaf.issuer,
            "notAfter": leaf.not_after.format(&Rfc3339).unwrap_or_default(),
            "covers": covers.collect::<Vec<_>>(),
        })
    };
    let named = |(name, identity): (String, &std::sync::Arc<Identity>)| {
        let mut value = certificate(identity);
        value["name"] = name.into();
        value
    };
    json!({
        "default": names.find(None).map(|identity| certificate(identity)),
        "names": all.into_iter().map(named).collect::<Vec<_>>(),
    })
}
