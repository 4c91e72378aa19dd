#![doc = include_str!("../README.md")]

mod directory;
#[cfg(feature = "manifests")]
mod manifests;
mod pod;
#[cfg(feature = "manifests")]
mod yaml;

use std::{collections::BTreeMap, fmt, io, path::Path};

use kms_core::{Error, ErrorKind, ExposeSecret, Result, SecretData};
use secrecy::SecretSlice;
use zeroize::Zeroizing;

pub use self::{directory::Directory, pod::PodEnvironment};
#[cfg(feature = "manifests")]
pub use self::{manifests::Manifests, yaml::MAX_BYTES};

/// Kubernetes allows 1 MiB for all the data of a Secret.
const MAX_SECRET_BYTES: u64 = 1024 * 1024;

/// The entries of one Secret. Each caller gets a copy.
#[derive(Default)]
struct Entries(BTreeMap<String, SecretSlice<u8>>);

impl Entries {
    fn insert(&mut self, key: impl Into<String>, value: impl Into<SecretSlice<u8>>) {
        self.0.insert(key.into(), value.into());
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn to_secret(&self, name: &str) -> SecretData {
        self.0.iter().fold(SecretData::new(name), |secret, (key, value)| {
            secret.with(key, value.expose_secret().to_vec())
        })
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(entries) = self;
        f.debug_set().entries(entries.keys()).finish()
    }
}

/// Whether a text can be the name of a Secret, and so of one folder, without `/` and `..`.
fn is_object_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    !name.is_empty() && name.len() <= 253 && name.chars().all(allowed) && !name.starts_with('.')
}

/// Reads a file that holds one entry of a Secret.
///
/// The file is small and on a local file system, so this reads it on the current thread.
fn read_entry(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    read_limited(path).map_err(|cause| {
        let kind = match cause.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::ConfigInvalid,
        };
        // The path is in the message, since a report of several problems leaves out the context.
        let path = path.display();
        Error::new(kind, format!("the file {path} of a mounted Secret cannot be read")).source(cause)
    })
}

fn read_limited(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    use io::Read;
    let file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_SECRET_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than a Secret can be"));
    }
    // The buffer has one byte more than the file, so that it does not grow and leave a copy in memory.
    let capacity = usize::try_from(length).unwrap_or_default() + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(MAX_SECRET_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
