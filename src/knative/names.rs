//! Header names, user agents, certificate names and ports that Knative's components agree on.
//!
//! Used by every role, on both sides. Constants only. Each group says the Go file that it comes from (paths under
//! `knative.dev/networking/` and `knative.dev/serving/`).
use http::HeaderName;

// networking/pkg/http/header/header.go

/// `K-Network-Probe`: asks a component of the data plane to answer by itself.
pub const NETWORK_PROBE: HeaderName = HeaderName::from_static("k-network-probe");
/// `K-Network-Hash`: echoed in the answer to a hash probe; says which routes are in force.
pub const NETWORK_HASH: HeaderName = HeaderName::from_static("k-network-hash");
/// `K-Kubelet-Probe`: an old mark of kubelet's probes when a mesh rewrote their user agent.
pub const KUBELET_PROBE: HeaderName = HeaderName::from_static("k-kubelet-probe");
/// `K-Proxy-Request`: set by the activator (to [`PROXY_REQUEST_ACTIVATOR`]) on what passes through it.
pub const PROXY_REQUEST: HeaderName = HeaderName::from_static("k-proxy-request");
/// `K-Original-Host`: the caller's Host, put back by the queue.
pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static("k-original-host");
/// `Knative-Serving-Tag`: the tag of the route that the ingress chose.
pub const ROUTE_TAG: HeaderName = HeaderName::from_static("knative-serving-tag");
/// `Knative-Serving-Default-Route`: `true` if the route without a tag was chosen.
pub const DEFAULT_ROUTE: HeaderName = HeaderName::from_static("knative-serving-default-route");
/// `K-Passthrough-Lb`: asks load balancers to send the request to its very target.
pub const PASSTHROUGH_LB: HeaderName = HeaderName::from_static("k-passthrough-lb");

/// Value of [`NETWORK_PROBE`] that asks for the hash.
pub const PROBE_VALUE: &str = "probe";
/// Value of [`NETWORK_HASH`] that asks an ingress to put its own hash in.
pub const HASH_OVERRIDE: &str = "override";
/// Start of kubelet's user agent: `kube-probe/1.33`.
pub const KUBE_PROBE_AGENT: &str = "kube-probe/";
/// User agent of the activator's probes.
pub const ACTIVATOR_AGENT: &str = "Knative-Activator-Probe";
/// User agent of the autoscaler's probes.
pub const AUTOSCALING_AGENT: &str = "Knative-Autoscaling-Probe";
/// User agent of the queue's own probes.
pub const QUEUE_AGENT: &str = "Knative-Queue-Proxy-Probe";
/// User agent of the ingress controller's probes.
pub const INGRESS_AGENT: &str = "Knative-Ingress-Probe";
/// Content type of the statistics for the autoscaler.
pub const PROTOBUF: &str = "application/protobuf";

// serving/pkg/queue/constants.go, serving/pkg/activator/activator.go

/// Value of [`NETWORK_PROBE`] for the queue, and its answer's body.
pub const PROBE_QUEUE: &str = "queue";
/// Value of [`NETWORK_PROBE`] for the activator, and its answer's body.
pub const PROBE_ACTIVATOR: &str = "activator";
/// Value of [`PROXY_REQUEST`] that counts as proxied.
pub const PROXY_REQUEST_ACTIVATOR: &str = "activator";
/// Header with which a gateway names the revision's namespace to the activator.
pub const REVISION_NAMESPACE: HeaderName = HeaderName::from_static("knative-serving-namespace");
/// Header with which a gateway names the revision to the activator.
pub const REVISION_NAME: HeaderName = HeaderName::from_static("knative-serving-revision");
/// Path of the admin port that holds a user container's pre-stop hook until the drain ends.
pub const DRAIN_PATH: &str = "/wait-for-drain";
/// Directory of the queue's certificate.
pub const QUEUE_CERTIFICATES: &str = "/var/lib/knative/certs";

// networking/pkg/certificates/constants.go

/// Name in the certificates of the activator and the gateway.
pub const SAN_ROUTING: &str = "kn-routing";
/// Name in all certificates of older releases; the Go activator still sends it as SNI.
pub const SAN_LEGACY: &str = "data-plane.knative.dev";
/// File of trusted certificates in a certificate directory or Secret.
pub const FILE_CA: &str = "ca.crt";
/// File of the certificate chain.
pub const FILE_CERTIFICATE: &str = "tls.crt";
/// File of the private key.
pub const FILE_KEY: &str = "tls.key";

/// Name in the certificates of the queues of a namespace: `kn-user-` and the namespace in lower case.
///
/// It may be longer than a DNS label: compare it as bytes.
pub fn san_user(namespace: &str) -> String {
    format!("kn-user-{}", namespace.to_lowercase())
}

/// The namespace in a name that [`san_user`] made.
pub fn namespace_of(san: &str) -> Option<&str> {
    san.strip_prefix("kn-user-").filter(|namespace| !namespace.is_empty())
}

/// A namespace as Kubernetes allows it, RFC 1123's label, as an argument gives it.
///
/// # Errors
/// What was expected.
pub fn namespace(text: &str) -> Result<String, String> {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    match ends && (1..=63).contains(&text.len()) && text.as_bytes().iter().all(inner) {
        true => Ok(text.to_owned()),
        false => Err("expected a namespace: 1 to 63 of a-z, 0-9 and -, none of - at either end".to_owned()),
    }
}

// serving/pkg/networking/constants.go

/// Queue: main server of an HTTP/1 revision.
pub const PORT_HTTP1: u16 = 8012;
/// Queue: main server of an HTTP/2 revision.
pub const PORT_HTTP2: u16 = 8013;
/// Queue: TLS server.
pub const PORT_HTTPS: u16 = 8112;
/// Queue: admin server (pre-stop hooks).
pub const PORT_ADMIN: u16 = 8022;
/// Queue: statistics for the autoscaler.
pub const PORT_STATISTICS: u16 = 9090;
/// Queue: Prometheus metrics of requests.
pub const PORT_METRICS: u16 = 9091;
/// Autoscaler: WebSocket server for statistics.
pub const PORT_AUTOSCALER: u16 = 8080;
/// Service of the system namespace: HTTPS port, and that of a revision's private Service.
pub const PORT_SERVICE_HTTPS: u16 = 443;
/// Profiling server of every component (`knative.dev/pkg/observability/runtime/profiling.go`).
pub const PORT_PROFILING: u16 = 8008;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_namespace_in_mixed_case_then_the_san_is_lower_case() {
        assert_eq!(san_user("Demo-NS"), "kn-user-demo-ns");
    }

    #[test]
    fn given_arguments_when_they_are_no_namespaces_then_they_are_refused() {
        let longest = "n".repeat(63);
        for good in ["a", "demo-2", longest.as_str()] {
            assert_eq!(namespace(good).as_deref(), Ok(good));
        }
        for bad in ["", "Demo", "a.b", "-a", "a-", "a b", "\u{e4}", &"n".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad:?}");
        }
    }
}
