//! What a run has seen of an OSD, so that a later look can tell whether another program has written meanwhile.

use std::fmt::Write as _;

use kms_core::KeyVersion;

use crate::SlotTable;

/// The version of the KEK and the key slots of all devices, as text. Two equal sights mean that in between no program
/// wrote to a slot or stored a KEK. Holds no secret: salts stand in clear in each header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sight(String);

impl Sight {
    pub(crate) fn new<'a>(version: &KeyVersion, tables: impl IntoIterator<Item = &'a SlotTable>) -> Self {
        let mut text = format!("version {:?}\n", version.as_str());
        for table in tables {
            // Writing to a string does not fail.
            let _written = writeln!(text, "device {:?}", table.uuid());
            for (slot, salt) in table.salts() {
                let _written = writeln!(text, "slot {slot} salt {salt:?}");
            }
        }
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeySlot, Slot, SlotKdf};

    fn table(slots: &[(Slot, &str)]) -> SlotTable {
        let slot = |(slot, salt): &(Slot, &str)| KeySlot {
            slot: *slot,
            kdf: SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 },
            opens_data: true,
            salt: (*salt).to_owned(),
            ignored: false,
            tokens: Vec::new(),
        };
        SlotTable::new("uuid", slots.iter().map(slot), None)
    }

    #[test]
    fn every_write_of_a_slot_and_of_the_kek_is_seen() {
        let sight = |version: &str, slots: &[(Slot, &str)]| {
            Sight::new(&KeyVersion::new(version), [&table(&[(Slot::CURRENT, "a")]), &table(slots)])
        };
        let first = sight("1", &[(Slot::CURRENT, "a")]);
        assert_eq!(first, sight("1", &[(Slot::CURRENT, "a")]));
        for other in [
            sight("2", &[(Slot::CURRENT, "a")]),
            sight("1", &[(Slot::CURRENT, "b")]),
            sight("1", &[(Slot::OTHER, "a")]),
            sight("1", &[(Slot::CURRENT, "a"), (Slot::OTHER, "c")]),
            sight("1", &[]),
        ] {
            assert_ne!(first, other);
        }
    }
}
