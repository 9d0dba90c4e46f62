//! The harness: it hides ports, files and waiting, never the assertion.
pub mod accept;
pub mod apiserver;
pub mod app;
pub mod binary;
pub mod client;
pub mod collector;
pub mod h2;
pub mod h2_app;
pub mod h2_streams;
pub mod message;
pub mod objects;
pub mod pki;
pub mod port;
pub mod scrape;
pub mod stalls;
pub mod wait;
