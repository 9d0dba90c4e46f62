//! Logs, metrics and traces; no sockets here.
