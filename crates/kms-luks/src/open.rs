//! Opening of a device as `/dev/mapper/NAME` (rook-behaviour §8.5).

use kms_core::{Error, ErrorKind, Kek, Result};

use crate::{
    Device, Mapping, MappingName,
    device::NO_TOKEN,
    error::{at, code, not_read},
    mapping::{foreign, hint},
    on_disk::{self, OnDisk},
    process::{Call, CommandOutput, Ended},
    sysfs::Mapped,
};

/// What [`Device::open`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Opened {
    /// Nothing: the device was open under this name already.
    Already,
    /// It opened the device.
    Done,
    /// It opened the device, in place of a stale mapping of this name.
    Replaced,
    /// Nothing: the KEK opens no slot.
    WrongKey,
}

/// What exists under the name of a mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    Nothing,
    /// A mapping of this device.
    This,
    /// A stale mapping.
    Stale,
}

impl Device {
    /// Whether the device is open under this name and usable.
    ///
    /// # Errors
    ///
    /// `Conflict` if the mapping of this name is of another device; errors of the device.
    pub fn is_open(&self, name: &MappingName) -> Result<bool> {
        let found = self.found(name).map_err(self.at_mapping(name));
        found.map(|found| found == Found::This)
    }

    /// Opens the device under a name, with discards allowed and without the kernel's keyring, as Rook does.
    ///
    /// Succeeds if the device is open under this name already. Removes a stale mapping of this name first: its device
    /// is gone, or it has no table.
    ///
    /// # Errors
    ///
    /// `Conflict` if the mapping of this name is of another device; `Unsupported` if the kernel has no device-mapper; `Timeout`,
    /// after which the half-open mapping has been closed; errors of the device and of the program.
    pub async fn open(&self, name: &MappingName, kek: &Kek) -> Result<Opened> {
        self.open_as(name, kek).await.map_err(self.at_mapping(name))
    }

    async fn open_as(&self, name: &MappingName, kek: &Kek) -> Result<Opened> {
        let mapping = Mapping::new(self.cryptsetup().clone(), name.clone());
        let before = self.found(name)?;
        match before {
            Found::This => return Ok(Opened::Already),
            Found::Stale => mapping.clear().await?,
            Found::Nothing => {}
        }
        let mut replaced = before == Found::Stale;
        let mut answer = self.map(name, kek).await;
        // A mapping without a table blocks the name and is not in /sys.
        if matches!(&answer, Ok(answer) if answer.ended == Ended::Code(code::BUSY))
            && self.found(name)? == Found::Nothing
            && mapping.clear_unfinished().await?
        {
            replaced = true;
            answer = self.map(name, kek).await;
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // The next start would take the half-open mapping for an open one.
                if error.kind() == ErrorKind::Timeout && self.cryptsetup().sysfs().mapped(name)?.is_some() {
                    let cleared = mapping.clear().await;
                    let left = if cleared.is_ok() { "closed again" } else { "could not be closed" };
                    return Err(hint(error).context("half open", left));
                }
                return Err(hint(error));
            }
        };
        match answer.ended {
            Ended::Code(code::DONE) => {}
            Ended::Code(code::WRONG_KEY) => return Ok(Opened::WrongKey),
            // Another process may have opened it.
            Ended::Code(code::BUSY) if self.found(name)? == Found::This => return Ok(Opened::Already),
            Ended::Code(code::BUSY) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the device is in use, perhaps open under another name",
                ));
            }
            Ended::Code(code::FAILED) if !self.cryptsetup().sysfs().has_device_mapper() => {
                let error = self.cryptsetup().explain(&answer).await;
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the kernel has no device-mapper: load the modules dm_mod and dm_crypt on the host",
                )
                .source(error));
            }
            _ => return Err(self.cryptsetup().explain(&answer).await),
        }
        if !self.cryptsetup().sysfs().has_node(name) {
            return Err(Error::new(
                ErrorKind::Unexpected,
                "the device is open, but its node is absent: mount the host's /dev/mapper into the container",
            )
            .context("node", self.cryptsetup().sysfs().node(name).display().to_string()));
        }
        Ok(if replaced { Opened::Replaced } else { Opened::Done })
    }

    /// Runs `cryptsetup open`.
    async fn map(&self, name: &MappingName, kek: &Kek) -> Result<CommandOutput> {
        let call =
            Call::new(["open", "--disable-keyring", "--allow-discards"]).args(NO_TOKEN.map(Into::into));
        self.run(call.arg("--key-file").key(kek)?.arg("--").arg(self.path()).arg(name.as_str())).await
    }

    fn found(&self, name: &MappingName) -> Result<Found> {
        let Some(mapped) = self.cryptsetup().sysfs().mapped(name)? else { return Ok(Found::Nothing) };
        if !mapped.is_crypt() {
            return Err(foreign(&mapped));
        }
        if mapped.is_stale() {
            return Ok(Found::Stale);
        }
        if !mapped.is_on(self.path()).map_err(not_read)? {
            return Err(other(&mapped, "the mapping of this name is of another device"));
        }
        let uuid = match on_disk::read(self.path())? {
            OnDisk::Luks1(header) => header.uuid().to_owned(),
            OnDisk::Luks2 { identity, .. } => identity.uuid,
        };
        if !mapped.is_of(&uuid) {
            return Err(other(
                &mapped,
                "the mapping of this name was made before the device was formatted again",
            ));
        }
        // Without its node no program can use the mapping by that name.
        Ok(if self.cryptsetup().sysfs().has_node(name) { Found::This } else { Found::Stale })
    }

    fn at_mapping<'a>(&'a self, name: &'a MappingName) -> impl Fn(Error) -> Error + 'a {
        move |error| at(self.path())(error).operation("open").context("mapping", name.as_str())
    }
}

fn other(mapped: &Mapped, what: &'static str) -> Error {
    let devices: Vec<_> = mapped.below.iter().map(|below| below.kernel_name.as_str()).collect();
    Error::new(
        ErrorKind::Conflict,
        format!("{what}: find out which program uses it, and close it with kms close if no program needs it"),
    )
    .context("mapped", devices.join(" "))
}
