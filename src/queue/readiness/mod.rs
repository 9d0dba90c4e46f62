//! Whether the application is ready, asked only when somebody asks us.
//!
//! Kubelet, the activator and the autoscaler probe the queue; the queue's probe layer (data side, any worker) awaits
//! [`Handle::check`], and one task on the control side ([`prober`]) tries the application. Rules: one round at a time,
//! its result goes to everybody who waited; a round is never cancelled; no background probing; tries do not pass the
//! handler chain (no breaker, no counters). [`probe`] is the setting, `attempt` one try by any handler, `target` the
//! addresses of the application.
//! Source: `knative.dev/serving/pkg/queue/readiness/probe.go`, `pkg/queue/health/probe.go`.
pub mod probe;
pub mod prober;

mod attempt;
pub(crate) mod grpc;
mod http_get;
mod target;
mod tls;

pub use probe::Probe;
pub use prober::{Handle, start};

#[cfg(test)]
mod tests;
