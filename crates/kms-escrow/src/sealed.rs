//! One text in the age format, in a file of its own.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
};

use age::Identity;
use kms_core::{Error, Result};
use zeroize::Zeroizing;

use crate::{
    Identities, Recipients,
    error::{at, damaged, not_read, not_written},
    stream::{encryptor, open},
};

/// The most bytes of a text.
const MOST_BYTES: usize = 1 << 20;

/// Writes a text, encrypted to the recipients, to a file that does not exist yet, and reads it back.
///
/// # Errors
///
/// `ConfigInvalid` if the file exists, or the text cannot be encrypted to the recipients; `Unexpected` if the system refuses
/// the file; `Protocol` if the disk returns something else. The file is removed then.
pub fn seal(path: &Path, text: &str, recipients: &Recipients) -> Result<()> {
    let (encryptor, file_key) = encryptor(recipients)?;
    let file = File::create_new(path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::AlreadyExists => at(path)(Error::config("the file exists: name another one")),
        _ => not_written(path)(cause),
    })?;
    let write = || {
        let mut stream = encryptor.wrap_output(file)?;
        stream.write_all(text.as_bytes())?;
        stream.finish()?.sync_all()
    };
    let proven = write().map_err(not_written(path)).and_then(|()| {
        let back = read(path, &[&file_key])?;
        if *back == text {
            Ok(())
        } else {
            Err(at(path)(damaged("the disk returned something else than was written")))
        }
    });
    if proven.is_err() {
        // What is not proven must not be taken for the key.
        let _ignored = std::fs::remove_file(path);
    }
    proven
}

/// Decrypts a text that [`seal`] has written.
///
/// # Errors
///
/// `ConfigInvalid` if no identity decrypts it, or if it cannot be read; `Protocol` if it is damaged.
pub fn unseal(path: &Path, identities: &Identities) -> Result<Zeroizing<String>> {
    read(path, &identities.list())
}

fn read(path: &Path, identities: &[&dyn Identity]) -> Result<Zeroizing<String>> {
    let stream = open(path, identities)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
    stream
        .take(u64::try_from(MOST_BYTES).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)
        .map_err(not_read(path))?;
    let text = std::str::from_utf8(&bytes).map_err(|_cause| at(path)(damaged("it is not text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}
