//! The gateway role against the contract of Knative's ingress: real listeners, real upstreams, objects from a directory
//! of manifests or from an API server.
mod authz;
mod changes;
mod cluster;
mod conformance;
mod dump;
mod encryption;
mod events;
mod harness;
mod leader;
mod rolling;
mod routing;
mod scale;
mod tls;
mod traces;
mod update;
mod websocket;
