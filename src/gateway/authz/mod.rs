//! External authorisation: an HTTP or gRPC service decides about each request before it is sent on.
//!
//! Control side: [`settings`] are read from `config-kourier` (or the environment) and become an [`check::Authorizer`] in
//! [`crate::gateway::live`], at run time. Data side: [`ahead`] reads the beginning of a body, [`check`] asks and changes
//! the request as it is told; [`message`] is the part of Envoy's protocol that is spoken.
//!
//! Invariants: a request that the authoriser did not allow reaches no upstream; an authoriser that fails is a refusal,
//! unless `extauthz-failure-mode-allow` says otherwise. Without an authoriser the cost is one atomic load.
//!
//! Not asked about: answers of the gateway's own (404, redirects, `/ready`), routes to ACME solvers, which must be reached
//! without credentials, and the probes by which an Ingress becomes ready. What passes as such a probe is a `GET` without
//! a query and without a body, and everything is taken off it but what makes it a probe: the activator and the queue
//! answer it, and no application is told anything by it.
//!
//! Source: Envoy's `ext_authz` filter as net-kourier's `pkg/reconciler/ingress/config/ext_authz.go` sets it.
pub mod ahead;
pub mod check;
pub mod message;
pub mod settings;

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{HeaderValue, Method};

use crate::knative::names;

/// Whether a request is a probe of Knative's; if it is, it has lost all that a probe does not need.
pub fn is_probe(head: &mut Parts, body_ended: bool) -> bool {
    let has = |name, value: &str| head.headers.get(name).is_some_and(|v| v.as_bytes() == value.as_bytes());
    let probe = has(names::NETWORK_PROBE, names::PROBE_VALUE)
        && has(names::NETWORK_HASH, names::HASH_OVERRIDE)
        && has(header::USER_AGENT, names::INGRESS_AGENT)
        && head.method == Method::GET
        && head.uri.query().is_none()
        && body_ended;
    if probe {
        let mut bare = HeaderMap::with_capacity(4);
        bare.insert(names::NETWORK_PROBE, HeaderValue::from_static(names::PROBE_VALUE));
        bare.insert(names::NETWORK_HASH, HeaderValue::from_static(names::HASH_OVERRIDE));
        bare.insert(header::USER_AGENT, HeaderValue::from_static(names::INGRESS_AGENT));
        if let Some(host) = head.headers.get(header::HOST) {
            bare.insert(header::HOST, host.clone());
        }
        head.headers = bare;
    }
    probe
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_a_request_that_claims_to_be_a_probe_when_looked_at_then_it_keeps_nothing_to_say() {
        let head = |method: &str, target: &str| {
            let request = http::Request::builder().method(method).uri(target);
            let request = request
                .header("k-network-probe", "probe")
                .header("k-network-hash", "override")
                .header("user-agent", "Knative-Ingress-Probe")
                .header("host", "a")
                .header("cookie", "secret");
            request.body(()).unwrap().into_parts().0
        };

        let mut probe = head("GET", "/healthz");
        assert!(is_probe(&mut probe, true));
        assert_eq!((probe.headers.len(), probe.headers.get("cookie")), (4, None));
        assert!(!is_probe(&mut head("GET", "/healthz"), false), "it has a body");
        assert!(!is_probe(&mut head("GET", "/healthz?x"), true));
        assert!(!is_probe(&mut head("POST", "/healthz"), true));
        let mut other = head("GET", "/healthz");
        other.headers.insert("k-network-hash", HeaderValue::from_static("0123"));
        assert!(!is_probe(&mut other, true));
    }
}
