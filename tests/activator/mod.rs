//! The activator against its contract, section by section: the real executable, an API server that speaks the real
//! protocol, a scripted autoscaler, and real queues as pods, in plaintext and over TLS.
mod autoscaler;
mod callers;
mod chaos;
mod cold_start;
mod crowd;
mod encryption;
mod far;
mod limits;
mod link;
mod lost;
mod malformed;
mod many_pods;
mod metrics_port;
mod observed;
mod probes;
mod request;
mod scale;
mod shutdown;
mod startup;
mod statistics;
mod switching;
mod timeouts;
mod trust;
mod world;
