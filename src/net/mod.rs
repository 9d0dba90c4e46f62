//! Sockets: listening, connecting, looking at first bytes, copying.
pub mod proxy_protocol;
