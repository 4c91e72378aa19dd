//! Reads PEM as Go's `encoding/pem` does: a damaged block does not block the others.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use kms_core::{Error, Result};
use rustls_pki_types::CertificateDer;
use tracing::warn;
use zeroize::Zeroizing;

/// The byte order mark, which programs on Windows write before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Go ignores the unused bits at the end too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A block of a PEM text.
pub struct Block {
    /// The label, such as `CERTIFICATE`.
    pub label: String,
    /// The number of the line where the block begins, from 1.
    pub line: usize,
    /// Whether the block says that it is encrypted in the old form of OpenSSL.
    pub has_old_encryption: bool,
    /// The content. `None` if the block is damaged: cut off, or not base64.
    pub der: Option<Zeroizing<Vec<u8>>>,
    has_headers: bool,
}

/// Reads all blocks of a PEM text, damaged ones included. Text around the blocks, indented lines and line breaks of
/// every system are allowed.
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut found: Vec<Block> = Vec::new();
    let mut body: Option<Zeroizing<Vec<u8>>> = None;
    for (at, line) in lines(text).enumerate() {
        let line = line.trim_ascii();
        if let Some(label) = boundary(line, b"-----BEGIN ") {
            body = Some(Zeroizing::new(Vec::with_capacity(text.len())));
            let label = String::from_utf8_lossy(label).into_owned();
            let block =
                Block { label, line: at + 1, has_old_encryption: false, der: None, has_headers: false };
            found.push(block);
        } else if let (Some(label), Some(block)) = (boundary(line, b"-----END "), found.last_mut()) {
            if let Some(body) = body.take()
                && block.label.as_bytes() == label
            {
                // The size is right from the start, so that no copy of a key stays behind.
                let mut der = Zeroizing::new(vec![0; body.len()]);
                if let Ok(length) = BASE64.decode_slice(&*body, &mut der) {
                    der.truncate(length);
                    block.der = Some(der).filter(|der| !der.is_empty());
                }
            }
        } else if let (Some(body), Some(block)) = (&mut body, found.last_mut()) {
            if line.contains(&b':') {
                block.has_headers = true;
                block.has_old_encryption |= line == b"Proc-Type: 4,ENCRYPTED";
            } else {
                body.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
            }
        }
    }
    found
}

/// Reads the certificates of a PEM text. Skips damaged blocks and blocks of other kinds, with a warning.
///
/// # Errors
///
/// `ConfigInvalid` if there is no certificate; the error says what the text holds instead.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let blocks = blocks(text);
    let mut found = Vec::new();
    for block in &blocks {
        match &block.der {
            Some(der) if block.is_certificate() => found.push(CertificateDer::from(der.to_vec())),
            Some(_) if block.is_key() => {}
            der => warn!(
                line = block.line,
                "a block of the certificates is skipped: {}",
                if der.is_none() { "it is damaged" } else { "it is not a CERTIFICATE" }
            ),
        }
    }
    if found.is_empty() {
        return Err(missing(text, &blocks));
    }
    Ok(found)
}

/// The error for a text without certificates.
fn missing(text: &[u8], blocks: &[Block]) -> Error {
    let expected = "expected a PEM block CERTIFICATE";
    Error::config(match blocks.first() {
        _ if blocks.iter().any(|block| block.label == "CERTIFICATE" && block.der.is_none()) => {
            "the PEM text of the certificates is damaged: a block is cut off or is not base64".to_owned()
        }
        Some(_) if blocks.iter().any(|block| block.label == "TRUSTED CERTIFICATE") => {
            format!("no certificate found: {expected}, not TRUSTED CERTIFICATE; convert it with openssl x509")
        }
        Some(_) if blocks.iter().all(Block::is_key) => {
            format!("no certificate found, only a private key: {expected}")
        }
        None if text.starts_with(&[0x30]) && text.get(1).is_some_and(|length| *length >= 0x80) => format!(
            "no certificate found: the text is DER, not PEM; convert it with openssl x509 -inform DER; {expected}"
        ),
        _ => format!("no certificate found: {expected}"),
    })
}

impl Block {
    fn is_certificate(&self) -> bool {
        self.label == "CERTIFICATE" && !self.has_headers
    }

    /// Whether the label is one of a private key, encrypted ones included.
    pub fn is_key(&self) -> bool {
        self.label == "PRIVATE KEY" || self.label.ends_with(" PRIVATE KEY")
    }

    /// Whether this is a private key that is encrypted with a password.
    pub fn is_encrypted_key(&self) -> bool {
        self.is_key() && (self.has_old_encryption || self.label == "ENCRYPTED PRIVATE KEY")
    }
}

/// Splits a text at line breaks of every system.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            rest = None;
            return Some(text);
        };
        let width = if text.get(end..end + 2) == Some(b"\r\n") { 2 } else { 1 };
        rest = text.get(end + width..);
        text.get(..end)
    })
}

/// The label of a line such as `-----BEGIN CERTIFICATE-----`.
fn boundary<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(start)?.strip_suffix(b"-----")
}
