//! The key encryption key: a secret text.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// Random bytes in a generated KEK (Rook's figure, rook-behaviour §8.1).
const RANDOM_BYTES: usize = 128;
/// Length of [`RANDOM_BYTES`] in base64 with padding.
const TEXT_BYTES: usize = RANDOM_BYTES.div_ceil(3) * 4;
/// The largest KEK that is taken, in bytes. `cryptsetup` reads key files up to 8 MiB, but passphrases that a KMS
/// can hold under every provider are far smaller.
const MAX_BYTES: usize = 8 * 1024;
/// The key of the fingerprint's HMAC. It is no secret: it only keeps our fingerprints from matching other hashes
/// of the same text.
const FINGERPRINT_KEY: &[u8] = b"rook-kms KEK fingerprint v1";
/// Bytes of the HMAC that are kept in a fingerprint.
const FINGERPRINT_BYTES: usize = 8;

/// A key encryption key (KEK): the passphrase that opens a LUKS key slot, as text.
///
/// The text itself is the passphrase; it is never decoded for LUKS (rook-behaviour §8.1).
/// It is wiped from memory on drop, printed by no formatter, compared in constant time, and comes out by
/// [`expose_secret`](Self::expose_secret) only.
pub struct Kek(SecretString);

impl Kek {
    /// The largest KEK that [`parse`](Self::parse) takes, in bytes.
    pub const MAX_BYTES: usize = MAX_BYTES;

    /// Makes a new KEK as Rook does: 128 random bytes of the operating system in base64 with padding, 172 characters.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the operating system has no random bytes.
    pub fn generate() -> Result<Self> {
        let mut random = Zeroizing::new([0_u8; RANDOM_BYTES]);
        getrandom::fill(random.as_mut_slice()).map_err(|cause| {
            Error::new(crate::ErrorKind::Unexpected, "the operating system gave no random bytes")
                .context("cause", cause.to_string())
        })?;
        // Encoded into a buffer of the exact size: a growing one would leave copies behind.
        let mut text = String::with_capacity(TEXT_BYTES);
        STANDARD.encode_string(random.as_slice(), &mut text);
        Ok(Self(SecretString::from(text)))
    }

    /// Takes a KEK that exists: any text that is not empty, up to 8 KiB.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for an empty text, for one that is too long, and for one that ends in a line break: a line
    /// break would be part of the passphrase, and is nearly always there by accident.
    pub fn parse(text: impl Into<SecretString>) -> Result<Self> {
        let text = text.into();
        let bytes = text.expose_secret().as_bytes();
        match bytes.last() {
            None => Err(Error::config("the KEK is empty")),
            Some(b'\n' | b'\r') => Err(Error::config(
                "the KEK ends in a line break, which would be part of the passphrase: store it without one \
                 (printf '%s' instead of echo)",
            )),
            Some(_) if bytes.len() > MAX_BYTES => Err(Error::config(format!(
                "the KEK has {} bytes, at most {MAX_BYTES} are allowed",
                bytes.len()
            ))),
            Some(_) => Ok(Self(text)),
        }
    }

    /// Takes a KEK that a KMS holds: any text that is not empty, a line break at its end included. The program that stored it
    /// so has formatted the device with it, so the line break is part of the passphrase; it is warned of.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` for an empty text and for one of more than 8 KiB.
    pub fn from_stored(text: impl Into<SecretString>) -> Result<Self> {
        let text = text.into();
        let bytes = text.expose_secret().as_bytes();
        if bytes.is_empty() {
            return Err(Error::config("the KEK is empty"));
        }
        if bytes.len() > MAX_BYTES {
            return Err(Error::config(format!(
                "the KEK has {} bytes, at most {MAX_BYTES} are allowed",
                bytes.len()
            )));
        }
        if matches!(bytes.last(), Some(b'\n' | b'\r')) {
            warn!("the stored KEK ends in a line break, which is part of the passphrase of its device");
        }
        Ok(Self(text))
    }

    /// Takes a KEK from bytes that are to be UTF-8. The bytes are wiped in any case.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and `ConfigInvalid` for bytes that are not UTF-8.
    pub fn parse_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::parse(utf8(bytes)?)
    }

    /// Takes a KEK that a KMS holds from bytes that are to be UTF-8. The bytes are wiped in any case.
    ///
    /// # Errors
    ///
    /// As [`from_stored`](Self::from_stored), and `ConfigInvalid` for bytes that are not UTF-8.
    pub fn from_stored_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::from_stored(utf8(bytes)?)
    }

    /// The text of the KEK: the LUKS passphrase.
    pub fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether both are the same KEK, in a time that depends on the lengths alone.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.expose_secret().as_bytes().ct_eq(other.expose_secret().as_bytes()).into()
    }

    /// A second copy, to be wiped like the first.
    ///
    /// There is no `Clone`, so that every copy is asked for by this name.
    pub fn duplicate(&self) -> Self {
        Self(SecretString::from(self.expose_secret()))
    }

    /// Sixteen hexadecimal digits by which people can tell KEKs apart without seeing them.
    ///
    /// It is HMAC-SHA-256 with the fixed, public key `rook-kms KEK fingerprint v1` over the KEK's text, cut to the
    /// first 8 bytes.
    /// A generated KEK has 1,024 bits of entropy and cannot be found from it; a KEK that a person made up might be
    /// guessed from it, so do not publish the fingerprint of such a one.
    pub fn fingerprint(&self) -> String {
        // HMAC takes a key of any length, so this cannot fail; an empty answer would compare equal to nothing.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(FINGERPRINT_KEY) else { return String::new() };
        mac.update(self.expose_secret().as_bytes());
        mac.finalize().into_bytes().iter().take(FINGERPRINT_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn utf8(mut bytes: Vec<u8>) -> Result<SecretString> {
    let text = std::str::from_utf8(&bytes).map(SecretString::from);
    bytes.zeroize();
    text.map_err(|_cause| Error::config("the KEK is not UTF-8 text"))
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_kek_is_128_bytes_in_base64() {
        let kek = Kek::generate().unwrap();
        assert_eq!(kek.expose_secret().len(), 172);
        assert_eq!(STANDARD.decode(kek.expose_secret()).unwrap().len(), 128);
        assert!(!kek.ct_eq(&Kek::generate().unwrap()));
    }

    #[test]
    fn any_text_up_to_8_kib_is_taken() {
        for text in ["x".to_owned(), "ein Satz mit Leerzeichen ß".to_owned(), "y".repeat(MAX_BYTES)] {
            assert_eq!(Kek::parse(text.clone()).unwrap().expose_secret(), text);
        }
    }

    #[test]
    fn what_is_no_kek_is_refused_without_echoing_it() {
        let cases = [
            (String::new(), "empty"),
            ("canary-kek\n".to_owned(), "line break"),
            ("canary-kek\r\n".to_owned(), "line break"),
            ("canary".repeat(2000), "at most 8192"),
        ];
        for (text, what) in cases {
            let error = Kek::parse(text).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(!format!("{error:?}").contains("canary"));
        }
        let error = Kek::parse_bytes(vec![b'c', 0xff]).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn a_stored_kek_is_taken_as_it_is() {
        assert_eq!(Kek::from_stored("with\n").unwrap().expose_secret(), "with\n");
        assert!(Kek::from_stored("").is_err());
        assert!(Kek::from_stored("x".repeat(MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn equality_is_of_the_whole_text() {
        let kek = |text: &str| Kek::parse(text).unwrap();
        assert!(kek("abc").ct_eq(&kek("abc")));
        assert!(!kek("abc").ct_eq(&kek("abd")));
        assert!(!kek("abc").ct_eq(&kek("ab")));
        assert!(kek("abc").duplicate().ct_eq(&kek("abc")));
    }

    #[test]
    fn the_fingerprint_is_the_documented_one() {
        // printf '%s' abc | openssl dgst -sha256 -hmac 'rook-kms KEK fingerprint v1' | cut -c1-16 (of the digest)
        assert_eq!(Kek::parse("abc").unwrap().fingerprint(), "738cc6319fa0d8cb");
        assert_eq!(format!("{:?}", Kek::parse("abc").unwrap()), "Kek(..)");
    }
}
