//! The reverse-proxy core; knows nothing of Knative.
//!
//! [`server`] turns an accepted stream into requests, a role's stack of tower layers decides about them, [`proxy`]
//! sends them on over [`upstream`] and the response's [`body`] carries what has to end with it. An answer that is not
//! the application's has a [`cause`]. All of it runs on one worker thread and shares nothing with others.

pub mod again;
pub mod body;
pub mod call;
pub mod cause;
pub mod date;
pub mod departure;
pub mod dial;
pub mod entrance;
pub mod guide;
pub mod h1_client;
pub mod h1_framing;
pub mod h2_server;
pub mod h2_tunnel;
pub mod headers;
pub mod inbound;
pub mod interim;
pub mod layer;
pub mod limits;
pub mod lines;
pub mod local;
mod opening;
pub mod pools;
pub mod proxy;
pub mod pump;
pub mod replay;
pub mod server;
mod spare;
pub mod stream;
pub mod trailers;
pub mod tunnel;
pub mod upstream;
pub mod wire;

use std::rc::Rc;

/// A request on its way through a role's stack.
pub struct Request {
    /// Method, target, version and headers; layers change them in place.
    /// In a box, since each layer moves a request, and a copy of this costs more than the box.
    pub head: Box<http::request::Parts>,
    /// The body as it comes in from the caller.
    pub body: inbound::Inbound,
    /// What is known of this request beside the message itself.
    pub call: Rc<call::Call>,
}

/// A response on its way back.
pub type Response = http::Response<body::Body>;
