//! The messages in which queues and activators tell the autoscaler how busy they are.
//!
//! A [`Stat`] is encoded by `queue::statistics` for `GET :9090/metrics`; the autoscaler reads at most 336 bytes of it.
//! [`WireStatMessages`] are what an activator sends over its WebSocket. Control side.
//! Source: `knative.dev/serving/pkg/autoscaler/metrics/stat.proto`; proto3, so zeros are left out.

/// One measurement of one pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stat {
    /// The pod: `SERVING_POD`.
    #[prost(string, tag = "1")]
    pub pod_name: String,
    /// Requests in flight, waiting ones included: time-weighted mean over the period.
    #[prost(double, tag = "2")]
    pub average_concurrent_requests: f64,
    /// The part of it that came through the activator.
    #[prost(double, tag = "3")]
    pub average_proxied_concurrent_requests: f64,
    /// Arrivals per second.
    #[prost(double, tag = "4")]
    pub request_count: f64,
    /// The part of it that came through the activator.
    #[prost(double, tag = "5")]
    pub proxied_request_count: f64,
    /// Seconds since the process started.
    #[prost(double, tag = "6")]
    pub process_uptime: f64,
    /// Seconds since 1970; a queue never sets it.
    #[prost(int64, tag = "7")]
    pub timestamp: i64,
}

/// What an activator reports of one revision.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireStatMessage {
    /// The revision's namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// The revision's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The measurement.
    #[prost(message, optional, tag = "3")]
    pub stat: Option<Stat>,
}

/// One message to the autoscaler.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireStatMessages {
    /// One for each revision.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<WireStatMessage>,
}
