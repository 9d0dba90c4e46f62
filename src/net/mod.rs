//! What goes over sockets below HTTP.

pub mod cidr;
#[cfg(test)]
pub(crate) mod closed;
pub mod proxy_protocol;
pub mod websocket;
