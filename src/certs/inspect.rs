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
use time::OffsetDateTime;

use crate::tls::expiry::date;
use crate::tls::identity::Leaf;
use crate::tls::{pem, san, signatures};

/// A server has this long to show its certificate.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is said of a text without a block.
const NO_BLOCK: &str = "  no PEM block\n";

/// The certificates of `target`, in words: the files of a directory, a file, or what a server at `host:port` shows.
///
/// # Errors
/// Nothing can be read there: in words.
pub fn show(target: &str) -> Result<String, String> {
    let path = Path::new(target);
    if path.is_dir() {
        let mut text = String::new();
        for name in ["tls.crt", "ca.crt"] {
            let file = path.join(name);
            match fs::read(&file) {
                Ok(bytes) => {
                    let _ = writeln!(text, "{}:", file.display());
                    text.push_str(&in_text(&bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let _ = writeln!(text, "{}: missing", file.display());
                }
                Err(error) => return Err(format!("{}: {error}", file.display())),
            }
        }
        return Ok(text);
    }
    if path.exists() {
        let text = fs::read(path).map(|bytes| in_text(&bytes)).map_err(|error| format!("{target}: {error}"))?;
        return match text == NO_BLOCK {
            true => {
                Err(format!("{target}: no PEM block: expected certificates, each from -----BEGIN CERTIFICATE-----"))
            }
            false => Ok(text),
        };
    }
    if target.contains(':') {
        let chain = of_server(target).map_err(|error| format!("{target}: {error}"))?;
        return Ok(chain.iter().enumerate().map(|(index, der)| describe(index + 1, der)).collect());
    }
    Err(format!("{target}: no such file or directory, and not HOST:PORT"))
}

/// The certificates of a PEM text in words; what can't be read is named with its position.
fn in_text(text: &[u8]) -> String {
    let mut words = String::new();
    for block in pem::blocks(text) {
        match block.content {
            pem::Content::Certificate(ref der) => words.push_str(&describe(block.number, der)),
            pem::Content::Broken(ref why) => {
                let _ = writeln!(words, "  {}. unreadable, line {}: {why}", block.number, block.line);
            }
            _ => {
                let _ = writeln!(words, "  {}. {} (not shown)", block.number, block.label);
            }
        }
    }
    match words.is_empty() {
        true => NO_BLOCK.to_owned(),
        false => words,
    }
}

fn describe(number: usize, der: &CertificateDer<'_>) -> String {
    match Leaf::of(der) {
        Ok(facts) => {
            let now = OffsetDateTime::now_utc();
            let left = match (facts.not_before > now, facts.not_after < now) {
                (true, _) => "NOT YET VALID".to_owned(),
                (_, true) => "EXPIRED".to_owned(),
                _ => format!("{} days left", (facts.not_after - now).whole_days()),
            };
            let subject = or_nothing(&facts.subject);
            format!(
                "  {number}. {subject}\n     issuer: {}\n     names: {}\n     valid: {} to {} ({left})\n     key: {}{}\n     serial: {}\n",
                or_nothing(&facts.issuer),
                san::in_words(&facts.names),
                date(facts.not_before),
                date(facts.not_after),
                facts.key,
                if facts.key.is_supported() { "" } else { " (too weak or unknown: peers refuse it)" },
                facts.serial,
            )
        }
        Err(why) => format!("  {number}. {why}\n"),
    }
}

fn or_nothing(text: &str) -> &str {
    match text.is_empty() {
        true => "(no subject)",
        false => text,
    }
}

/// The chain that the server at `address` shows.
fn of_server(address: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder { provider: Arc::clone(&provider), chain: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Recorder>::clone(&recorder))
        .with_no_client_auth();
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let first = address.to_socket_addrs().map_err(|error| error.to_string())?.next().ok_or("no address")?;
    let mut socket = TcpStream::connect_timeout(&first, PATIENCE).map_err(|error| error.to_string())?;
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
        (true, Err(error)) => Err(error.to_string()),
        (true, Ok(())) => Err("the server showed no certificate".to_owned()),
        (false, _) => Ok(chain),
    }
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
