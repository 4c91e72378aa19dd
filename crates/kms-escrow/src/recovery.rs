//! Recovery keys: random passphrases that people can type, with check characters.

use std::fmt;

use kms_core::{Error, ErrorKind, Kek, KeyName, Result};
use qrcode::{QrCode, render::unicode::Dense1x2};
use zeroize::Zeroizing;

/// The characters of a recovery key: digits and letters without `0`, `1`, `I`, `L` and `O`. Their number is a prime, so
/// that the check characters see each wrong character and each swap of neighbours.
const ALPHABET: &[u8; 31] = b"23456789ABCDEFGHJKMNPQRSTUVWXYZ";
/// The groups of a recovery key, and the random characters of each. Together they have 198 random bits.
const GROUPS: usize = 8;
const RANDOM: usize = 5;
/// The characters of a group with its check character.
const GROUP: usize = RANDOM + 1;
/// What separates the groups.
const DASH: u8 = b'-';
/// The factor of the number of a group in its check character, so that swapped groups are seen.
const OF_GROUP: usize = 7;
/// The inverse of the weight of the check character (6) modulo 31.
const INVERSE: usize = 26;
/// The start of the line of a page that has the key.
const LINE: &str = "recovery key: ";

/// A random passphrase for a key slot of its own, which opens the device without the KMS.
///
/// Its text is the passphrase: eight groups of six characters, so that stock cryptsetup takes what is on the paper. The
/// last character of each group is a check character.
pub struct RecoveryKey(Kek);

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

impl RecoveryKey {
    /// Makes a new key.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the system has no random bytes.
    pub fn generate() -> Result<Self> {
        let mut text = Zeroizing::new(Vec::with_capacity(GROUPS * (GROUP + 1)));
        for group in 0..GROUPS {
            if group > 0 {
                text.push(DASH);
            }
            let mut values = Zeroizing::new([0; RANDOM]);
            for value in values.iter_mut() {
                *value = random()?;
            }
            text.extend(
                values.iter().chain([&check(group, &*values)]).filter_map(|value| ALPHABET.get(*value)),
            );
        }
        Ok(Self(Kek::parse_bytes(std::mem::take(&mut *text))?))
    }

    /// Parses what a person has typed. Ignores case, and what separates the groups.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if it has not eight groups of six characters, or naming the first group with a mistake.
    pub fn parse(typed: &str) -> Result<Self> {
        let letters = typed.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != DASH);
        let typed = Zeroizing::new(letters.map(|byte| byte.to_ascii_uppercase()).collect::<Vec<_>>());
        if typed.len() != GROUPS * GROUP {
            let message =
                format!("the recovery key has {} characters in place of {}", typed.len(), GROUPS * GROUP);
            return Err(Error::config(message));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(GROUPS * (GROUP + 1)));
        for (group, letters) in typed.chunks(GROUP).enumerate() {
            let values: Option<Vec<usize>> =
                letters.iter().map(|letter| ALPHABET.iter().position(|known| known == letter)).collect();
            let values = values.map(Zeroizing::new);
            if values.is_none_or(|values| sum(group, &values) != 0) {
                return Err(Error::config(format!("group {} of the recovery key has a mistake", group + 1)));
            }
            if group > 0 {
                text.push(DASH);
            }
            text.extend_from_slice(letters);
        }
        Ok(Self(Kek::parse_bytes(std::mem::take(&mut *text))?))
    }

    /// The passphrase.
    pub fn passphrase(&self) -> &Kek {
        &self.0
    }

    /// A page to be printed: the key, what it opens, and a QR code with the key, in text.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the QR code cannot be made.
    pub fn page(
        &self,
        name: &KeyName,
        devices: &[(String, String)],
        made: &str,
    ) -> Result<Zeroizing<String>> {
        let key = self.0.expose_secret_text()?;
        let code = QrCode::new(key)
            .map_err(|cause| Error::new(ErrorKind::Unexpected, "the QR code cannot be made").source(cause))?;
        let code = Zeroizing::new(code.render::<Dense1x2>().build());
        let mut lines = format!("Recovery key of the encrypted OSD {name}, made {made}\n\n");
        for (device, uuid) in devices {
            lines += &format!("opens {device}, LUKS UUID {uuid}\n");
        }
        lines += "\nType it as the passphrase, with its dashes and in capital letters:\ncryptsetup open DEVICE NAME\n\n";
        let tail =
            "\nThe last character of each group is a check character: kms escrow slot check --key - DEVICE\n";
        // A buffer of the final size: one that grows leaves copies of the key.
        let size = lines.len() + LINE.len() + key.len() + 2 + code.len() + tail.len();
        let mut page = Zeroizing::new(String::with_capacity(size));
        for part in [lines.as_str(), LINE, key, "\n\n", code.as_str(), tail] {
            page.push_str(part);
        }
        Ok(page)
    }

    /// Takes the key from a page.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the page has no key, or a mistake in it.
    pub fn of_page(page: &str) -> Result<Self> {
        let line = page.lines().find_map(|line| line.strip_prefix(LINE));
        Self::parse(line.ok_or_else(|| Error::config("the page has no recovery key"))?)
    }
}

/// A random value below 31.
fn random() -> Result<usize> {
    // The largest multiple of 31 that a byte can hold: values above it would make some characters more likely.
    let most = u8::MAX - u8::MAX % 31;
    loop {
        let mut byte = Zeroizing::new([0_u8; 1]);
        getrandom::fill(&mut *byte).map_err(|cause| {
            let error = Error::new(ErrorKind::Unexpected, "the operating system gave no random bytes");
            error.context("cause", cause.to_string())
        })?;
        let [value] = *byte;
        if value < most {
            return Ok(usize::from(value % 31));
        }
    }
}

/// The sum of a group, which is 0 if its check character is right.
fn sum(group: usize, values: &[usize]) -> usize {
    let weighted: usize = values.iter().zip(1..).map(|(value, weight)| value * weight).sum();
    (weighted + OF_GROUP * group) % ALPHABET.len()
}

/// The check character of a group.
fn check(group: usize, values: &[usize]) -> usize {
    (ALPHABET.len() - sum(group, values)) * INVERSE % ALPHABET.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_eight_groups_and_is_read_as_people_type_it() {
        let key = RecoveryKey::generate().unwrap();
        let text = key.passphrase().expose_secret_text().unwrap();
        let groups: Vec<_> = text.split('-').collect();
        assert!(groups.len() == 8 && groups.iter().all(|group| group.len() == 6), "{text}");
        for typed in [text.to_owned(), text.to_lowercase(), text.replace('-', " "), format!("{text}\n")] {
            assert!(RecoveryKey::parse(&typed).unwrap().passphrase().ct_eq(key.passphrase()));
        }
        let other = RecoveryKey::generate().unwrap();
        assert!(!other.passphrase().ct_eq(key.passphrase()));
        assert_eq!(format!("{key:?}"), "RecoveryKey(..)");
    }

    #[test]
    fn each_wrong_character_each_swap_of_neighbours_and_each_swap_of_groups_is_seen() {
        let key = RecoveryKey::generate().unwrap();
        let good = key.passphrase().expose_secret_bytes().to_vec();
        let refused = |bytes: &[u8], group: usize| {
            let error = RecoveryKey::parse(std::str::from_utf8(bytes).unwrap()).unwrap_err().to_string();
            assert!(error.contains(&format!("group {} ", group + 1)), "{error}");
        };
        for at in (0..good.len()).filter(|at| at % 7 != 6) {
            for letter in ALPHABET.iter().chain(b"01ILO!").filter(|letter| **letter != good[at]) {
                let mut bytes = good.clone();
                bytes[at] = *letter;
                refused(&bytes, at / 7);
            }
            if at % 7 < 5 && good[at] != good[at + 1] {
                let mut bytes = good.clone();
                bytes.swap(at, at + 1);
                refused(&bytes, at / 7);
            }
        }
        let groups: Vec<_> = good.chunks(7).map(|group| &group[..6]).collect();
        for (first, second) in [(0, 1), (2, 7), (3, 4)] {
            let mut swapped = groups.clone();
            swapped.swap(first, second);
            refused(&swapped.concat(), first);
        }
        for text in ["", "A", &"A".repeat(49)] {
            assert!(RecoveryKey::parse(text).unwrap_err().to_string().contains("in place of 48"));
        }
    }

    #[test]
    fn a_page_has_the_key_what_it_opens_and_a_code() {
        let key = RecoveryKey::generate().unwrap();
        let devices = [("/dev/sdb".to_owned(), "1-2".to_owned())];
        let page = key.page(&"set1-data-0".parse().unwrap(), &devices, "2026-01-31").unwrap();
        assert!(RecoveryKey::of_page(&page).unwrap().passphrase().ct_eq(key.passphrase()));
        assert!(page.contains("set1-data-0") && page.contains("opens /dev/sdb, LUKS UUID 1-2"), "{}", *page);
        // A QR code of this length has 33 modules and a margin of 4 on each side, two modules to a line.
        let code = page.lines().filter(|line| line.contains(['\u{2580}', '\u{2584}', '\u{2588}'])).count();
        assert!((13..=21).contains(&code), "{code} lines: {}", *page);
        assert!(RecoveryKey::of_page("no key").is_err());
    }
}
