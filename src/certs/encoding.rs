//! The encodings of private keys that cert-manager writes: PKCS#8, and (its default) PKCS#1 for RSA and SEC1 for ECDSA.
//!
//! Called when a key is written. A PKCS#8 key is an envelope around the other two (RFC 5958); for SEC1 the curve, which
//! the envelope names, has to be put back into the key (RFC 5915, section 3).
use std::fmt::Write as _;

use crate::certs::mint::KeyKind;

/// How a private key is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// PKCS#8: `PRIVATE KEY`.
    #[default]
    Pkcs8,
    /// PKCS#1 for RSA (`RSA PRIVATE KEY`), SEC1 for ECDSA (`EC PRIVATE KEY`); Ed25519 has only PKCS#8.
    Traditional,
}

/// A PKCS#8 key as PEM in `encoding`. A key that is not of the form which our own generator makes stays PKCS#8.
pub(crate) fn pem(pkcs8: &[u8], kind: KeyKind, encoding: Encoding) -> String {
    if encoding == Encoding::Traditional
        && let Some((label, der)) = traditional(pkcs8, kind)
    {
        return armour(label, &der);
    }
    self::pkcs8(pkcs8)
}

/// A PKCS#8 key as PEM, in the first version of the envelope (RFC 5208): OpenSSL does not read the second one (RFC
/// 5958, with the public key), which our generator makes for Ed25519.
pub(crate) fn pkcs8(der: &[u8]) -> String {
    armour("PRIVATE KEY", &first_version(der).unwrap_or_else(|| der.to_vec()))
}

fn first_version(der: &[u8]) -> Option<Vec<u8>> {
    let (info, _) = take(der, SEQUENCE)?;
    let (_, rest) = take(info, INTEGER)?;
    let (algorithm, rest) = take(rest, SEQUENCE)?;
    let (key, _) = take(rest, OCTET_STRING)?;
    let mut content = wrap(INTEGER, &[0]);
    content.extend(wrap(SEQUENCE, algorithm));
    content.extend(wrap(OCTET_STRING, key));
    Some(wrap(SEQUENCE, &content))
}

fn traditional(pkcs8: &[u8], kind: KeyKind) -> Option<(&'static str, Vec<u8>)> {
    let curve: Option<&[u8]> = match kind {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => None,
        KeyKind::P256 => Some(&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
        KeyKind::P384 => Some(&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]),
        KeyKind::P521 => Some(&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23]),
        KeyKind::Ed25519 => return None,
    };
    // PrivateKeyInfo ::= SEQUENCE { version INTEGER, algorithm SEQUENCE, privateKey OCTET STRING, .. }
    let (info, _) = take(pkcs8, SEQUENCE)?;
    let (_, rest) = take(info, INTEGER)?;
    let (_, rest) = take(rest, SEQUENCE)?;
    let (inner, _) = take(rest, OCTET_STRING)?;
    let Some(curve) = curve else { return Some(("RSA PRIVATE KEY", inner.to_vec())) };

    // ECPrivateKey ::= SEQUENCE { version INTEGER, privateKey OCTET STRING, [0] parameters, [1] publicKey }
    let (key, _) = take(inner, SEQUENCE)?;
    let (version, rest) = take(key, INTEGER)?;
    let (secret, rest) = take(rest, OCTET_STRING)?;
    let public = match take(rest, PARAMETERS) {
        Some((_, rest)) => rest,
        None => rest,
    };
    let mut content = wrap(INTEGER, version);
    content.extend(wrap(OCTET_STRING, secret));
    content.extend(wrap(PARAMETERS, curve));
    content.extend_from_slice(public);
    Some(("EC PRIVATE KEY", wrap(SEQUENCE, &content)))
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const PARAMETERS: u8 = 0xa0;

/// The content of the element with `tag` at the start of `der`, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    match found == tag {
        true => rest.split_at_checked(length),
        false => None,
    }
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        length @ 0..=0x7f => der.push(length as u8),
        length @ 0x80..=0xff => der.extend([0x81, length as u8]),
        length => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(content);
    der
}

fn armour(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    // 48 bytes are 64 characters, the line length of RFC 7468.
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for position in 0..4 {
                text.push(match position <= group.len() {
                    true => char::from(ALPHABET[(bits >> (18 - 6 * position) & 63) as usize]),
                    false => '=',
                });
            }
        }
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}
