//! The header on the disk, read without another program.
//!
//! It holds the identity of the device (version, UUID, label, subsystem) and the slots in use. The check before each
//! removal of a slot reads it here, since a run of cryptsetup would cost as much as the removal.
//! LUKS1: "LUKS1 On-Disk Format Specification" 1.2.3; LUKS2: "LUKS2 On-Disk Format Specification" 1.1.1, sections 2
//! and 3.

use std::{io, path::Path};

use kms_core::{Error, ErrorKind, Result, Retry};
use kms_rotation::{KeySlot, Refusal, Slot, SlotKdf};

use crate::{
    direct::DirectReader,
    error::not_read,
    header::{DiskIdentity, Header, LuksVersion, clean},
};

/// The first bytes of a header, and of the second copy that LUKS2 has.
const MAGIC: &[u8] = b"LUKS\xba\xbe";
const MAGIC_SECOND: &[u8] = b"SKUL\xba\xbe";
/// The sizes that a copy of a LUKS2 header may have.
const SIZES: [u64; 9] = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
/// Bytes of the binary part of a LUKS2 header, after which the metadata begin.
const BINARY: usize = 4096;
/// The offset of the slots in a LUKS1 header, the number of slots, and the bytes of each slot.
const LUKS1_SLOTS_AT: usize = 208;
const LUKS1_SLOTS: u8 = 8;
const LUKS1_SLOT_BYTES: usize = 48;
/// The offset of the salt in a LUKS1 slot, and its bytes.
const LUKS1_SALT_AT: usize = 8;
const LUKS1_SALT_BYTES: usize = 32;
/// The offset of the sector of a LUKS1 header where the data begin, and the bytes of a sector.
const LUKS1_PAYLOAD_AT: usize = 104;
const SECTOR: u64 = 512;
/// The bytes of a read that only compares.
const PIECE: usize = 1 << 20;
/// How often a whole header is read while programs write to it.
const WHOLE_READS: usize = 3;
/// The largest whole header: two copies of 4 MiB, and 128 MiB of key slots.
const MOST_WHOLE: u64 = 136 << 20;
/// The mark of a LUKS1 slot that is in use.
const LUKS1_IN_USE: u32 = 0x00AC_71F3;

/// A header on the disk.
#[derive(Debug)]
pub(crate) enum OnDisk {
    Luks1(Header),
    Luks2 {
        identity: DiskIdentity,
        /// The metadata. `None` if the two copies differ, as they do during a write and after damage.
        json: Option<Vec<u8>>,
    },
}

/// Reads the header.
///
/// # Errors
///
/// `ConfigInvalid` if there is no such device, if it has no LUKS header, or if it is neither a block device nor a file. The
/// cause is [`Refusal::Header`] if the device was read and has no whole header.
pub(crate) fn read(path: &Path) -> Result<OnDisk> {
    let disk = DirectReader::open(path)?;
    let start = disk.read(0, BINARY).map_err(not_read)?;
    match (start.get(..MAGIC.len()) == Some(MAGIC), number(&start, 6, 2)) {
        (true, Some(1)) => luks1(&start).ok_or_else(|| cut_off("LUKS1")),
        (true, Some(2)) => luks2(&disk, &start),
        (true, version) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the device has a LUKS header of version {}: only 1 and 2 are supported",
                version.unwrap_or_default()
            ),
        )),
        (false, _) => second(&disk)?.ok_or_else(|| {
            Error::config(
                "the device has no LUKS header: it is the wrong device, it was never encrypted, or the header was \
                 overwritten; kms escrow restore --header brings a saved one back",
            )
            .source(Refusal::Header)
        }),
    }
}

/// Reads a whole header: both copies of the metadata and the areas of the key slots.
///
/// # Errors
///
/// As [`read`]; `Conflict` if a program writes to the header meanwhile; `Protocol` if the two copies of a LUKS2 header
/// differ; `Unsupported` if the header is detached from its data.
pub(crate) fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let disk = DirectReader::open(path)?;
    for _ in 0..WHOLE_READS {
        let length = whole_length(&disk, read(path)?)?;
        let bytes = disk.read(0, length).map_err(not_read)?;
        if bytes.len() != length {
            return Err(cut_off("LUKS"));
        }
        // The areas of the slots take milliseconds to read, and a program that writes them changes the metadata too.
        if is_same(&disk, &bytes).map_err(not_read)? {
            return Ok(bytes);
        }
    }
    Err(Error::new(ErrorKind::Conflict, "a program writes to the LUKS header: try again when it has ended")
        .retry(Retry::Always))
}

/// Whether the disk still begins with these bytes. Reads piece by piece, since a header has 16 MiB and more.
fn is_same(disk: &DirectReader, bytes: &[u8]) -> io::Result<bool> {
    let mut offset = 0;
    for piece in bytes.chunks(PIECE) {
        if disk.read(offset, piece.len())? != piece {
            return Ok(false);
        }
        offset += u64::try_from(piece.len()).map_err(io::Error::other)?;
    }
    Ok(true)
}

/// The bytes of a whole header.
fn whole_length(disk: &DirectReader, found: OnDisk) -> Result<usize> {
    let length = match found {
        OnDisk::Luks1(_) => {
            let start = disk.read(0, BINARY).map_err(not_read)?;
            number(&start, LUKS1_PAYLOAD_AT, 4)
                .and_then(|sectors| sectors.checked_mul(SECTOR))
                .filter(|at| *at > 0)
                .ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, "the LUKS1 header is detached from its data")
                })?
        }
        OnDisk::Luks2 { json: Some(json), .. } => Header::luks2_bytes(&json)?,
        OnDisk::Luks2 { json: None, .. } => {
            return Err(Error::new(
                ErrorKind::Protocol,
                "the two copies of the LUKS2 header differ: repair the header first (cryptsetup repair)",
            ));
        }
    };
    if length > MOST_WHOLE {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("the LUKS header has {length} bytes, which is too much"),
        ));
    }
    usize::try_from(length).map_err(|_too_much| cut_off("LUKS"))
}

fn cut_off(what: &str) -> Error {
    Error::config(format!(
        "the device ends within its {what} header: it is damaged, or only a part was copied"
    ))
    .source(Refusal::Header)
}

fn luks1(start: &[u8]) -> Option<OnDisk> {
    let identity = DiskIdentity {
        version: LuksVersion::Luks1,
        uuid: text(start, 168, 40)?,
        label: None,
        subsystem: None,
    };
    let hash = text(start, 72, 32)?;
    let mut slots = Vec::new();
    for at in 0..LUKS1_SLOTS {
        let begin = LUKS1_SLOTS_AT + usize::from(at) * LUKS1_SLOT_BYTES;
        let [state, iterations] = [number(start, begin, 4)?, number(start, begin + 4, 4)?];
        // Refuses a header that is cut off within its last slot.
        number(start, begin + LUKS1_SLOT_BYTES - 4, 4)?;
        if state == u64::from(LUKS1_IN_USE) {
            let kdf = SlotKdf::Pbkdf2 { hash: hash.clone(), iterations };
            let salt = start.get(begin + LUKS1_SALT_AT..begin + LUKS1_SALT_AT + LUKS1_SALT_BYTES)?;
            let salt = salt.iter().map(|byte| format!("{byte:02x}")).collect();
            let slot = Slot::new(at).ok()?;
            slots.push(KeySlot { slot, kdf, opens_data: true, salt, ignored: false, tokens: Vec::new() });
        }
    }
    Some(OnDisk::Luks1(Header::luks1(identity, slots)))
}

fn luks2(disk: &DirectReader, start: &[u8]) -> Result<OnDisk> {
    let identity = luks2_identity(start).ok_or_else(|| cut_off("LUKS2"))?;
    let size = number(start, 8, 8).filter(|size| SIZES.contains(&(size / 1024)) && size % 1024 == 0);
    // An impossible size is damage, which cryptsetup may be able to repair from the second copy.
    let json = match size {
        Some(size) => metadata(disk, size, number(start, 16, 8))?,
        None => None,
    };
    Ok(OnDisk::Luks2 { identity, json })
}

/// The metadata. `None` unless both copies are complete and equal.
fn metadata(disk: &DirectReader, size: u64, sequence: Option<u64>) -> Result<Option<Vec<u8>>> {
    let Ok(length) = usize::try_from(size) else { return Ok(None) };
    // One read, so that little time passes between the two copies.
    let both = disk.read(0, 2 * length).map_err(not_read)?;
    let Some((first, second)) = both.split_at_checked(length) else { return Ok(None) };
    let whole = second.len() == length;
    let second_counts = second.get(..MAGIC_SECOND.len()) == Some(MAGIC_SECOND)
        && number(second, 16, 8) == sequence
        && number(first, 16, 8) == sequence;
    let (Some(json), Some(again)) = (first.get(BINARY..), second.get(BINARY..)) else { return Ok(None) };
    if !whole || !second_counts || json != again {
        return Ok(None);
    }
    // The text ends at the first zero.
    Ok(json.split(|byte| *byte == 0).next().map(<[u8]>::to_vec))
}

/// Looks for the second copy of a LUKS2 header whose first copy is damaged.
fn second(disk: &DirectReader) -> Result<Option<OnDisk>> {
    for size in SIZES {
        let binary = disk.read(size * 1024, BINARY).map_err(not_read)?;
        if binary.get(..MAGIC_SECOND.len()) == Some(MAGIC_SECOND)
            && number(&binary, 6, 2) == Some(2)
            && let Some(identity) = luks2_identity(&binary)
        {
            return Ok(Some(OnDisk::Luks2 { identity, json: None }));
        }
    }
    Ok(None)
}

fn luks2_identity(binary: &[u8]) -> Option<DiskIdentity> {
    // Refuses a header that is cut off within its padding of zeros.
    number(binary, BINARY - 8, 8)?;
    let filled = |text: String| (!text.is_empty()).then_some(text);
    Some(DiskIdentity {
        version: LuksVersion::Luks2,
        uuid: text(binary, 168, 40)?,
        label: filled(text(binary, 24, 48)?),
        subsystem: filled(text(binary, 208, 48)?),
    })
}

/// A number of `length` bytes, the highest one first.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let digits = bytes.get(at..at.checked_add(length)?)?;
    Some(digits.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

/// A text that ends at a zero, in a field of `length` bytes.
fn text(bytes: &[u8], at: usize, length: usize) -> Option<String> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let text = field.split(|byte| *byte == 0).next()?;
    Some(clean(&String::from_utf8_lossy(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> Result<OnDisk> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read(file.path())
    }

    /// A LUKS1 header with slots 0 and 7.
    fn luks1_header() -> Vec<u8> {
        let mut bytes = vec![0; 592];
        bytes[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x01");
        bytes[72..78].copy_from_slice(b"sha256");
        bytes[168..172].copy_from_slice(b"uuid");
        for slot in [0, 7] {
            bytes[208 + slot * 48..][..4].copy_from_slice(&LUKS1_IN_USE.to_be_bytes());
            bytes[212 + slot * 48..][..4].copy_from_slice(&1000_u32.to_be_bytes());
        }
        bytes
    }

    /// A LUKS2 header of twice 16 KiB with this text as its metadata.
    fn luks2_header(json: &str) -> Vec<u8> {
        let mut bytes = vec![0; 32 << 10];
        for (at, magic) in [(0, MAGIC), (16 << 10, MAGIC_SECOND)] {
            bytes[at..][..6].copy_from_slice(magic);
            bytes[at + 7] = 2;
            bytes[at + 8..][..8].copy_from_slice(&(16_u64 << 10).to_be_bytes());
            bytes[at + 23] = 9;
            bytes[at + 24..][..47].copy_from_slice(&[b'l'; 47]);
            bytes[at + 168..][..4].copy_from_slice(b"uuid");
            bytes[at + BINARY..][..json.len()].copy_from_slice(json.as_bytes());
        }
        bytes
    }

    #[test]
    fn a_luks1_header_yields_its_slots() {
        let OnDisk::Luks1(header) = found(&luks1_header()).unwrap() else { panic!("not LUKS1") };
        assert_eq!(header.slots().map(|slot| slot.slot.number()).collect::<Vec<_>>(), [0, 7]);
        assert_eq!((header.uuid(), header.version()), ("uuid", LuksVersion::Luks1));
        assert_eq!(header.slots().next().unwrap().kdf.cost(), 1000);
    }

    #[test]
    fn a_luks2_header_yields_its_identity_and_its_metadata_when_both_copies_agree() {
        let good = luks2_header("{}");
        let OnDisk::Luks2 { identity, json } = found(&good).unwrap() else { panic!("not LUKS2") };
        assert_eq!(identity.label, Some("l".repeat(47)));
        assert_eq!((identity.subsystem, json), (None, Some(b"{}".to_vec())));
        // A copy that is older, differs or is missing: no metadata.
        for at in [23, BINARY, 16 << 10, (16 << 10) + 23, (16 << 10) + BINARY] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let OnDisk::Luks2 { json, .. } = found(&bytes).unwrap() else { panic!("not LUKS2") };
            assert_eq!(json, None, "{at}");
        }
        let OnDisk::Luks2 { json, .. } = found(&good[..20 << 10]).unwrap() else { panic!("not LUKS2") };
        assert_eq!(json, None);
    }

    #[test]
    fn a_device_whose_first_copy_is_gone_is_found_by_its_second() {
        let mut bytes = luks2_header("{}");
        bytes[..6].fill(0);
        let OnDisk::Luks2 { identity, json } = found(&bytes).unwrap() else { panic!("not LUKS2") };
        assert_eq!((identity.uuid.as_str(), json), ("uuid", None));
    }

    #[test]
    fn an_absent_or_incomplete_header_is_refused_with_the_reason() {
        let cases: [(&[u8], &str); 6] = [
            (b"", "no LUKS header"),
            (b"LUKS", "no LUKS header"),
            (&[0; 8192], "no LUKS header"),
            (b"LUKS\xba\xbe\x00\x03", "version 3"),
            (&luks1_header()[..591], "ends within its LUKS1 header"),
            (&luks2_header("{}")[..4095], "ends within its LUKS2 header"),
        ];
        for (bytes, what) in cases {
            let error = found(bytes).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            // A header of a later version may be whole.
            let is_gone = !what.starts_with("version");
            assert_eq!(Refusal::of(&error), is_gone.then_some(Refusal::Header), "{error}");
        }
        let missing = read(Path::new("/nonexistent/device")).unwrap_err();
        assert_eq!((missing.kind(), Refusal::of(&missing)), (ErrorKind::ConfigInvalid, None));
        assert!(missing.to_string().contains("no such device"), "{missing}");
        let folder = read(Path::new("/")).unwrap_err();
        assert!(folder.to_string().contains("neither a block device"), "{folder}");
    }

    #[test]
    fn no_damage_to_a_header_makes_the_reader_panic() {
        let good = luks2_header("{}");
        for at in (0..600).chain(16 << 10..(16 << 10) + 600) {
            let mut bytes = good.clone();
            bytes[at] = 0xff;
            let _any = found(&bytes);
        }
        for at in 0..592 {
            let mut bytes = luks1_header();
            bytes[at] = 0xff;
            let _any = found(&bytes);
        }
    }
}
