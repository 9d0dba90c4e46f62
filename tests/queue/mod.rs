//! The queue role against the contract of Knative's queue-proxy, a file for each of its sections. What is better than
//! the original says so in its test's doc line.
mod abuse;
mod admin;
mod breaker;
mod duplex;
mod environment;
mod errors;
mod headers;
mod input;
mod logs;
mod matrix;
mod memory;
mod ports;
mod probes;
mod protocols;
mod races;
mod response;
mod rolling;
mod series;
mod shutdown;
mod smuggling;
mod telemetry;
mod timeouts;
mod tls;
mod workers;
