//! The names in a certificate: its dNSName entries as bytes.
//!
//! Called by the verifiers in a handshake (data side) and wherever a certificate is shown. Names are never put through a
//! DNS-name type: `kn-user-` and a namespace of 63 characters is a longer label than DNS allows, which Go and Envoy
//! accept because they compare strings, and so do we (RFC 5280, section 4.2.1.6, says only IA5String).
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The tag of a dNSName among general names.
const DNS_NAME: u32 = 2;

/// The dNSName entries of `certificate` in their order, as they are.
///
/// # Errors
/// The certificate or its name extension can't be parsed.
pub fn dns_names(certificate: &CertificateDer<'_>) -> Result<Vec<Vec<u8>>, String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate can't be parsed: {error}"))?;
    of_parsed(&parsed)
}

/// As [`dns_names`], from a certificate that is parsed already.
///
/// # Errors
/// The name extension is malformed or there are two of them.
pub fn of_parsed(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Result<Vec<Vec<u8>>, String> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| format!("the subject alternative names can't be parsed: {error}"))?;
    let Some(extension) = extension else { return Ok(Vec::new()) };
    Ok(extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.as_bytes().to_vec()),
            // Bytes that are no text can't be a name that we expect, but are shown to whoever has to find out why.
            GeneralName::Invalid(tag, bytes) if tag.0 == DNS_NAME => Some(bytes.to_vec()),
            _ => None,
        })
        .collect())
}

/// Whether two names are the same: byte by byte, ASCII letters in either case, no wildcards.
pub fn same(expected: &[u8], presented: &[u8]) -> bool {
    expected.eq_ignore_ascii_case(presented)
}

/// Names for a log line or a message: `a, b`, or `none`.
pub fn in_words(names: &[Vec<u8>]) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.iter().map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>().join(", "),
    }
}
