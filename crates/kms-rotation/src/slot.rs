//! Numbers of key slots.

use std::{fmt, str::FromStr};

use kms_core::{Error, Result};

/// Key slots of a LUKS2 header.
const LUKS2_SLOTS: u8 = 32;

/// The number of a key slot: 0 to 31 (LUKS1: 0 to 7).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Slot(u8);

impl Slot {
    /// The slot that a device is formatted with, and the one that Rook's rotation ends with (rook-behaviour §12.2).
    pub const CURRENT: Self = Self(0);
    /// The slot that Rook's rotation uses in between.
    pub const OTHER: Self = Self(1);
    /// The two slots that belong to the KEK and its rotation. All others belong to other users: recovery keys, tokens.
    pub const PAIR: [Self; 2] = [Self::CURRENT, Self::OTHER];

    /// A slot by its number.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` above 31.
    pub fn new(number: u8) -> Result<Self> {
        if number < LUKS2_SLOTS {
            Ok(Self(number))
        } else {
            Err(Error::config(format!(
                "there is no key slot {number}: LUKS has slots 0 to {}",
                LUKS2_SLOTS - 1
            )))
        }
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Whether the slot belongs to the rotation.
    pub fn is_rotation(self) -> bool {
        Self::PAIR.contains(&self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Slot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // Digits alone: `+1` and `01` are no slots.
        let plain =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
        match text.parse() {
            Ok(number) if plain => Self::new(number),
            _ => Err(Error::config("a key slot is a number from 0 to 31")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_numbers_up_to_31() {
        assert_eq!("31".parse::<Slot>().unwrap().number(), 31);
        for text in ["32", "-1", "+1", "01", "", "a", "1 ", "300"] {
            assert!(text.parse::<Slot>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_pair_is_zero_and_one() {
        let pair: Vec<_> =
            (0..32).map(|number| Slot::new(number).unwrap()).filter(|slot| slot.is_rotation()).collect();
        assert_eq!(pair, [Slot::CURRENT, Slot::OTHER]);
    }
}
