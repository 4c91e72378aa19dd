//! Files of recipients and identities.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kms_core::{Error, Result};
use kms_escrow::{Identities, Recipients};

use crate::{input, terminal::AtTerminal};

/// The largest file of recipients or identities. A post-quantum recipient has 2 KiB.
const MOST_BYTES: usize = 1 << 20;

/// The option `-i`.
#[derive(clap::Args, Debug)]
pub(crate) struct IdentityArgs {
    /// An identity file of age, which decrypts the archives; `-` reads standard input; may be repeated
    #[arg(short, long = "identity", value_name = "FILE")]
    pub(crate) identities: Vec<PathBuf>,
}

impl IdentityArgs {
    /// Reads the files.
    pub(crate) fn read(&self) -> Result<Identities> {
        let mut all = Identities::default();
        for path in &self.identities {
            let bytes = input::read(path, MOST_BYTES)?;
            all.extend(
                Identities::parse_asking(&bytes, Arc::new(AtTerminal))
                    .map_err(|error| error.context("identity", input::name(path)))?,
            );
        }
        Ok(all)
    }

    /// Reads the files, of which there must be one.
    pub(crate) fn required(&self) -> Result<Identities> {
        let identities = self.read()?;
        if identities.is_empty() {
            return Err(Error::config(
                "the archives are encrypted: give the identity of one of their recipients with -i",
            ));
        }
        Ok(identities)
    }
}

/// Reads a file of recipients.
pub(crate) fn recipients(path: &Path) -> Result<Recipients> {
    let bytes = input::read(path, MOST_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|_cause| Error::config("the recipients are not text"));
    text.and_then(Recipients::parse).map_err(|error| error.context("recipients", input::name(path)))
}
