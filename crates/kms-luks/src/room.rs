//! Whether a LUKS2 header has room for one more key slot: an area for its key material, and a place in the metadata.
//!
//! "LUKS2 On-Disk Format Specification" 1.1.1, sections 2.1 and 3.2. cryptsetup refuses the slot after the unlocking of
//! another one; a rotation asks before it writes.

use serde_json::{Map, Value};

/// Bytes of the binary part of a header.
const BINARY: u64 = 4096;
/// The areas of slots begin and end at multiples of this number of bytes.
const ALIGNMENT: u64 = 4096;
/// The stripes of the anti-forensic splitter.
const STRIPES: u64 = 4000;
/// The bytes of the entry of a slot with PBKDF2 or Argon2 in the metadata, and of its number in a digest.
const ENTRY: u64 = 340;

/// Whether there is room. `true` if the metadata do not tell, so that cryptsetup decides.
pub(crate) fn has_room(root: &Value) -> bool {
    area(root).unwrap_or(true) && metadata(root).unwrap_or(true)
}

/// The offset of the first area of a key slot: behind both copies of the metadata.
fn slots_at(root: &Value) -> Option<u64> {
    number(root.pointer("/config/json_size")?)?.checked_add(BINARY)?.checked_mul(2)
}

/// The bytes of the whole header: both copies of the metadata, and the areas of the key slots.
pub(crate) fn header_bytes(root: &Value) -> Option<u64> {
    slots_at(root)?.checked_add(number(root.pointer("/config/keyslots_size")?)?)
}

/// Whether an area is free that is large enough for the volume key.
fn area(root: &Value) -> Option<bool> {
    let keyslots = root.get("keyslots")?.as_object()?;
    let (first, end) = (slots_at(root)?, header_bytes(root)?);
    let length = key_bytes(keyslots)?.checked_mul(STRIPES)?.checked_next_multiple_of(ALIGNMENT)?;
    let mut used = Vec::with_capacity(keyslots.len());
    for slot in keyslots.values() {
        let area = slot.get("area")?;
        let offset = number(area.get("offset")?)?;
        used.push((offset, offset.checked_add(number(area.get("size")?)?)?));
    }
    used.sort_unstable();
    let mut free_from = first;
    for (offset, area_end) in used {
        if offset >= free_from.checked_add(length)? {
            return Some(true);
        }
        free_from = free_from.max(area_end);
    }
    Some(free_from.checked_add(length)? <= end)
}

/// The bytes of the volume key.
fn key_bytes(keyslots: &Map<String, Value>) -> Option<u64> {
    let luks2 = keyslots.values().filter(|slot| slot.get("type").and_then(Value::as_str) == Some("luks2"));
    luks2.filter_map(|slot| slot.get("key_size")?.as_u64()).max()
}

/// Whether the metadata, which end with a zero, have room for the entry of a slot.
fn metadata(root: &Value) -> Option<bool> {
    let size = number(root.pointer("/config/json_size")?)?;
    let used = u64::try_from(root.to_string().len()).ok()?;
    Some(used.checked_add(ENTRY)? < size)
}

/// A number of 64 bits, which LUKS2 writes as a text.
fn number(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}
