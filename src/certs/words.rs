//! A certificate in words: whose it is, who issued it, for which names, how long, with which key, for which use.
//!
//! Called by `certs show`. It says of a key and a signature whether peers take them, and verifies nothing.
use std::fmt::Write as _;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer;

use crate::tls::expiry::date;
use crate::tls::identity::Leaf;
use crate::tls::san;

/// Said of what every verifier of today's refuses.
const WEAK: &str = " (too weak or unknown: peers refuse it)";

/// The certificate, as number `number` of a list; and whether it could be read.
pub(super) fn certificate(number: usize, der: &CertificateDer<'_>) -> (String, bool) {
    let facts = match Leaf::of(der) {
        Ok(facts) => facts,
        Err(why) => return (format!("  {number}. {why}\n"), false),
    };
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return (format!("  {number}. the certificate can't be parsed\n"), false);
    };
    let mut text = format!("  {number}. {}\n", or_nothing(&facts.subject));
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "     {what}: {value}");
    };
    line("issuer", &or_nothing(&facts.issuer));
    line("names", &san::in_words(&facts.names));
    let addresses = addresses(&parsed);
    if !addresses.is_empty() {
        line("addresses", &addresses);
    }
    line("valid", &validity(&facts));
    line("key", &format!("{}{}", facts.key, if facts.key.is_supported() { "" } else { WEAK }));
    line("signature", &signature(&parsed));
    line("for", &usage(&parsed));
    line("serial", &facts.serial);
    (text, true)
}

fn or_nothing(text: &str) -> String {
    match text.is_empty() {
        true => "(no subject)".to_owned(),
        false => printable(text),
    }
}

/// What a certificate says, for a terminal: whoever made it must not be able to steer that.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut printable, c| {
        match c.is_control() {
            true => printable.extend(c.escape_default()),
            false => printable.push(c),
        }
        printable
    })
}

fn validity(facts: &Leaf) -> String {
    let now = OffsetDateTime::now_utc();
    let left = match (facts.not_before > now, facts.not_after < now) {
        (true, _) => "NOT YET VALID".to_owned(),
        (_, true) => "EXPIRED".to_owned(),
        _ => format!("{} days left", (facts.not_after - now).whole_days()),
    };
    format!("{} to {} ({left})", date(facts.not_before), date(facts.not_after))
}

fn addresses(certificate: &X509Certificate<'_>) -> String {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return String::new() };
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => Some(IpAddr::from(four).to_string()),
            (_, Ok(sixteen)) => Some(IpAddr::from(sixteen).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(address).collect::<Vec<_>>().join(", ")
}

/// The algorithm with which the issuer signed (RFC 3279, 4055, 5758 and 8410). Nobody looks at that of an anchor.
fn signature(certificate: &X509Certificate<'_>) -> String {
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    let (name, sound) = match algorithm.as_str() {
        "1.2.840.113549.1.1.4" => ("RSA with MD5", false),
        "1.2.840.113549.1.1.5" => ("RSA with SHA-1", false),
        "1.2.840.113549.1.1.10" => ("RSA-PSS", true),
        "1.2.840.113549.1.1.11" => ("RSA with SHA-256", true),
        "1.2.840.113549.1.1.12" => ("RSA with SHA-384", true),
        "1.2.840.113549.1.1.13" => ("RSA with SHA-512", true),
        "1.2.840.10045.4.1" => ("ECDSA with SHA-1", false),
        "1.2.840.10045.4.3.2" => ("ECDSA with SHA-256", true),
        "1.2.840.10045.4.3.3" => ("ECDSA with SHA-384", true),
        "1.2.840.10045.4.3.4" => ("ECDSA with SHA-512", true),
        "1.3.101.112" => ("Ed25519", true),
        other => (other, false),
    };
    let own = certificate.subject().as_raw() == certificate.issuer().as_raw();
    match (sound, own) {
        (true, false) => name.to_owned(),
        (false, false) => format!("{name}{WEAK}"),
        (_, true) => format!("{name}, its own"),
    }
}

fn usage(certificate: &X509Certificate<'_>) -> String {
    if certificate.is_ca() {
        return "issuing certificates".to_owned();
    }
    let Ok(Some(extension)) = certificate.extended_key_usage() else { return "any use".to_owned() };
    match extension.value {
        ExtendedKeyUsage { any: true, .. } => "any use".to_owned(),
        ExtendedKeyUsage { server_auth: true, client_auth: true, .. } => "servers and clients".to_owned(),
        ExtendedKeyUsage { server_auth: true, .. } => "servers only".to_owned(),
        ExtendedKeyUsage { client_auth: true, .. } => "clients only".to_owned(),
        _ => "neither servers nor clients".to_owned(),
    }
}
