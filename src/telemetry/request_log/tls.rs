//! What a connection negotiated, as templates see it under `.Request.TLS`: Go's `tls.ConnectionState`.
//!
//! Made once a connection, at the end of its handshake; the data side reads it for each line that names it.

use std::borrow::Cow;
use std::io::Write;

use super::value::Value;

/// The result of a handshake. Numbers are those of the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// Protocol version: `0x304` is TLS 1.3.
    pub version: u16,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Cipher suite.
    pub cipher_suite: u16,
    /// Group of the key exchange; 0 when there was none.
    pub group: u16,
    /// Protocol that ALPN chose; empty without ALPN.
    pub protocol: &'static str,
    /// Name that the caller asked for; empty without SNI.
    pub server_name: Box<str>,
}

/// A field of [`TlsFacts`] that a template names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsField {
    Version,
    HandshakeComplete,
    DidResume,
    CipherSuite,
    NegotiatedProtocol,
    ServerName,
}

impl TlsField {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "Version" => Self::Version,
            "HandshakeComplete" => Self::HandshakeComplete,
            "DidResume" => Self::DidResume,
            "CipherSuite" => Self::CipherSuite,
            "NegotiatedProtocol" => Self::NegotiatedProtocol,
            "ServerName" => Self::ServerName,
            _ => return None,
        })
    }

    pub(super) fn value(self, facts: &TlsFacts) -> Value<'_> {
        let text = |text| Value::Text(Cow::Borrowed(str::as_bytes(text)));
        match self {
            Self::Version => Value::Int(facts.version.into()),
            Self::HandshakeComplete => Value::Bool(true),
            Self::DidResume => Value::Bool(facts.resumed),
            Self::CipherSuite => Value::Int(facts.cipher_suite.into()),
            Self::NegotiatedProtocol => text(facts.protocol),
            Self::ServerName => text(&facts.server_name),
        }
    }
}

/// Prints the struct as Go does, in the order of its fields. The lists are empty here (a caller's certificates would
/// be addresses in Go), and what Go has no name for outside is left out.
pub(super) fn print(facts: Option<&TlsFacts>, out: &mut Vec<u8>) {
    let Some(TlsFacts { version, resumed, cipher_suite, protocol, server_name, group }) = facts else {
        out.extend_from_slice(b"<nil>");
        return;
    };
    let _ = write!(out, "{{{version} true {resumed} {cipher_suite} ");
    group_name(*group, out);
    let _ = write!(out, " {protocol} true {server_name} [] [] [] [] [] false}}");
}

/// Go's `CurveID.String`.
fn group_name(group: u16, out: &mut Vec<u8>) {
    let name = match group {
        23 => "CurveP256",
        24 => "CurveP384",
        25 => "CurveP521",
        29 => "X25519",
        4588 => "X25519MLKEM768",
        other => return drop(write!(out, "CurveID({other})")),
    };
    out.extend_from_slice(name.as_bytes());
}
