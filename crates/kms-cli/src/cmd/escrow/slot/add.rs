//! `kms escrow slot add`: gives devices a recovery key.

use std::{fs, path::PathBuf, sync::Arc, time::SystemTime};

use kms_core::{Error, ErrorKind, Freshness, Kek, KmsProvider, Result};
use kms_escrow::{RecoveryKey, seal};
use kms_luks::{Added, Cryptsetup, Device, Slot};
use serde::Serialize;

use super::{TOKEN, luks2, not_opened, recovery_slots};
use crate::{
    args::KeyArgs,
    cmd::escrow::files::recipients,
    exit::Exit,
    output::{Format, Output},
    time::rfc3339,
};

/// The first slot that no rotation uses, and the number of slots of LUKS2.
const FIRST: u8 = 2;
const SLOTS: u8 = 32;

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// All devices of the OSD: data, and then metadata and write-ahead log if it has them
    #[arg(value_name = "DEVICE", required = true, num_args = 1..=3)]
    devices: Vec<PathBuf>,

    /// The recipients of the page with the recovery key
    #[arg(short = 'R', long = "recipients-file", value_name = "FILE", required = true)]
    recipients: PathBuf,

    /// The file for the page; it must not exist yet
    #[arg(long, value_name = "FILE", required = true)]
    page: PathBuf,
}

/// The result.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    name: String,
    page: String,
    recipients: Vec<String>,
    devices: Vec<DeviceDocument>,
}

/// A device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DeviceDocument {
    device: String,
    uuid: String,
    slot: u8,
}

/// A device with the slot that the KEK opens and the slot for the recovery key.
struct Place {
    device: Device,
    uuid: String,
    opened: Slot,
    free: Slot,
}

/// Adds the key: first everything that can be refused, then the page, then the slots.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let recipients = recipients(&args.recipients)?;
    let name = args.key.arg.name;
    let kek = connect().await?.get(&name, Freshness::Fresh).await?.kek;
    let key = RecoveryKey::generate()?;
    let mut places = Vec::with_capacity(args.devices.len());
    for device in cryptsetup.devices(args.devices) {
        places.push(Place::of(device, &kek, &key).await?);
    }
    let listed = places.iter().map(|place| (place.device.path().display().to_string(), place.uuid.clone()));
    let listed: Vec<_> = listed.collect();
    let page = key.page(&name, &listed, &rfc3339(SystemTime::now()).unwrap_or_default())?;
    seal(&args.page, &page, &recipients)?;
    let mut devices = Vec::with_capacity(places.len());
    for place in places {
        if let Err(error) = place.fill(&kek, &key).await {
            if devices.is_empty() {
                // The key opens nothing, so its page must not be printed.
                let _ignored = fs::remove_file(&args.page);
            }
            return Err(error);
        }
        let Place { device, uuid, free, opened: _ } = place;
        devices.push(DeviceDocument {
            device: device.path().display().to_string(),
            uuid,
            slot: free.number(),
        });
    }
    let page = args.page.display().to_string();
    let document =
        Document { name: name.to_string(), page, recipients: recipients.names().to_vec(), devices };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            for DeviceDocument { device, slot, .. } in &document.devices {
                output.line(format!("{name}: the recovery key opens {device}, slot {slot}"))?;
            }
            let page = &document.page;
            output.line(format!(
                "print it: age -d -i IDENTITY {page}; then prove the paper: kms escrow slot check --key -"
            ))?;
        }
    }
    Ok(Exit::Done)
}

impl Place {
    /// Looks for a free slot, and rehearses on a copy of the header in memory: a rotation must have room afterwards.
    async fn of(device: Device, kek: &Kek, key: &RecoveryKey) -> Result<Self> {
        let header = luks2(&device).await?;
        let at = |error: Error| error.context("device", device.path().display().to_string());
        if let Some(slot) = recovery_slots(&header).first() {
            let message =
                format!("slot {slot} has a recovery key already: remove it first (kms escrow slot remove)");
            return Err(at(Error::new(ErrorKind::Conflict, message)));
        }
        let opened = device.find(&header, kek).await?.ok_or_else(|| not_opened(&device))?;
        let free =
            (FIRST..SLOTS).filter_map(|number| Slot::new(number).ok()).find(|slot| !header.in_use(*slot));
        let free =
            free.ok_or_else(|| at(Error::new(ErrorKind::Conflict, "the header has no free key slot")))?;
        let rehearsal = Device::in_memory(device.cryptsetup().clone(), &device.copy_header()?)?;
        let uuid = header.uuid().to_owned();
        let rehearsed = Self { device: rehearsal, uuid: uuid.clone(), opened, free };
        rehearsed.fill(kek, key).await.map_err(at)?;
        rehearsed.device.header().await?.refuse_full().map_err(at)?;
        Ok(Self { device, uuid, opened, free })
    }

    /// Adds the slot, proves it and marks it.
    async fn fill(&self, kek: &Kek, key: &RecoveryKey) -> Result<()> {
        let Self { device, opened, free, .. } = self;
        match device.add(Some(*opened), kek, *free, key.passphrase()).await? {
            Added::Done => {}
            Added::WrongKey => return Err(not_opened(device)),
            _ => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "another program has taken the key slot: run it again",
                )
                .context("device", device.path().display().to_string()));
            }
        }
        let marked = async {
            device.verify(*free, key.passphrase()).await?;
            device.mark_slot(*free, TOKEN).await
        };
        let marked = marked.await;
        if marked.is_err() {
            // No person could tell whose slot it is.
            let _ignored = self.undo(kek).await;
        }
        marked
    }

    /// Removes the slot again.
    async fn undo(&self, kek: &Kek) -> Result<()> {
        let proof = self.device.verify(self.opened, kek).await?;
        self.device.kill(self.free, &proof, kek).await
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The output for one device.
    pub(crate) fn printed() -> String {
        let device = DeviceDocument { device: "/dev/sdb".to_owned(), uuid: "1-2".to_owned(), slot: 2 };
        let document = Document {
            name: "a".to_owned(),
            page: "page.age".to_owned(),
            recipients: vec!["age1".to_owned()],
            devices: vec![device],
        };
        let mut bytes = Vec::new();
        Output::to(Format::Json, &mut bytes).json(&document).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}
