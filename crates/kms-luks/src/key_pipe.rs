//! The pipe that hands a KEK to another program.

use std::{
    io::{PipeReader, Write, pipe},
    os::fd::OwnedFd,
};

use kms_core::{Error, ErrorKind, Kek, Result};
use rustix::io::ioctl_fionbio;

/// Shorter passphrases are a mistake, and are refused before a program starts (field-reports UP-78).
const LEAST_BYTES: usize = 4;

/// The reading end of a pipe that holds the KEK and nothing else. Its other end is closed.
///
/// The KEK is copied into the kernel once. It is on no disk, in no argument and in no environment.
pub(crate) fn key_pipe(kek: &Kek) -> Result<OwnedFd> {
    let bytes = kek.expose_secret().as_bytes();
    if bytes.len() < LEAST_BYTES {
        return Err(Error::config(format!(
            "the KEK has fewer than {LEAST_BYTES} bytes, too few for a passphrase"
        )));
    }
    filled(bytes).map(OwnedFd::from).map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the pipe for the KEK cannot be created or filled").source(cause)
    })
}

fn filled(bytes: &[u8]) -> std::io::Result<PipeReader> {
    let (reader, mut writer) = pipe()?;
    // A pipe holds 64 KiB, but a user with very many of them gets pipes of one page: fail there instead of waiting
    // for a reader that has not started.
    ioctl_fionbio(&writer, true)?;
    writer.write_all(bytes)?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    #[test]
    fn the_pipe_holds_the_kek_and_then_ends() {
        for text in ["abcd".to_owned(), "x".repeat(Kek::MAX_BYTES)] {
            let mut read = String::new();
            File::from(key_pipe(&Kek::parse(text.clone()).unwrap()).unwrap())
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn a_kek_that_is_too_short_is_refused() {
        let error = key_pipe(&Kek::parse("abc").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(!error.to_string().contains("abc"));
    }
}
