//! The files given with `-f`, and those of the two sides of a migration.

use std::path::PathBuf;

use kms_core::Result;
use kms_source::{MAX_BYTES, Manifests};
use tracing::info;

use crate::{args::Global, input};

/// Reads the files given with `-f`. Also keeps objects of the given `kinds`.
pub(crate) fn read_manifests(global: &Global, kinds: &[&str]) -> Result<Manifests> {
    read_files(&global.files, kinds)
}

/// Reads files as those of `-f`. Also keeps objects of the given `kinds`.
pub(crate) fn read_files(paths: &[PathBuf], kinds: &[&str]) -> Result<Manifests> {
    let mut inputs = Vec::new();
    for path in paths {
        inputs.push((input::name(path), input::read(path, MAX_BYTES)?));
    }
    let inputs = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let manifests = Manifests::parse_keeping(inputs, kinds)?;
    for ignored in manifests.ignored() {
        info!("ignored: {ignored}");
    }
    Ok(manifests)
}
