//! Certificates and TLS; knows nothing of HTTP.
