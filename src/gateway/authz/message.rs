//! The messages of `envoy.service.auth.v3` as far as they are filled and read here, with their field numbers.
//!
//! Fields that are left out (the peer's certificate, destination, query parameters, dynamic metadata) are skipped when
//! they come and absent when they are sent, as protobuf has it. Source: envoy's `api/envoy/service/auth/v3/{external_auth,
//! attribute_context}.proto`, `envoy/config/core/v3/{address,base}.proto`, `google/rpc/status.proto`.
use std::collections::HashMap;

use prost::Message;

/// The question.
#[derive(Clone, PartialEq, Message)]
pub struct CheckRequest {
    /// All that is told.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<Attributes>,
}

/// `AttributeContext`.
#[derive(Clone, PartialEq, Message)]
pub struct Attributes {
    /// The caller.
    #[prost(message, optional, tag = "1")]
    pub source: Option<Peer>,
    /// The request.
    #[prost(message, optional, tag = "4")]
    pub request: Option<Request>,
    /// What the route adds.
    #[prost(map = "string, string", tag = "10")]
    pub context_extensions: HashMap<String, String>,
}

/// `AttributeContext.Peer`.
#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    /// Where it is.
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
}

/// `core.v3.Address`.
#[derive(Clone, PartialEq, Message)]
pub struct Address {
    /// A TCP address.
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
}

/// `core.v3.SocketAddress`.
#[derive(Clone, PartialEq, Message)]
pub struct SocketAddress {
    /// The IP.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The port.
    #[prost(uint32, tag = "3")]
    pub port: u32,
}

/// `AttributeContext.Request`.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// When it came.
    #[prost(message, optional, tag = "1")]
    pub time: Option<Timestamp>,
    /// What it is.
    #[prost(message, optional, tag = "2")]
    pub http: Option<HttpRequest>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timestamp {
    /// Since 1970.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `AttributeContext.HttpRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct HttpRequest {
    /// `X-Request-Id`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// Headers, names in lower case, lines of one name joined by commas; HTTP/2's pseudo-headers among them.
    #[prost(map = "string, string", tag = "3")]
    pub headers: HashMap<String, String>,
    /// Path and query.
    #[prost(string, tag = "4")]
    pub path: String,
    /// Host.
    #[prost(string, tag = "5")]
    pub host: String,
    /// `http` or `https`.
    #[prost(string, tag = "6")]
    pub scheme: String,
    /// Length of the body, -1 if it is not known.
    #[prost(int64, tag = "9")]
    pub size: i64,
    /// `HTTP/1.1` or `HTTP/2`.
    #[prost(string, tag = "10")]
    pub protocol: String,
    /// The beginning of the body as text.
    #[prost(string, tag = "11")]
    pub body: String,
    /// The same as bytes.
    #[prost(bytes = "vec", tag = "12")]
    pub raw_body: Vec<u8>,
}

/// The answer.
#[derive(Clone, PartialEq, Message)]
pub struct CheckResponse {
    /// Code 0 allows.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// What the caller is told when it is not allowed.
    #[prost(message, optional, tag = "2")]
    pub denied: Option<Denied>,
    /// What changes when it is.
    #[prost(message, optional, tag = "3")]
    pub ok: Option<Allowed>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// gRPC's code.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// `DeniedHttpResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Denied {
    /// Its status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Its headers.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderOption>,
    /// Its body.
    #[prost(string, tag = "3")]
    pub body: String,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct HttpStatus {
    /// An enumeration with HTTP's numbers.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// `OkHttpResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Allowed {
    /// Headers of the request on its way upstream.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderOption>,
    /// Headers that are taken off it.
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
    /// Headers of the response to the caller.
    #[prost(message, repeated, tag = "6")]
    pub response_headers: Vec<HeaderOption>,
}

/// `core.v3.HeaderValueOption`.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderOption {
    /// The header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Whether it is added to those of its name; absent or false: it replaces them.
    #[prost(message, optional, tag = "2")]
    pub append: Option<Flag>,
    /// The newer way to say that: 1 adds it if there is none.
    #[prost(int32, tag = "3")]
    pub action: i32,
}

/// `google.protobuf.BoolValue`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Flag {
    /// Its value.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

/// `core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Value, where it is no text.
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

impl HeaderOption {
    /// Name and value, if they are ones that may be set: what frames a message or names its target is not.
    #[must_use]
    pub fn pair(&self) -> Option<(http::HeaderName, http::HeaderValue)> {
        let header = self.header.as_ref()?;
        let name = settable(&header.key)?;
        let value = if header.value.is_empty() { &*header.raw_value } else { header.value.as_bytes() };
        Some((name, http::HeaderValue::from_bytes(value).ok()?))
    }

    /// Applies it.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        let Some((name, value)) = self.pair() else { return };
        if self.append.is_some_and(|append| append.value) {
            headers.append(name, value);
        } else if self.action != ADD_IF_ABSENT || !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
}

/// `HeaderAppendAction.ADD_IF_ABSENT`.
const ADD_IF_ABSENT: i32 = 1;

/// A header's name, if an authoriser may set or remove it.
#[must_use]
pub fn settable(name: &str) -> Option<http::HeaderName> {
    use http::header as h;
    const NEVER: [http::HeaderName; 7] =
        [h::HOST, h::CONTENT_LENGTH, h::TRANSFER_ENCODING, h::CONNECTION, h::UPGRADE, h::TE, h::EXPECT];
    http::HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !NEVER.contains(name))
}
