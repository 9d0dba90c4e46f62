//! Reads certificates from a file, a directory or a server, and puts them into words.
//!
//! Called by `certs show`. A server's certificate is taken as it is shown, *not* verified: the command exists to look
//! at certificates that don't work.
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection};

use crate::certs::words;
use crate::knative::names::{FILE_CA, FILE_CERTIFICATE, FILE_KEY};
use crate::tls::error::Error;
use crate::tls::identity::{Identity, Reason, Rejection};
use crate::tls::{pem, signatures};

/// A server has this long to show its certificate.
const PATIENCE: Duration = Duration::from_secs(5);

/// Certificates in words.
#[derive(Debug, Default)]
pub struct Shown {
    /// For people.
    pub text: String,
    /// Whether there was something to show, and all of it could be read.
    pub complete: bool,
}

/// The certificates of `target`, in words: the files of a directory, a file, or what a server at `host:port` shows when it
/// is asked for `server_name`, by default its host.
///
/// # Errors
/// Nothing can be read there: in words.
pub fn show(target: &str, server_name: Option<&str>) -> Result<Shown, String> {
    let path = Path::new(target);
    if path.is_dir() {
        return directory(path);
    }
    if path.exists() {
        let bytes = fs::read(path).map_err(|error| format!("{target}: {error}"))?;
        return match pem::blocks(&bytes).is_empty() {
            true => Err(format!("{target}: {NO_BLOCK}")),
            false => Ok(in_words(&bytes)),
        };
    }
    if target.contains(':') {
        let chain = of_server(target, server_name).map_err(|error| format!("{target}: {error}"))?;
        let text = chain.iter().enumerate().map(|(index, der)| words::certificate(index + 1, der).0).collect();
        return Ok(Shown { text, complete: true });
    }
    Err(format!("{target}: no such file or directory, and not HOST:PORT"))
}

/// What is said of a text without a block.
const NO_BLOCK: &str = "no PEM block: expected certificates, each from -----BEGIN CERTIFICATE-----";

fn directory(path: &Path) -> Result<Shown, String> {
    let mut shown = Shown { text: String::new(), complete: true };
    let mut found = false;
    for name in [FILE_CERTIFICATE, FILE_CA] {
        let file = path.join(name);
        let part = match fs::read(&file) {
            Ok(bytes) => in_words(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let _ = writeln!(shown.text, "{}: missing", file.display());
                continue;
            }
            Err(error) => Shown { text: format!("  {error}\n"), complete: false },
        };
        found = true;
        shown.complete &= part.complete;
        let _ = write!(shown.text, "{}:\n{}", file.display(), part.text);
        if name == FILE_CERTIFICATE {
            shown.text += &key(path);
        }
    }
    match found {
        true => Ok(shown),
        false => Err(format!("{}: neither {FILE_CERTIFICATE} nor {FILE_CA} is in this directory", path.display())),
    }
}

/// A line on the private key beside a certificate: whose it is, and never what it is.
fn key(dir: &Path) -> String {
    let path = dir.join(FILE_KEY);
    let about = match (fs::read(dir.join(FILE_CERTIFICATE)), fs::read(&path)) {
        (Ok(certificate), Ok(key)) => match Identity::from_pem(&certificate, &key) {
            Ok(_) => "the key of the first certificate (not shown)".to_owned(),
            Err(Rejection { reason: Reason::KeyMismatch, .. }) => "NOT the key of the first certificate".to_owned(),
            Err(Rejection { reason: Reason::BadKey, detail }) => detail,
            Err(_) => "not shown".to_owned(),
        },
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => "missing".to_owned(),
        (Err(error), _) | (_, Err(error)) => error.to_string(),
    };
    format!("{}: {about}\n", path.display())
}

/// The certificates of a PEM text in words; what can't be read is named with its position.
fn in_words(text: &[u8]) -> Shown {
    let mut shown = Shown { text: String::new(), complete: true };
    for block in pem::blocks(text) {
        match block.content {
            pem::Content::Certificate(ref der) => {
                let (text, readable) = words::certificate(block.number, der);
                shown.text += &text;
                shown.complete &= readable;
            }
            pem::Content::Broken(ref why) => {
                let _ = writeln!(shown.text, "  {}. unreadable, line {}: {why}", block.number, block.line);
                shown.complete = false;
            }
            _ => {
                let _ = writeln!(shown.text, "  {}. {} (not shown)", block.number, block.label);
            }
        }
    }
    if shown.text.is_empty() {
        shown = Shown { text: format!("  {NO_BLOCK}\n"), complete: false };
    }
    shown
}

/// The chain that the server at `address` shows.
fn of_server(address: &str, server_name: Option<&str>) -> Result<Vec<CertificateDer<'static>>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { provider: Arc::clone(&provider), chain: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Recorder>::clone(&recorder))
        .with_no_client_auth();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = server_name.unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("the server name {name:?}: {error}"))?;
    let mut socket = connect(address)?;
    let patient = socket.set_read_timeout(Some(PATIENCE)).and_then(|()| socket.set_write_timeout(Some(PATIENCE)));
    patient.map_err(|error| error.to_string())?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let mut outcome = Ok(());
    while tls.is_handshaking() && outcome.is_ok() {
        outcome = tls.complete_io(&mut socket).map(|_| ());
    }
    // A server that asks for a client certificate has shown its own before it refuses us.
    let chain = std::mem::take(&mut *recorder.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match (chain.is_empty(), outcome) {
        (true, Err(error)) => Err(Error::from_io(&error).to_string()),
        (true, Ok(())) => Err("the server showed no certificate".to_owned()),
        (false, _) => Ok(chain),
    }
}

/// A connection to the first of the host's addresses that takes one: `localhost` has two, a server may have one of them.
fn connect(address: &str) -> Result<TcpStream, String> {
    let mut why = "no address".to_owned();
    for candidate in address.to_socket_addrs().map_err(|error| error.to_string())? {
        match TcpStream::connect_timeout(&candidate, PATIENCE) {
            Ok(socket) => return Ok(socket),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Accepts every chain and keeps it. No byte of data is ever sent over such a connection.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(leaf).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    signatures::unchecked!(self => self.provider.signature_verification_algorithms);
}
