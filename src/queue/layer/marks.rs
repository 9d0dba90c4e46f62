//! Which of the headers that concern the queue a request has.
//!
//! Found once, in one pass, by the outermost layer; the layers below look only for what is there. Each look into the map
//! costs more than a pass over the few lines of a usual request.

use http::{HeaderMap, HeaderValue, header};

use crate::http::call::Call;
use crate::knative::names;

/// A set of kinds of headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u32);

impl Marks {
    /// `K-Network-Probe`, `K-Kubelet-Probe`, or the user agent of a prober.
    pub const PROBE: Self = Self(1);
    /// `Forwarded` or one of `X-Forwarded-*`.
    pub const FORWARDED: Self = Self(1 << 1);
    /// `Knative-Serving-Namespace`, `Knative-Serving-Revision`.
    pub const REVISION: Self = Self(1 << 2);
    /// `K-Proxy-Request`.
    pub const PROXIED: Self = Self(1 << 3);
    /// `K-Original-Host`.
    pub const ORIGINAL_HOST: Self = Self(1 << 4);
    /// The two headers of a route's tag.
    pub const TAG: Self = Self(1 << 5);

    /// Looks at all lines of a request.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        headers.iter().fold(Self::default(), |marks, (name, value)| match *name {
            header::USER_AGENT => marks.and(Self::PROBE, is_prober(value)),
            header::FORWARDED => marks.and(Self::FORWARDED, true),
            _ => {
                let text = name.as_str();
                match text.as_bytes().first() {
                    Some(b'x') => marks.and(Self::FORWARDED, text.starts_with("x-forwarded-")),
                    Some(b'k') => marks
                        .and(Self::PROBE, *name == names::NETWORK_PROBE || *name == names::KUBELET_PROBE)
                        .and(Self::REVISION, *name == names::REVISION_NAME || *name == names::REVISION_NAMESPACE)
                        .and(Self::PROXIED, *name == names::PROXY_REQUEST)
                        .and(Self::ORIGINAL_HOST, *name == names::ORIGINAL_HOST)
                        .and(Self::TAG, *name == names::ROUTE_TAG || *name == names::DEFAULT_ROUTE),
                    _ => marks,
                }
            }
        })
    }

    /// The marks that the outermost layer has left with `call`.
    #[must_use]
    pub fn left(call: &Call) -> Self {
        Self(call.marks.get())
    }

    /// Leaves them with `call` for the layers below.
    pub fn leave(self, call: &Call) {
        call.marks.set(self.0);
    }

    /// Whether `kind` is there.
    #[must_use]
    pub fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }

    fn and(self, kind: Self, there: bool) -> Self {
        if there { Self(self.0 | kind.0) } else { self }
    }
}

fn is_prober(agent: &HeaderValue) -> bool {
    [names::KUBE_PROBE_AGENT, names::ACTIVATOR_AGENT, names::AUTOSCALING_AGENT]
        .iter()
        .any(|prefix| agent.as_bytes().starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::HeaderName;

    #[test]
    fn given_each_header_that_a_layer_looks_for_when_marked_then_its_kind_is_there_alone() {
        let cases = [
            ("k-network-probe", "queue", Marks::PROBE),
            ("k-kubelet-probe", "1", Marks::PROBE),
            ("user-agent", "kube-probe/1.30", Marks::PROBE),
            ("user-agent", "Knative-Activator-Probe", Marks::PROBE),
            ("user-agent", "Knative-Autoscaling-Probe", Marks::PROBE),
            ("forwarded", "for=1.1.1.1", Marks::FORWARDED),
            ("x-forwarded-for", "1.1.1.1", Marks::FORWARDED),
            ("x-forwarded-host", "a", Marks::FORWARDED),
            ("x-forwarded-proto", "http", Marks::FORWARDED),
            ("knative-serving-revision", "r", Marks::REVISION),
            ("knative-serving-namespace", "n", Marks::REVISION),
            ("k-proxy-request", "activator", Marks::PROXIED),
            ("k-original-host", "h", Marks::ORIGINAL_HOST),
            ("knative-serving-tag", "t", Marks::TAG),
            ("knative-serving-default-route", "true", Marks::TAG),
            ("user-agent", "curl/8", Marks::default()),
            ("x-request-id", "1", Marks::default()),
        ];
        for (name, value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert_eq!(Marks::of(&headers), expected, "{name}: {value}");
        }
    }
}
