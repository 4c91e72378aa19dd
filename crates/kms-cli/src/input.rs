//! Reads files and standard input whole, into memory that is wiped on drop.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use kms_core::{Error, Result};
use zeroize::Zeroizing;

/// The file name that stands for standard input.
pub(crate) const STDIN: &str = "-";

/// Reads a file, or standard input if the path is `-`.
///
/// # Errors
///
/// `ConfigInvalid` if the system cannot read it, or if it has more than `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    let read = if path.as_os_str() == STDIN {
        read_stream(io::stdin().lock(), 0, limit)
    } else {
        File::open(path).and_then(|file| {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            read_stream(file, usize::try_from(length).unwrap_or_default(), limit)
        })
    };
    // Not `NotFound`: scripts take that kind for an absent key.
    read.map_err(|cause| Error::config("the input cannot be read").context("input", name(path)).source(cause))
}

/// The name of an input in messages.
pub(crate) fn name(path: &Path) -> String {
    if path.as_os_str() == STDIN { "standard input".to_owned() } else { path.display().to_string() }
}

fn read_stream(stream: impl Read, expected: usize, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // One more byte of capacity, so that a small input never makes the buffer grow.
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected.min(limit) + 1));
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    stream.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_refused() {
        assert_eq!(*read_stream(&b"abcd"[..], 0, 4).unwrap(), b"abcd");
        assert!(read_stream(&b"abcde"[..], 9, 4).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nonexistent/file"), 10).unwrap_err();
        assert_eq!(error.kind(), kms_core::ErrorKind::ConfigInvalid);
        assert_eq!(error.to_string(), "the input cannot be read (input: /nonexistent/file)");
    }
}
