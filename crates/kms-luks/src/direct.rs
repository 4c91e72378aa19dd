//! Reads of a device past the page cache.
//!
//! Two nodes of one storage (two paths of a SAN, two loop devices over one file) have a page cache each. A header in the
//! page cache may be older than the header that a program has written through the other node, and a decision on it may
//! remove the wrong slot. cryptsetup reads past the page cache too.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use kms_core::{Error, Result};
use nix::libc::O_DIRECT;

use crate::error::not_read;

/// Reads past the page cache begin and end at multiples of this, on the device and in memory. It is a multiple of every
/// logical block size that the kernel supports.
const ALIGNMENT: u64 = 64 << 10;

/// A device or an image that is open for reading.
#[derive(Debug)]
pub(crate) struct DirectReader {
    file: File,
    path: PathBuf,
    size: u64,
    aligned: bool,
}

impl DirectReader {
    /// Opens a device or an image.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is no such device, or if the file is of another kind, which might block or act when it is
    /// opened; errors of the system.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let kind = path.metadata().map_err(not_read)?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(Error::config("it is neither a block device nor an image file"));
        }
        Self::open_kind(path, kind.is_file()).map_err(not_read)
    }

    fn open_kind(path: &Path, is_file: bool) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path);
        let (mut file, aligned) = match direct {
            Ok(file) => (file, true),
            // Some file systems, such as tmpfs, refuse the flag: their page cache is the storage. Block devices accept it.
            Err(error) if refused(&error) && is_file => (File::open(path)?, false),
            Err(error) => return Err(error),
        };
        // A block device has no size in its metadata.
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, path: path.to_owned(), size, aligned })
    }

    /// The size of the device.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Reads `length` bytes at `offset`, or fewer at the end of the device.
    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)).min(self.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        if !self.aligned {
            return read_buffered(&self.file, offset, end);
        }
        match self.read_aligned(offset, end) {
            // Some file systems accept the flag and refuse the read.
            Err(error) if refused(&error) && self.path.is_file() => {
                read_buffered(&File::open(&self.path)?, offset, end)
            }
            read => read,
        }
    }

    fn read_aligned(&self, offset: u64, end: u64) -> io::Result<Vec<u8>> {
        let start = offset - offset % ALIGNMENT;
        let stop = end.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
        let (length, alignment) = (count(stop - start)?, count(ALIGNMENT)?);
        let mut memory = vec![0; length + alignment];
        let padding = memory.as_ptr().align_offset(alignment);
        let buffer = memory.get_mut(padding..padding.saturating_add(length)).unwrap_or_default();
        // Only the last read may be cut off by the end of the device, which need not be a multiple of the alignment.
        let got = fill(&self.file, buffer, start, count(end - start)?)?;
        let wanted = count(offset - start)?..got.min(count(end - start)?);
        Ok(buffer.get(wanted).map(<[u8]>::to_vec).unwrap_or_default())
    }
}

fn read_buffered(file: &File, offset: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = count(end - offset)?;
    let mut bytes = vec![0; length];
    let got = fill(file, &mut bytes, offset, length)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Reads from `offset` on until the buffer has at least `wanted` bytes, or the file ends. Returns the number of bytes.
fn fill(file: &File, buffer: &mut [u8], offset: u64, wanted: usize) -> io::Result<usize> {
    let mut got = 0;
    while got < wanted {
        let rest = buffer.get_mut(got..).unwrap_or_default();
        match file.read_at(rest, offset + position(got)) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Whether the file system refuses reads past the page cache.
fn refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

fn count(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}

fn position(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn every_part_of_a_file_of_any_size_is_read() {
        for size in [0, 1, 511, 512, 4095, 65_536, 65_537, 200_000] {
            let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let file = file_of(&bytes);
            let direct = DirectReader::open(file.path()).unwrap();
            let buffered = DirectReader {
                file: File::open(file.path()).unwrap(),
                path: file.path().to_owned(),
                size: direct.size(),
                aligned: false,
            };
            assert_eq!(direct.size(), u64::try_from(size).unwrap());
            for offset in [0, 1, 4096, 65_535, 65_536, 131_000, 300_000] {
                for length in [0, 1, 4096, 70_000, 1 << 20] {
                    let expected = bytes.get(offset..).unwrap_or_default();
                    let expected = &expected[..length.min(expected.len())];
                    let offset = u64::try_from(offset).unwrap();
                    for reader in [&direct, &buffered] {
                        assert!(reader.read(offset, length).unwrap() == expected, "{size} {offset} {length}");
                    }
                    if direct.aligned && !expected.is_empty() {
                        // Not by the way for file systems that refuse it.
                        let end = offset + u64::try_from(expected.len()).unwrap();
                        assert!(
                            direct.read_aligned(offset, end).unwrap() == expected,
                            "{size} {offset} {length}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_folder_or_a_device_of_characters_is_refused() {
        for path in ["/", "/dev/zero"] {
            let error = DirectReader::open(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains("neither a block device nor an image"), "{error}");
        }
    }
}
