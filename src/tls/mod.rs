//! Certificates and TLS; knows nothing of HTTP.
//!
//! A certificate walks through this module from top to bottom: a mounted directory ([`source_dir`]), or whatever else
//! is a [`source`], is read as PEM
//! ([`pem`]), its key becomes a signing key that must belong to the leaf ([`key`]), the checked pair is published in
//! the identity store ([`identity`]) and the authorities in the trust store ([`trust`]). Handshakes on the data side
//! read both stores with one atomic load: [`server`] for callers, [`client`] with its [`verifier`] towards upstreams.
//!
//! Publishing is the control side's; everything that a handshake touches is safe to call from any worker thread.
pub mod client;
pub mod client_auth;
pub mod error;
pub mod expiry;
pub mod identity;
pub mod key;
pub mod pem;
pub mod policy;
pub mod provider;
pub mod resolver;
pub mod resume;
pub mod san;
pub mod server;
pub mod settings;
pub(crate) mod signatures;
pub mod source;
pub mod source_dir;
pub mod trust;
pub mod verifier;
