//! Every limit of the proxy core: its default, its unit and where the number comes from.

use std::time::Duration;

/// Bytes of a request's header block: Go's `http.DefaultMaxHeaderBytes` (1 MiB) and its slack of 4 KiB.
pub const HEADER_BYTES: usize = (1 << 20) + 4096;
/// Header lines of one message: Go 1.27 allows about as many.
pub const HEADER_LINES: usize = 500;
/// Time for a header block to come in: `ReadHeaderTimeout` in `pkg/queue/sharedmain`.
pub const HEADER_TIME: Duration = Duration::from_secs(60);
/// Streams at once on an HTTP/2 connection: `MAX_CONCURRENT_STREAMS` of Go's server.
pub const STREAMS: u32 = 250;
/// Bytes that one HTTP/2 stream may have under way towards us (what one stream may hold of our memory).
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that one HTTP/2 connection may have under way towards us: Go's server allows 1 MiB a stream.
pub const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of an HTTP/2 header list: Go announces 1 MiB and 320 bytes.
pub const H2_HEADER_LIST: u32 = (1 << 20) + 320;
/// Resets by the caller that may wait to be noticed before the connection is ended (CVE-2023-44487).
pub const PENDING_RESETS: usize = 50;
/// Bytes of a response held back for a slow HTTP/2 reader, a stream.
pub const SEND_BUFFER: usize = 64 * 1024;
/// Idle time after which an HTTP/1.1 connection gives its buffers back. Of a crowd of connections that come one by one, only
/// those of the last moments hold any then.
pub const PARK_AFTER: Duration = Duration::from_millis(100);
/// From one look at a worker's connections to the next, while one of them holds buffers.
pub const SWEEP_SOON: Duration = Duration::from_millis(200);
/// The same while none does, and from one look at upstream connections to the next.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Bytes that one read takes from a caller: what a piece of a body is at most. Two or three are under way at once.
pub const READ: u64 = 64 * 1024;
/// The least that hyper's buffers of a connection may hold: of a request's head, and of a response that its caller does not
/// take. They may hold as much as the longest head.
pub const READ_BUFFER: usize = 256 * 1024;
/// Idle time after which a pooled connection to the application is closed: `IdleConnTimeout` of Go's transport.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(90);
/// Bytes of a request kept until the first byte of its response, to send it again when the pooled connection was dead.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// How long the application may keep silent before a body announced by `Expect: 100-continue` is read all the same:
/// `ExpectContinueTimeout` of Go's transport.
pub const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Bytes of an interim (1xx) response's head.
pub const INTERIM_BYTES: usize = 64 * 1024;
/// After an answer that came before the request's end, how long what the caller still sends is taken and forgotten:
/// nginx's `lingering_time`.
pub const LINGER: Duration = Duration::from_secs(30);
/// The same, without a byte: nginx's `lingering_timeout`.
pub const LINGER_IDLE: Duration = Duration::from_secs(5);
/// HTTP/2 streams on a connection to the application before its SETTINGS say how many it takes: what RFC 9113 (section 6.5.2)
/// recommends as the least to allow. With more, a server of that limit refuses the rest of a crowd.
pub const UPSTREAM_STREAMS: usize = 100;
/// How long nothing comes from an upstream on another machine before it is asked for a sign of life, and how long after
/// that again; as Go's dialer in the activator.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How often it is asked before the connection counts as broken.
pub const KEEP_ALIVE_PROBES: u32 = 3;
