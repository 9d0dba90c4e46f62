//! Callers over TLS.
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use lockkeeper::local::pki::Authority;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection};

use crate::support::binary::socket_timeout;
use crate::support::client::{Raw, local};
use crate::support::pki::client_speaking;

/// The settings of a caller that trusts this authority.
pub fn trusting(ca: &Authority) -> ClientConfig {
    client_speaking(ca, rustls::ALL_VERSIONS, &[])
}

/// The settings of a caller that sends no server name.
pub fn nameless(ca: &Authority) -> ClientConfig {
    let mut config = trusting(ca);
    config.enable_sni = false;
    config
}

/// The serial number of the certificate that a caller is shown who asks for this name.
pub fn serial(port: u16, ca: &Authority, name: &str) -> io::Result<String> {
    shown(TcpStream::connect(local(port))?, trusting(ca), name)
}

/// The same for any caller, on a connection that is open.
pub fn shown(mut socket: TcpStream, config: ClientConfig, name: &str) -> io::Result<String> {
    socket.set_read_timeout(socket_timeout())?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    let leaf = session.peer_certificates().and_then(<[_]>::first).ok_or_else(|| io::Error::other("no certificate"))?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(io::Error::other)?;
    Ok(leaf.serial.to_str_radix(16))
}

/// A connection of TLS 1.3 for requests.
pub fn connect(port: u16, ca: &Authority, name: &str) -> Raw {
    Raw::tls(port, client_speaking(ca, &[&TLS13], &[]), name)
}

/// The status of a GET on a connection.
pub fn ask(connection: &mut Raw, host: &str) -> u16 {
    connection.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply().status()
}
