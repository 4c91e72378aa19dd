//! The pipe that hands a KEK to another program.

use std::{
    io::{PipeReader, Write, pipe},
    os::fd::OwnedFd,
};

use kms_core::{Error, ErrorKind, Kek, Result};
use rustix::io::ioctl_fionbio;

/// Shorter new passphrases are a mistake, and are refused before a program starts (field-reports UP-78).
const LEAST_BYTES: usize = 4;

/// Refuses a KEK that is too short for a new slot. An existing slot may have it: cryptsetup opens with any passphrase.
///
/// # Errors
///
/// `ConfigInvalid` for a KEK of fewer than 4 bytes.
pub(crate) fn check_new(kek: &Kek) -> Result<()> {
    if kek.expose_secret_bytes().len() < LEAST_BYTES {
        return Err(Error::config(format!(
            "the KEK has fewer than {LEAST_BYTES} bytes, too few for the passphrase of a new key slot"
        )));
    }
    Ok(())
}

/// The reading end of a pipe that holds the KEK and nothing else. Its other end is closed.
///
/// The KEK is copied into the kernel once. It is on no disk, in no argument and in no environment.
pub(crate) fn key_pipe(kek: &Kek) -> Result<OwnedFd> {
    filled(kek.expose_secret_bytes()).map(OwnedFd::from).map_err(|cause| {
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
        for text in ["a".to_owned(), "abcd".to_owned(), "x".repeat(Kek::MAX_BYTES)] {
            let mut read = String::new();
            File::from(key_pipe(&Kek::parse(text.clone()).unwrap()).unwrap())
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, text);
        }
    }

    #[test]
    fn a_new_kek_that_is_too_short_is_refused() {
        assert!(check_new(&Kek::parse("abcd").unwrap()).is_ok());
        let error = check_new(&Kek::parse("abc").unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(!error.to_string().contains("abc"));
    }
}
