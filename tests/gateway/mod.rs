//! The gateway role against the contract of Knative's ingress: real listeners, real upstreams, objects from a directory
//! of manifests or from an API server.
mod authz;
mod callers;
mod changes;
mod cluster;
mod conformance;
mod dump;
mod encryption;
mod events;
mod harness;
mod leader;
mod metrics;
mod proxied;
mod refusals;
mod replicas;
mod rolling;
mod routing;
mod scale;
mod secrets;
mod server_names;
mod settings;
mod tls;
mod traces;
mod update;
mod websocket;
