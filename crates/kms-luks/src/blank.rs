//! Whether a device is empty, as far as samples of it show; and the note on a device that is being formatted.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use nix::libc::O_EXCL;

use crate::direct::DirectReader;

/// A part of this size is read whole.
const WHOLE: u64 = 256 << 20;
/// The bytes at each end of a larger part that are read whole. The signatures of most used disks are there.
const ENDS: u64 = 16 << 20;
/// How many samples of a larger part are read: 32 MiB in all, which takes a hard disk some seconds.
const SAMPLES: u64 = 512;
/// The bytes of a read, and of a sample.
const READ: u64 = 1 << 20;
const SAMPLE: u64 = 64 << 10;
/// Where BlueStore, btrfs and ext4 keep copies of their first block, in MiB.
const COPIES: [u64; 9] = [64, 128, 384, 640, 1 << 10, 10 << 10, 100 << 10, 256 << 10, 1000 << 10];

/// The bytes of the header that cryptsetup makes by default, with the area of its key slots.
pub(crate) const HEADER: u64 = 16 << 20;
/// The bytes of the note, and its text.
const NOTE: u64 = 4096;
const TEXT: &[u8] =
    b"kms is formatting this device: it was empty before, and the LUKS header is not complete\n";

/// Looks for a byte other than zero. `None` if all samples are zeros.
pub(crate) fn used_at(disk: &DirectReader, from: u64, to: u64) -> io::Result<Option<u64>> {
    for (offset, length) in places(from, to) {
        let bytes = disk.read(offset, usize::try_from(length).map_err(io::Error::other)?)?;
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(offset + u64::try_from(at).unwrap_or_default()));
        }
    }
    Ok(None)
}

/// The places to read: where they begin, and their bytes.
fn places(from: u64, to: u64) -> Vec<(u64, u64)> {
    let size = to.saturating_sub(from);
    let whole = |begin: u64, end: u64| {
        (begin..end).step_by(1 << 20).map(move |offset| (offset, READ.min(end - offset)))
    };
    if size <= WHOLE {
        return whole(from, to).collect();
    }
    let even = (0..SAMPLES).map(|number| from + size / SAMPLES * number);
    let copies = COPIES.into_iter().map(|mib| mib << 20);
    let samples = even.chain(copies).filter(|offset| *offset >= from && *offset < to);
    whole(from, from + ENDS)
        .chain(whole(to - ENDS, to))
        .chain(samples.map(|offset| (offset, SAMPLE.min(to - offset))))
        .collect()
}

/// Where the note is: in the last whole block. `None` if that is within the header.
pub(crate) fn note_at(size: u64) -> Option<u64> {
    let at = (size / NOTE).checked_sub(1)? * NOTE;
    (at >= HEADER).then_some(at)
}

/// Whether an earlier run has left its note: it was stopped before the header was complete.
pub(crate) fn has_note(disk: &DirectReader) -> io::Result<bool> {
    let Some(at) = note_at(disk.size()) else { return Ok(false) };
    Ok(disk.read(at, TEXT.len())? == TEXT)
}

/// Writes the note on an empty device, so that a later run knows what it finds if this one is stopped: while cryptsetup
/// formats, there are random bytes and no header.
pub(crate) fn write_note(path: &Path, size: u64) -> io::Result<()> {
    write(path, size, TEXT)
}

/// Removes the note.
pub(crate) fn erase_note(path: &Path, size: u64) -> io::Result<()> {
    write(path, size, &[0; TEXT.len()])
}

fn write(path: &Path, size: u64, text: &[u8]) -> io::Result<()> {
    let Some(at) = note_at(size) else { return Ok(()) };
    // Of a block device, this is refused while the kernel itself uses the device.
    let file = OpenOptions::new().write(true).custom_flags(O_EXCL).open(path)?;
    file.write_all_at(text, at)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(size: u64, at: Option<u64>) -> Option<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        if let Some(at) = at {
            file.as_file().write_all_at(b"x", at).unwrap();
        }
        used_at(&DirectReader::open(file.path()).unwrap(), 0, size).unwrap()
    }

    #[test]
    fn every_byte_of_a_small_device_counts() {
        for size in [1, 4096, (17 << 20) + 5] {
            assert_eq!(used(size, None), None);
            for at in [0, size / 2, size - 1] {
                assert_eq!(used(size, Some(at)), Some(at));
            }
        }
    }

    #[test]
    fn a_large_device_is_sampled_at_its_ends_evenly_and_where_superblocks_have_copies() {
        let size = 1 << 40;
        let places = places(0, size);
        let sampled =
            |at: u64| places.iter().any(|(offset, length)| (*offset..offset + length).contains(&at));
        for at in
            [0, (16 << 20) - 1, 64 << 20, 1 << 30, 10 << 30, 256 << 30, size / 2, size - (1 << 20), size - 1]
        {
            assert!(sampled(at), "{at}");
        }
        assert!(places.iter().all(|(offset, length)| offset + length <= size && *length > 0));
        // No large region is without a sample, and a hard disk reads all of them in some seconds.
        let mut begins: Vec<u64> = places.iter().map(|(offset, _)| *offset).collect();
        begins.sort_unstable();
        assert!(begins.windows(2).all(|pair| pair[1] - pair[0] <= size / SAMPLES));
        assert!(places.iter().map(|(_, length)| length).sum::<u64>() < 100 << 20);
        assert!(places.len() < 600);
    }

    #[test]
    fn a_note_is_found_until_it_is_erased() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for size in [(17 << 20) + 77, 64 << 20] {
            file.as_file().set_len(size).unwrap();
            let disk = DirectReader::open(file.path()).unwrap();
            assert!(!has_note(&disk).unwrap());
            write_note(file.path(), size).unwrap();
            assert!(has_note(&disk).unwrap());
            assert_eq!(used_at(&disk, HEADER, note_at(size).unwrap()).unwrap(), None);
            erase_note(file.path(), size).unwrap();
            assert!(!has_note(&disk).unwrap());
            assert_eq!(used_at(&disk, 0, size).unwrap(), None);
        }
        assert_eq!(note_at(HEADER), None);
        assert_eq!(note_at(0), None);
    }
}
