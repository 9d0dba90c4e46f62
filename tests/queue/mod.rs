//! The queue role against the contract of Knative's queue-proxy, a file for each of its sections. What is better than
//! the original says so in its test's doc line.
mod admin;
mod breaker;
mod environment;
mod errors;
mod headers;
mod input;
mod logs;
mod ports;
mod probes;
mod protocols;
mod response;
mod shutdown;
mod telemetry;
mod timeouts;
mod tls;
