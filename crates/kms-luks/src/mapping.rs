//! Mappings: the nodes `/dev/mapper/NAME` through which programs read and write open LUKS devices.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kms_core::{Error, ErrorKind, Result};
use tokio::time::sleep;

use crate::{
    Cryptsetup,
    error::{code, failed},
    mapping_name::MappingName,
    process::{Call, Ended},
    sysfs::Mapped,
};

/// The time limit for removing a mapping that a stopped run left behind.
const CLEARING: Duration = Duration::from_secs(10);
/// How long a process may take to load the table of a new mapping.
const FINISHING: Duration = Duration::from_secs(2);
/// The time between two checks for the table.
const LOOK: Duration = Duration::from_millis(100);

/// The state of a mapping, as the kernel reports it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct MappingStatus {
    /// The node of the mapping.
    pub node: PathBuf,
    /// The name in the kernel, such as `dm-0`.
    pub kernel_name: String,
    /// The UUID in device-mapper.
    pub uuid: String,
    /// The kernel's names of the devices below the mapping, such as `sdb`.
    pub devices: Vec<String>,
    /// The size.
    pub bytes: u64,
    /// Whether the mapping is read-only.
    pub read_only: bool,
    /// Whether the mapping is suspended, so that reads and writes wait.
    pub suspended: bool,
    /// Whether the mapping is stale: all devices below it are gone, or the mapping has no table.
    pub stale: bool,
}

/// A mapping, by its name.
#[derive(Clone, Debug)]
pub struct Mapping {
    cryptsetup: Cryptsetup,
    name: MappingName,
}

impl Mapping {
    /// The mapping of this name. Does no I/O.
    pub fn new(cryptsetup: Cryptsetup, name: MappingName) -> Self {
        Self { cryptsetup, name }
    }

    /// Its name.
    pub fn name(&self) -> &MappingName {
        &self.name
    }

    /// Reads the state of the mapping. `None` if there is no such mapping.
    ///
    /// # Errors
    ///
    /// `Unexpected` if the kernel's list cannot be read.
    pub fn status(&self) -> Result<Option<MappingStatus>> {
        let sysfs = self.cryptsetup.sysfs();
        let mapped = sysfs.mapped(&self.name).map_err(|error| self.at("look at a mapping")(error))?;
        Ok(mapped.map(|mapped| MappingStatus {
            node: sysfs.node(&self.name),
            stale: mapped.is_stale(),
            devices: mapped.below.into_iter().map(|below| below.kernel_name).collect(),
            kernel_name: mapped.kernel_name,
            uuid: mapped.uuid,
            bytes: mapped.bytes,
            read_only: mapped.read_only,
            suspended: mapped.suspended,
        }))
    }

    /// Closes the mapping.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such mapping, which is usually a wrong name; `Conflict` if the mapping is in use, or if
    /// cryptsetup did not make it; `Timeout`.
    pub async fn close(&self) -> Result<()> {
        let closed = async {
            let mapped = self.cryptsetup.sysfs().mapped(&self.name)?.ok_or_else(no_such)?;
            if !mapped.is_crypt() {
                return Err(foreign(&mapped));
            }
            let answer = self.cryptsetup.run(Call::new(["close", "--"]).arg(self.name.as_str())).await;
            let answer = answer.map_err(hint)?;
            match answer.ended {
                // Perhaps another process has closed it.
                _ if self.cryptsetup.sysfs().mapped(&self.name)?.is_none() => Ok(()),
                Ended::Code(code::DONE) => Err(Error::new(
                    ErrorKind::Unexpected,
                    "cryptsetup reports that it closed the mapping, and the kernel still has it",
                )),
                _ => Err(self.cryptsetup.explain(&answer).await),
            }
        };
        closed.await.map_err(self.at("close"))
    }

    /// Grows the mapping to the size of its device. Needs no KEK if kms or Rook opened the mapping.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such mapping; errors of the program.
    pub async fn resize(&self) -> Result<()> {
        let resized = async {
            let mapped = self.cryptsetup.sysfs().mapped(&self.name)?.ok_or_else(no_such)?;
            if !mapped.is_crypt() {
                return Err(foreign(&mapped));
            }
            let answer = self.cryptsetup.run(Call::new(["resize", "--"]).arg(self.name.as_str())).await;
            let answer = answer.map_err(hint)?;
            match answer.ended {
                Ended::Code(code::DONE) => Ok(()),
                Ended::Code(code::WRONG_KEY) => Err(Error::new(
                    ErrorKind::Unsupported,
                    "the mapping was opened with its key in the kernel's keyring, so cryptsetup cannot resize it \
                     without a passphrase: close it and open it again with kms open",
                )),
                _ => Err(self.cryptsetup.explain(&answer).await),
            }
        };
        resized.await.map_err(self.at("resize"))
    }

    /// Closes the mapping, by force if it is stale and cryptsetup cannot close it.
    pub(crate) async fn clear(&self) -> Result<()> {
        let sysfs = self.cryptsetup.sysfs();
        let cryptsetup = self.cryptsetup.clone().with_limit(self.cryptsetup.limit().min(CLEARING));
        let by_cryptsetup = cryptsetup.run(Call::new(["close", "--"]).arg(self.name.as_str())).await;
        let Some(mapped) = sysfs.mapped(&self.name)? else { return Ok(()) };
        // cryptsetup fails if the device below is gone, and refuses a mapping without a table. Force on a mapping that
        // works would take the disk away from a running OSD.
        if mapped.is_stale()
            && let Some(dmsetup) = cryptsetup.located("dmsetup")
        {
            let call = Call::new(["remove", "--force", "--"]).arg(self.name.as_str());
            let _any = cryptsetup.run_program(&dmsetup, call).await;
            if sysfs.mapped(&self.name)?.is_none() {
                return Ok(());
            }
        }
        let cause = match by_cryptsetup {
            Ok(answer) => failed(&answer),
            Err(error) => error,
        };
        Err(Error::new(
            ErrorKind::Conflict,
            "a stale mapping of this name cannot be removed: end the programs that use it, and remove it with \
             dmsetup remove",
        )
        .source(cause))
    }

    /// Removes a mapping of this name that has no table, because its creator was stopped before it loaded one. Returns
    /// `true` if there was such a mapping: it is removed, or another process has loaded its table meanwhile.
    ///
    /// A mapping without a table maps nothing, so no program can use it. Only device-mapper lists it, the kernel does
    /// not.
    pub(crate) async fn clear_unfinished(&self) -> Result<bool> {
        let Some(dmsetup) = self.cryptsetup.located("dmsetup") else { return Ok(false) };
        let cryptsetup = self.cryptsetup.clone().with_limit(self.cryptsetup.limit().min(CLEARING));
        let begin = Instant::now();
        let mut found = false;
        loop {
            let call = Call::new(["info", "--columns", "--noheadings", "--options", "uuid"]);
            let call = call.args(["--select", "tables_loaded=None", "--"].map(Into::into));
            let answer = cryptsetup.run_program(&dmsetup, call.arg(self.name.as_str())).await?;
            if answer.ended != Ended::Code(code::DONE) || !answer.output.starts_with(b"CRYPT-") {
                return Ok(found);
            }
            found = true;
            // A process that is opening it now loads the table within some milliseconds.
            if begin.elapsed() >= FINISHING {
                break;
            }
            sleep(LOOK).await;
        }
        let call = Call::new(["remove", "--"]).arg(self.name.as_str());
        let answer = cryptsetup.run_program(&dmsetup, call).await?;
        if answer.ended == Ended::Code(code::DONE) { Ok(true) } else { Err(failed(&answer)) }
    }

    pub(crate) fn at(&self, operation: &'static str) -> impl Fn(Error) -> Error + '_ {
        move |error| error.operation(operation).context("mapping", self.name.as_str())
    }
}

fn no_such() -> Error {
    Error::new(
        ErrorKind::NotFound,
        "there is no such mapping: the device is not open, or is open under another name",
    )
}

/// The error of a mapping that cryptsetup did not make.
pub(crate) fn foreign(mapped: &Mapped) -> Error {
    let uuid = if mapped.uuid.is_empty() { "none" } else { &mapped.uuid };
    Error::new(ErrorKind::Conflict, "cryptsetup did not create the mapping of this name: choose another name, or remove it with dmsetup remove")
        .context("uuid", uuid)
}

/// Adds to an error the usual cause of a time-out at a mapping (field-reports UP-74).
pub(crate) fn hint(error: Error) -> Error {
    if error.kind() != ErrorKind::Timeout {
        return error;
    }
    error.context(
        "hint",
        "device-mapper waits for udev on a semaphore of the host: set hostIPC: true in the pod and mount the \
         host's /run/udev; on a host without udev, set DM_DISABLE_UDEV=1",
    )
}
