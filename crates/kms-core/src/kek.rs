//! The key encryption key (KEK), which is a secret text.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// The number of random bytes in a generated KEK, as in Rook (rook-behaviour §8.1).
const RANDOM_BYTES: usize = 128;
/// The size of the largest valid KEK, in bytes. `cryptsetup` reads key files up to 8 MiB, but the largest passphrase
/// that every provider can store is far smaller.
const MAX_BYTES: usize = 8 * 1024;
/// The key of the fingerprint's HMAC. It is public, and only makes our fingerprints differ from other hashes of the
/// same text.
const FINGERPRINT_KEY: &[u8] = b"rook-kms KEK fingerprint v1";
/// How many bytes of the HMAC a fingerprint has.
const FINGERPRINT_BYTES: usize = 8;

/// A key encryption key (KEK): the passphrase that opens a LUKS key slot.
///
/// The KEK itself is the passphrase; LUKS gets it without any decoding (rook-behaviour §8.1).
/// It is text, but for one case: a Kubernetes Secret may hold other bytes, which Rook hands to cryptsetup unchanged. A
/// KMS that stores text refuses such a KEK.
/// A KEK is wiped from memory on drop and compared in constant time. No formatter prints it; only the methods
/// `expose_secret…` return it.
pub struct Kek(Form);

/// The forms of a KEK.
enum Form {
    Text(SecretString),
    /// Bytes that are not UTF-8.
    Bytes(SecretSlice<u8>),
}

impl Kek {
    /// The size of the largest KEK that [`parse`](Self::parse) accepts, in bytes.
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
        // The buffer has the exact size: a growing one would leave copies in memory.
        Ok(Self(Form::Text(SecretString::from(STANDARD.encode(random.as_slice())))))
    }

    /// Makes a KEK from a text that the caller supplies: not empty, up to 8 KiB.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text is empty, is too long, or ends in a line break: the line break would be part of the
    /// passphrase, and is nearly always there by accident.
    pub fn parse(text: impl Into<SecretString>) -> Result<Self> {
        let text = text.into();
        let bytes = text.expose_secret().as_bytes();
        match bytes.last() {
            Some(b'\n' | b'\r') => Err(Error::config(
                "the KEK ends in a line break, which would be part of the passphrase: store it without one \
                 (printf '%s' instead of echo)",
            )),
            _ => check_size(bytes).map(|()| Self(Form::Text(text))),
        }
    }

    /// Makes a KEK from a stored text: not empty, up to 8 KiB, possibly with a line break at its end.
    ///
    /// The program that stored the line break has also formatted the device with it, so it is part of the passphrase.
    /// Such a KEK logs a warning.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the text is empty or has more than 8 KiB.
    pub fn from_stored(text: impl Into<SecretString>) -> Result<Self> {
        Self::stored(Form::Text(text.into()))
    }

    fn stored(form: Form) -> Result<Self> {
        let kek = Self(form);
        let bytes = kek.expose_secret_bytes();
        check_size(bytes)?;
        if matches!(bytes.last(), Some(b'\n' | b'\r')) {
            warn!("the stored KEK ends in a line break, which is part of the passphrase of its device");
        }
        Ok(kek)
    }

    /// Makes a KEK from UTF-8 bytes that the caller supplies, and always wipes the bytes.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse), and `ConfigInvalid` for bytes that are not UTF-8.
    pub fn parse_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::parse(utf8(bytes).map_err(|_bytes| not_text())?)
    }

    /// Makes a KEK from stored bytes, and always wipes the bytes.
    ///
    /// Bytes that are not UTF-8 are a KEK too, and log a warning: the program that stored them has formatted the device
    /// with them.
    ///
    /// # Errors
    ///
    /// As [`from_stored`](Self::from_stored).
    pub fn from_stored_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::stored(match utf8(bytes) {
            Ok(text) => Form::Text(text),
            Err(bytes) => {
                warn!("the stored KEK is not UTF-8 text; its bytes are the passphrase of its device");
                Form::Bytes(bytes)
            }
        })
    }

    /// The bytes of the KEK, which are the LUKS passphrase.
    pub fn expose_secret_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Text(text) => text.expose_secret().as_bytes(),
            Form::Bytes(bytes) => bytes.expose_secret(),
        }
    }

    /// The text of the KEK, to be stored.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the KEK [is not text](Self::is_text).
    pub fn expose_secret_text(&self) -> Result<&str> {
        match &self.0 {
            Form::Text(text) => Ok(text.expose_secret()),
            Form::Bytes(_) => Err(not_text()),
        }
    }

    /// Whether the KEK is UTF-8 text. Every KEK is, but for some that [`from_stored_bytes`](Self::from_stored_bytes)
    /// makes.
    pub fn is_text(&self) -> bool {
        matches!(self.0, Form::Text(_))
    }

    /// Whether both KEKs are equal. The comparison takes a time that depends on the lengths alone.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.expose_secret_bytes().ct_eq(other.expose_secret_bytes()).into()
    }

    /// Makes a copy, which is wiped on drop too.
    ///
    /// `Kek` is not `Clone`, so that every copy is explicit.
    pub fn duplicate(&self) -> Self {
        Self(match &self.0 {
            Form::Text(text) => Form::Text(SecretString::from(text.expose_secret())),
            Form::Bytes(bytes) => Form::Bytes(SecretSlice::from(bytes.expose_secret().to_vec())),
        })
    }

    /// Sixteen hexadecimal digits that distinguish KEKs without showing them.
    ///
    /// The fingerprint is the first 8 bytes of the HMAC-SHA-256 of the KEK's bytes, with the fixed, public key
    /// `rook-kms KEK fingerprint v1`.
    /// A generated KEK has 1,024 bits of entropy and cannot be found from its fingerprint. A KEK that a person made up
    /// might be guessed, so do not publish its fingerprint.
    pub fn fingerprint(&self) -> String {
        // HMAC accepts a key of any length, so this cannot fail. An empty text equals no fingerprint.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(FINGERPRINT_KEY) else { return String::new() };
        mac.update(self.expose_secret_bytes());
        let mut text = String::with_capacity(2 * FINGERPRINT_BYTES);
        for byte in mac.finalize().into_bytes().into_iter().take(FINGERPRINT_BYTES) {
            text.extend(
                [byte >> 4, byte & 0xf].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)),
            );
        }
        text
    }
}

/// Text, or the bytes if they are not UTF-8. Wipes `bytes`.
fn utf8(mut bytes: Vec<u8>) -> std::result::Result<SecretString, SecretSlice<u8>> {
    let form = match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(SecretString::from(text)),
        // A copy of the exact size: a vector with room to spare would leave one behind when it shrinks.
        Err(_) => Err(SecretSlice::from(bytes.as_slice().to_vec())),
    };
    bytes.zeroize();
    form
}

fn check_size(bytes: &[u8]) -> Result<()> {
    match bytes.len() {
        0 => Err(Error::config("the KEK is empty")),
        1..=MAX_BYTES => Ok(()),
        length => Err(Error::config(format!("the KEK has {length} bytes, at most {MAX_BYTES} are allowed"))),
    }
}

fn not_text() -> Error {
    Error::config("the KEK is not UTF-8 text: make a new one (kms create), or encode it in base64")
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
        assert_eq!(kek.expose_secret_text().unwrap().len(), 172);
        assert_eq!(STANDARD.decode(kek.expose_secret_text().unwrap()).unwrap().len(), 128);
        assert!(!kek.ct_eq(&Kek::generate().unwrap()));
    }

    #[test]
    fn any_text_up_to_8_kib_is_taken() {
        for text in ["x".to_owned(), "ein Satz mit Leerzeichen ß".to_owned(), "y".repeat(MAX_BYTES)] {
            assert_eq!(Kek::parse(text.clone()).unwrap().expose_secret_text().unwrap(), text);
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
        assert_eq!(Kek::from_stored("with\n").unwrap().expose_secret_text().unwrap(), "with\n");
        assert!(Kek::from_stored("").is_err());
        assert!(Kek::from_stored("x".repeat(MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn stored_bytes_that_are_not_text_are_a_kek_without_text() {
        let bytes = [b'\xff', 0, b'k', b'\n'];
        let kek = Kek::from_stored_bytes(bytes.to_vec()).unwrap();
        assert_eq!(kek.expose_secret_bytes(), bytes);
        assert!(!kek.is_text());
        assert!(kek.expose_secret_text().unwrap_err().to_string().contains("not UTF-8"));
        assert!(kek.ct_eq(&kek.duplicate()) && kek.duplicate().expose_secret_bytes() == bytes);
        assert!(!kek.ct_eq(&Kek::from_stored_bytes(vec![0xfe, 0, b'k', b'\n']).unwrap()));
        assert_ne!(kek.fingerprint(), Kek::from_stored_bytes(vec![0xff]).unwrap().fingerprint());
        assert_eq!(format!("{kek:?}"), "Kek(..)");
        assert!(Kek::from_stored_bytes(vec![0xff; MAX_BYTES + 1]).is_err());
        let text = Kek::from_stored_bytes(b"text".to_vec()).unwrap();
        assert_eq!((text.is_text(), text.expose_secret_text().unwrap()), (true, "text"));
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
