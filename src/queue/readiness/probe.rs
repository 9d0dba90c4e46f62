//! `SERVING_READINESS_PROBE`: Kubernetes' `Probe` as JSON, the part that a queue uses.
//!
//! Parsed by `queue::config`, once. Unknown fields are ignored and `null` fields count as absent, as in Go.
//! Source: `k8s.io/api/core/v1` (`Probe`), `knative.dev/serving/pkg/queue/readiness/probe_encoding.go`.
use serde::Deserialize;
use serde::de::{self, Deserializer};

/// One probe of one container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// `GET` a path.
    pub http_get: Option<HttpGet>,
    /// Connect.
    pub tcp_socket: Option<TcpSocket>,
    /// Ask the gRPC health service.
    pub grpc: Option<Grpc>,
    /// Run a command: cannot be done from another container, always fails.
    pub exec: Option<de::IgnoredAny>,
    /// Seconds that one try may take in standard mode; 0: no limit.
    #[serde(default, deserialize_with = "null_as_default")]
    pub timeout_seconds: i32,
    /// 0: aggressive mode, else standard mode (kubelet asks at this interval).
    #[serde(default, deserialize_with = "null_as_default")]
    pub period_seconds: i32,
    /// Good tries in a row that make the application ready, in aggressive mode; 0 counts as 1.
    #[serde(default, deserialize_with = "null_as_default")]
    pub success_threshold: i32,
}

/// An HTTP try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// Path and query; `/` is put before it if it does not start with one.
    #[serde(default, deserialize_with = "null_as_default")]
    pub path: String,
    /// Port.
    #[serde(default, deserialize_with = "null_as_default")]
    pub port: Port,
    /// Host; the controller always writes `127.0.0.1`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub host: String,
    /// `HTTP` or `HTTPS`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub scheme: String,
    /// Headers to send.
    #[serde(default, deserialize_with = "null_as_default")]
    pub http_headers: Vec<HttpHeader>,
}

/// A header of an HTTP try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HttpHeader {
    /// Its name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    /// Its value.
    #[serde(default, deserialize_with = "null_as_default")]
    pub value: String,
}

/// A TCP try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TcpSocket {
    /// Port.
    #[serde(default, deserialize_with = "null_as_default")]
    pub port: Port,
    /// Host; the controller always writes `127.0.0.1`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub host: String,
}

/// A gRPC try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Grpc {
    /// Port on the loopback address.
    #[serde(default, deserialize_with = "null_as_default")]
    pub port: i32,
    /// Name to ask for; empty: the whole server.
    #[serde(default, deserialize_with = "null_as_default")]
    pub service: String,
}

/// Kubernetes' `IntOrString`, kept as text; whether it is a port shows when it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port(pub String);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(i32),
            String(String),
        }
        Ok(match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(number) => Self(number.to_string()),
            IntOrString::String(text) => Self(text),
        })
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Probe {
    /// Whether tries repeat quickly within one round: `periodSeconds` is 0.
    pub fn is_aggressive(&self) -> bool {
        self.period_seconds == 0
    }

    /// The probes in `json`: an array with `multi`, else one object. No probe at all, the empty string or the empty
    /// array, means always ready.
    ///
    /// # Errors
    /// Not JSON, array and object the wrong way round, a wrong type, or `null` (which crashes the Go queue at its first
    /// probe).
    pub fn parse_all(json: &str, multi: bool) -> Result<Vec<Self>, serde_json::Error> {
        if json.is_empty() {
            return Ok(Vec::new());
        }
        if multi {
            return serde_json::from_str::<Vec<Self>>(json);
        }
        // serde takes an array for a struct, field by field; Go does not, and neither may we.
        let value: serde_json::Value = serde_json::from_str(json)?;
        if !value.is_object() {
            return Err(de::Error::custom("expected an object"));
        }
        serde_json::from_value(value).map(|probe| vec![probe])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_the_controllers_probes_then_every_used_field_is_read() {
        let json = r#"{"httpGet":{"path":"/healthz","port":8080,"host":"127.0.0.1","scheme":"HTTP","httpHeaders":
            [{"name":"X","value":"1"}]},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}"#;
        let probe = Probe::parse_all(json, false).unwrap().remove(0);
        let get = probe.http_get.clone().unwrap();
        assert_eq!((get.path.as_str(), get.port.0.as_str(), get.http_headers.len()), ("/healthz", "8080", 1));
        assert_eq!((probe.timeout_seconds, probe.period_seconds, probe.is_aggressive()), (1, 10, false));

        let tcp = r#"{"tcpSocket":{"port":"8080","host":"127.0.0.1"},"successThreshold":1,"httpGet":null}"#;
        let probe = Probe::parse_all(tcp, false).unwrap().remove(0);
        assert_eq!(probe.tcp_socket.as_ref().unwrap().port.0, "8080");
        assert!(probe.is_aggressive() && probe.http_get.is_none());

        let grpc = r#"[{"grpc":{"port":8080,"service":null}},{"tcpSocket":{"port":1}}]"#;
        assert_eq!(Probe::parse_all(grpc, true).unwrap().len(), 2);
    }

    /// Contract 1.2.
    #[test]
    fn given_what_the_go_queue_accepts_without_a_handler_then_it_is_accepted() {
        assert_eq!(Probe::parse_all("", false).unwrap(), []);
        assert_eq!(Probe::parse_all("[]", true).unwrap(), []);
        assert_eq!(Probe::parse_all("{}", false).unwrap(), [Probe::default()]);
        assert_eq!(Probe::parse_all(r#"{"unknown":[1]}"#, false).unwrap(), [Probe::default()]);
    }

    #[test]
    fn given_a_malformed_probe_then_it_is_refused() {
        for (json, multi) in [
            ("{", false),
            ("null", false),
            ("[]", false),
            ("[1,2]", false),
            ("{}", true),
            ("null", true),
            ("[null]", true),
            (r#"{"timeoutSeconds":"1"}"#, false),
            (r#"{"timeoutSeconds":1.5}"#, false),
            (r#"{"tcpSocket":{"port":true}}"#, false),
            (r#"{"httpGet":"x"}"#, false),
        ] {
            assert!(Probe::parse_all(json, multi).is_err(), "{json} {multi}");
        }
    }
}
