//! What goes over sockets below HTTP.

pub mod cidr;
pub mod proxy_protocol;
pub mod websocket;
