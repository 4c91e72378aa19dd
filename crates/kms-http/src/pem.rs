//! Certificates and keys that a setting names.

use std::{fs, path::Path};

use kms_core::{Error, Result, SecretSource};
use zeroize::Zeroizing;

/// Reads what a setting names: a file if it has a slash, which no name of a Secret has, else the data key `entry` of a
/// Secret.
///
/// # Errors
///
/// Those of [`file()`] and of `secrets`.
pub async fn secret_or_file(
    value: &str,
    entry: &str,
    secrets: &dyn SecretSource,
) -> Result<Zeroizing<Vec<u8>>> {
    if value.contains('/') {
        return file(Path::new(value));
    }
    let secret = secrets.secret(value).await?;
    secret.bytes(entry).map(|bytes| Zeroizing::new(bytes.to_vec()))
}

/// Reads a whole file into memory that is wiped.
///
/// # Errors
///
/// `ConfigInvalid` with the path and the cause.
pub fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let read = |cause: std::io::Error| {
        Error::config(format!("file {:?} cannot be read", path.display().to_string()))
            .context("cause", cause.kind().to_string())
    };
    fs::read(path).map(Zeroizing::new).map_err(read)
}
