//! Formatting of a device, as ceph-volume does it for Rook (rook-behaviour §8.2).

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
};

use kms_core::{Error, ErrorKind, Kek, Result};
use kms_rotation::Slot;

use crate::{
    Device, Identity,
    error::{at, code},
    on_disk::{self, OnDisk, not_read, read_up_to},
    process::{Call, Ended},
};

/// The bytes at each end of a device that must be empty: all known signatures of a used disk are there.
const ENDS: usize = 1 << 20;
/// The cipher and the bits of its key: two of 256 for XTS.
const CIPHER: [&str; 4] = ["--cipher", "aes-xts-plain64", "--key-size", "512"];

/// The options of [`Device::format`].
#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    identity: Option<Identity>,
    force: bool,
}

impl FormatOptions {
    /// Options without a label, which format an empty device only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the label and the subsystem by which Rook recognizes its devices.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Formats the device even if it is not empty. All data on it is lost.
    #[must_use]
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }
}

impl Device {
    /// Checks that the device may be formatted: always with `force`, otherwise only if both its ends are empty.
    ///
    /// # Errors
    ///
    /// `Conflict` if the device is not empty; errors of the device.
    pub fn check_format(&self, options: &FormatOptions) -> Result<()> {
        if options.force {
            return Ok(());
        }
        self.check_empty().map_err(|error| at(self.path())(error).operation("format"))
    }

    fn check_empty(&self) -> Result<()> {
        let found = match on_disk::read(self.path()) {
            Ok(OnDisk::Luks1(header)) => Some(header.identity.uuid),
            Ok(OnDisk::Luks2 { identity, .. }) => Some(identity.uuid),
            // The device has no header, or a damaged header; then its ends are not empty either.
            Err(error) if matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Unsupported) => None,
            Err(error) => return Err(error),
        };
        if let Some(uuid) = found {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the device has a LUKS header: formatting would destroy all data on it. To format it all the same, \
                 set --force",
            )
            .context("uuid", uuid));
        }
        if !self.ends_are_empty().map_err(not_read)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the device is not empty: its first or its last MiB is not all zeros. If no data on it is needed, wipe \
                 it (wipefs --all) or set --force",
            ));
        }
        Ok(())
    }

    fn ends_are_empty(&self) -> io::Result<bool> {
        let mut file = File::open(self.path())?;
        // A block device has no size in its metadata.
        let size = file.seek(SeekFrom::End(0))?;
        let mut part = vec![0; ENDS];
        for start in [0, size.saturating_sub(u64::try_from(ENDS).unwrap_or(u64::MAX))] {
            let got = read_up_to(&file, &mut part, start)?;
            if part.iter().take(got).any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes a LUKS2 header with the KEK in slot 0, and proves that the KEK opens it. All data on the device is lost.
    ///
    /// # Errors
    ///
    /// As [`check_format`](Self::check_format); errors of the device, the lock and the program.
    pub async fn format(&self, kek: &Kek, options: &FormatOptions) -> Result<()> {
        let formatted = async {
            self.cryptsetup().kdf().check()?;
            let _lock = self.locked().await?;
            self.check_format(options)?;
            let slot = Slot::CURRENT.to_string();
            let mut call = Call::new(["luksFormat", "--batch-mode", "--type", "luks2", "--key-slot", &slot])
                .args(CIPHER.map(Into::into))
                .args(self.cryptsetup().kdf().args());
            if let Some(identity) = &options.identity {
                call = call.arg("--label").arg(identity.label()).arg("--subsystem").arg(identity.subsystem());
            }
            let answer = self.run(call.arg("--key-file").key(kek)?.arg("--").arg(self.path())).await?;
            if answer.ended != Ended::Code(code::DONE) {
                return Err(self.cryptsetup().explain(&answer).await);
            }
            self.verify(Slot::CURRENT, kek).await.map(|_proof| ())
        };
        formatted.await.map_err(|error| at(self.path())(error).operation("format"))
    }
}
