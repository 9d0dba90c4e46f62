//! Reads PEM: the only file of this crate that names a PEM parser.
//!
//! Called by the sources of certificates (control side) and by `certs`. The text is cut into its blocks first and each
//! block is decoded by itself, so that one broken block costs that block and not those after it, and every finding can
//! say where it stands.
//!
//! Format: RFC 7468. Text between blocks is ignored, as OpenSSL and Go do.
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// One block of a PEM text.
pub struct Block {
    /// Which block of the text this is, from 1.
    pub number: usize,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// What its first line calls it, such as `CERTIFICATE`.
    pub label: String,
    /// What it holds.
    pub content: Content,
}

/// What a block holds. It has no `Debug`: it may be a private key.
pub enum Content {
    /// A certificate, not yet parsed beyond base64.
    Certificate(CertificateDer<'static>),
    /// A private key in PKCS#8, PKCS#1 or SEC1.
    Key(PrivateKeyDer<'static>),
    /// A sound block of a kind that nobody here reads (`EC PARAMETERS`, `ENCRYPTED PRIVATE KEY`).
    Other,
    /// A block that can't be decoded, with the reason.
    Broken(String),
}

impl Block {
    /// Where the block stands, in words: `block 2 (line 31)`.
    pub fn position(&self) -> String {
        format!("block {} (line {})", self.number, self.line)
    }
}

/// Every block of `text`, in order. A text without a block gives none.
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, Vec<u8>)> = None;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let trimmed = line.trim_ascii();
        if let Some(label) = marker(trimmed, b"-----BEGIN ") {
            if let Some((begun, label, _)) = open.take() {
                let why = format!("no END line before the next block begins on line {}", index + 1);
                push(&mut found, begun, label, Content::Broken(why));
            }
            open = Some((index + 1, label, Vec::new()));
        }
        if let Some((_, _, body)) = &mut open {
            body.extend_from_slice(trimmed);
            body.push(b'\n');
        }
        if marker(trimmed, b"-----END ").is_some()
            && let Some((begun, label, body)) = open.take()
        {
            push(&mut found, begun, label, decode(&body));
        }
    }
    if let Some((begun, label, _)) = open {
        push(&mut found, begun, label, Content::Broken("the text ends before its END line".to_owned()));
    }
    found
}

/// The certificates of `text`, in order.
///
/// # Errors
/// The first block that claims to be a certificate and can't be decoded, with its position.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for block in blocks(text) {
        let position = block.position();
        match block.content {
            Content::Certificate(der) => found.push(der),
            Content::Broken(why) => return Err(format!("{position} can't be decoded: {why}")),
            Content::Key(_) | Content::Other => {}
        }
    }
    Ok(found)
}

/// The first private key of `text`.
///
/// # Errors
/// There is none, or it can't be decoded, or it is encrypted: in words.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let mut encrypted = false;
    for block in blocks(text) {
        let position = block.position();
        match block.content {
            Content::Key(key) => return Ok(key),
            Content::Broken(why) => return Err(format!("{position} can't be decoded: {why}")),
            Content::Other => encrypted |= block.label.contains("ENCRYPTED"),
            Content::Certificate(_) => {}
        }
    }
    Err(match encrypted {
        true => "the private key is encrypted; it must be stored without a password".to_owned(),
        false => "no PEM block with a private key was found".to_owned(),
    })
}

fn marker(line: &[u8], begin: &[u8]) -> Option<String> {
    let label = line.strip_prefix(begin)?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

fn push(found: &mut Vec<Block>, line: usize, label: String, content: Content) {
    found.push(Block { number: found.len() + 1, line, label, content });
}

fn decode(block: &[u8]) -> Content {
    use rustls_pemfile::{Error, Item};
    match rustls_pemfile::read_one_from_slice(block) {
        Ok(Some((Item::X509Certificate(der), _))) => Content::Certificate(der),
        Ok(Some((Item::Pkcs1Key(der), _))) => Content::Key(der.into()),
        Ok(Some((Item::Pkcs8Key(der), _))) => Content::Key(der.into()),
        Ok(Some((Item::Sec1Key(der), _))) => Content::Key(der.into()),
        Ok(_) => Content::Other,
        Err(Error::Base64Decode(why)) => Content::Broken(format!("not base64: {why}")),
        Err(Error::MissingSectionEnd { .. }) => Content::Broken("its END line does not name the same kind".to_owned()),
        Err(Error::IllegalSectionStart { .. }) => Content::Broken("its BEGIN line is malformed".to_owned()),
    }
}
