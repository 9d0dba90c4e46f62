//! The activator against its contract, section by section: the real executable, an API server that speaks the real
//! protocol, a scripted autoscaler, and real queues as pods, in plaintext and over TLS.
mod autoscaler;
mod callers;
mod chaos;
mod cold_start;
mod encryption;
mod lost;
mod many_pods;
mod metrics_port;
mod observed;
mod probes;
mod request;
mod shutdown;
mod startup;
mod statistics;
mod timeouts;
mod world;
