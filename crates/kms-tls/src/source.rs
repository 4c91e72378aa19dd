//! Finds the certificates and keys that a setting names: files, and data keys of Secrets.

use std::{fs, path::Path};

use kms_core::{Error, Result, SecretSource, config::Problems};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::pem::certificates;

/// Reads a file or a Secret that a setting names. A name with a slash is a file, since no name of a Secret has one; any
/// other name is a Secret, of which this reads the data key `entry`.
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

/// Reads a whole file into memory that is wiped on drop.
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

/// Reads the CA certificates that a setting names: a file, or the data key `cert` of a Secret.
///
/// `None` if the setting is absent, or if the certificates cannot be read; the problem is then in `problems`.
///
/// # Errors
///
/// Those of `secrets` that are not problems of the configuration.
pub async fn ca_certificates(
    setting: &str,
    value: Option<&str>,
    secrets: &dyn SecretSource,
    problems: &mut Problems,
) -> Result<Option<Vec<CertificateDer<'static>>>> {
    let Some(value) = value else { return Ok(None) };
    match problems.absorb(setting, secret_or_file(value, "cert", secrets).await)? {
        Some(pem) => problems.absorb(setting, certificates(&pem)),
        None => Ok(None),
    }
}
