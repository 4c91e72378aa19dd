//! `kms escrow slot remove`: removes recovery keys.

use std::{path::PathBuf, sync::Arc};

use kms_core::{Freshness, KmsProvider, Result};
use kms_luks::Cryptsetup;
use serde::Serialize;

use super::{TOKEN, luks2, not_opened, recovery_slots};
use crate::{
    args::KeyArgs,
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// Devices of the OSD
    #[arg(value_name = "DEVICE", required = true, num_args = 1..=3)]
    devices: Vec<PathBuf>,
}

/// The result.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    name: String,
    devices: Vec<DeviceDocument>,
}

/// A device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DeviceDocument {
    device: String,
    removed: Vec<u8>,
}

/// Removes the slots that are marked. Without such a slot, a device stays as it is.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let name = args.key.arg.name;
    let kek = connect().await?.get(&name, Freshness::Fresh).await?.kek;
    let mut devices = Vec::with_capacity(args.devices.len());
    for device in cryptsetup.devices(args.devices) {
        let header = luks2(&device).await?;
        let opened = device.find(&header, &kek).await?.ok_or_else(|| not_opened(&device))?;
        let proof = device.verify(opened, &kek).await?;
        let slots = recovery_slots(&header);
        for slot in &slots {
            // A slot that a token refers to is never removed, so the token goes first.
            device.unmark_slot(*slot, TOKEN).await?;
            device.kill(*slot, &proof, &kek).await?;
        }
        let removed = slots.into_iter().map(|slot| slot.number()).collect();
        devices.push(DeviceDocument { device: device.path().display().to_string(), removed });
    }
    let document = Document { name: name.to_string(), devices };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            for DeviceDocument { device, removed } in &document.devices {
                let line = match removed.as_slice() {
                    [] => format!("{name}: {device} has no recovery key"),
                    slots => {
                        let slots: Vec<_> = slots.iter().map(u8::to_string).collect();
                        format!("{name}: the recovery key of {device} is removed, slot {}", slots.join(", "))
                    }
                };
                output.line(line)?;
            }
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The output for one device.
    pub(crate) fn printed() -> String {
        let devices = vec![DeviceDocument { device: "/dev/sdb".to_owned(), removed: vec![2] }];
        let mut bytes = Vec::new();
        Output::to(Format::Json, &mut bytes).json(&Document { name: "a".to_owned(), devices }).unwrap();
        String::from_utf8(bytes).unwrap()
    }
}
