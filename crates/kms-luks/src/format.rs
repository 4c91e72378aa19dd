//! Formatting of a device, as ceph-volume does it for Rook (rook-behaviour §8.2).

use kms_core::{Error, ErrorKind, Kek, Result};
use kms_rotation::Slot;

use crate::{
    Device, Identity, blank,
    direct::DirectReader,
    error::{at, code, not_read},
    header::clean,
    on_disk::{self, OnDisk},
    process::{Call, Ended},
};

/// The exit codes of `blkid --probe` for one signature, and for several that contradict each other.
const BLKID_FOUND: i32 = 0;
const BLKID_SEVERAL: i32 = 8;
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

/// What [`Device::check_format`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum FormatTarget {
    /// The device may be formatted: it is empty, an earlier run of [`Device::format`] was stopped on it, or `force` is
    /// set.
    Free,
    /// The device has a LUKS header. [`Device::format`] never replaces it, and succeeds if the KEK opens it. Holds the
    /// error for a caller without a KEK.
    Header(Error),
}

/// What [`Device::format`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Formatted {
    /// It wrote a new header.
    Done,
    /// It wrote no header: the KEK opens the header that the device has.
    Already,
}

impl Device {
    /// Looks at a device that is to be formatted. Changes nothing.
    ///
    /// A device is empty if samples of it are zeros, and if `blkid`, where it is installed, finds nothing. Data between
    /// the samples of a device of more than 256 MiB are not seen.
    ///
    /// # Errors
    ///
    /// `Conflict` if the device is not empty and has no LUKS header; errors of the device.
    pub async fn check_format(&self, options: &FormatOptions) -> Result<FormatTarget> {
        if options.force {
            return Ok(FormatTarget::Free);
        }
        self.target().await.map_err(|error| at(self.path())(error).operation("format"))
    }

    async fn target(&self) -> Result<FormatTarget> {
        let disk = DirectReader::open(self.path())?;
        let stopped = blank::has_note(&disk).map_err(not_read)?;
        if let Some(uuid) = self.luks_uuid()? {
            // cryptsetup writes a header without a slot first.
            let has_slot =
                async || self.header_now().await.is_ok_and(|header| header.slots().next().is_some());
            if !stopped || has_slot().await {
                let error =
                    has_header("there is no KEK of this name that could open it").context("uuid", uuid);
                return Ok(FormatTarget::Header(error));
            }
        }
        let (from, to) = match blank::note_at(disk.size()) {
            Some(note) if stopped => (blank::HEADER, note),
            _ => (0, disk.size()),
        };
        if let Some(offset) = blank::used_at(&disk, from, to).map_err(not_read)? {
            return Err(not_empty(format!("the byte at offset {offset} is not zero")));
        }
        if !stopped && let Some(found) = self.probed().await? {
            return Err(not_empty(format!("blkid finds {found}")));
        }
        Ok(FormatTarget::Free)
    }

    /// The UUID of the LUKS header. `None` if the device has no header, or one that is cut off.
    pub(crate) fn luks_uuid(&self) -> Result<Option<String>> {
        match on_disk::read(self.path()) {
            Ok(OnDisk::Luks1(header)) => Ok(Some(header.identity.uuid)),
            Ok(OnDisk::Luks2 { identity, .. }) => Ok(Some(identity.uuid)),
            // Then the device is not empty either.
            Err(error) if matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::Unsupported) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The signatures that blkid finds. `None` if it finds no signature, or is not installed.
    pub(crate) async fn probed(&self) -> Result<Option<String>> {
        let Some(blkid) = self.cryptsetup().located("blkid") else { return Ok(None) };
        let call = Call::new(["--probe", "--output", "export", "--"]).arg(self.path());
        let answer = self.cryptsetup().run_program(&blkid, call).await?;
        match answer.ended {
            Ended::Code(BLKID_FOUND) => {
                let text = String::from_utf8_lossy(&answer.output).into_owned();
                let kinds =
                    text.lines().filter(|line| line.starts_with("TYPE=") || line.starts_with("PTTYPE="));
                Ok(Some(kinds.map(clean).collect::<Vec<_>>().join(" ")))
            }
            Ended::Code(BLKID_SEVERAL) => Ok(Some("several signatures".to_owned())),
            // Nothing was found, or this is a blkid without these options.
            _ => Ok(None),
        }
    }

    /// Writes a LUKS2 header with the KEK in slot 0, and proves that the KEK opens it. All data on the device are lost.
    ///
    /// Without `force`, a run that was stopped can be repeated: a header that the KEK opens stays as it is, with the label
    /// of the options.
    ///
    /// # Errors
    ///
    /// As [`check_format`](Self::check_format); `Conflict` if the device has a header that the KEK does not open, or that
    /// has another label; errors of the device, the lock and the program.
    pub async fn format(&self, kek: &Kek, options: &FormatOptions) -> Result<Formatted> {
        let formatted = async {
            self.cryptsetup().kdf().check()?;
            let _lock = self.locked().await?;
            if let FormatTarget::Header(_) = self.check_format(options).await? {
                self.accept_header(kek, options).await?;
                return Ok(Formatted::Already);
            }
            let size = DirectReader::open(self.path())?.size();
            // A device with data gets no note: it would overwrite some of them before cryptsetup agrees to format.
            if !options.force {
                blank::write_note(self.path(), size).map_err(not_read)?;
            }
            self.luks_format(kek, options).await?;
            if !options.force {
                blank::erase_note(self.path(), size).map_err(not_read)?;
            }
            Ok(Formatted::Done)
        };
        formatted.await.map_err(|error| at(self.path())(error).operation("format"))
    }

    async fn luks_format(&self, kek: &Kek, options: &FormatOptions) -> Result<()> {
        let slot = Slot::CURRENT.to_string();
        let mut call = Call::new(["luksFormat", "--batch-mode", "--type", "luks2", "--key-slot", &slot])
            .args(CIPHER.map(Into::into))
            .args(self.cryptsetup().kdf().args());
        if let Some(identity) = &options.identity {
            call = call.arg("--label").arg(identity.label()).arg("--subsystem").arg(identity.subsystem());
        }
        let answer = self.run(call.arg("--key-file").new_key(kek)?.arg("--").arg(self.path())).await?;
        if answer.ended != Ended::Code(code::DONE) {
            return Err(self.cryptsetup().explain(&answer).await);
        }
        self.verify(Slot::CURRENT, kek).await.map(|_proof| ())
    }

    /// Accepts a header that the KEK opens, and labels it if it has no label.
    async fn accept_header(&self, kek: &Kek, options: &FormatOptions) -> Result<()> {
        let header = self.header_now().await?;
        if !self.opens(None, kek).await? {
            return Err(has_header("the KEK does not open it").context("uuid", header.uuid().to_owned()));
        }
        let Some(identity) = &options.identity else { return Ok(()) };
        for (what, found, wanted) in [
            ("label", header.label(), identity.label()),
            ("subsystem", header.subsystem(), identity.subsystem()),
        ] {
            if let Some(found) = found.filter(|found| *found != wanted) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the device has a LUKS header that the KEK opens, and its {what} is {found:?} instead of \
                         {wanted:?}: it belongs to another OSD or cluster. Name the right device, or change the {what} \
                         (cryptsetup config --{what})"
                    ),
                ));
            }
        }
        self.set_label(identity).await.map(|_labelled| ())
    }
}

/// The error of a device with a LUKS header.
fn has_header(why: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "the device has a LUKS header, and {why}: formatting would destroy all data on it. If no data on it are \
             needed, set --force"
        ),
    )
}

/// The error of a device with other data.
fn not_empty(why: String) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("the device is not empty: {why}. If no data on it are needed, set --force"),
    )
}
