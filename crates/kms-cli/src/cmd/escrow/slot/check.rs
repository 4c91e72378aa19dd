//! `kms escrow slot check`: checks that a recovery key opens the devices.

use std::path::PathBuf;

use kms_core::{Error, Result};
use kms_escrow::{RecoveryKey, unseal};
use kms_luks::{Cryptsetup, Device};
use serde::Serialize;

use super::recovery_slots;
use crate::{
    cmd::escrow::files::IdentityArgs,
    exit::Exit,
    input,
    output::{Format, Output, Tone},
};

/// The largest file with a recovery key that was typed.
const MOST_BYTES: usize = 4096;

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The devices that the recovery key should open
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<PathBuf>,

    /// The page that kms escrow slot add has written
    #[arg(long, value_name = "FILE", requires = "identities", required_unless_present = "key")]
    page: Option<PathBuf>,

    #[command(flatten)]
    identities: IdentityArgs,

    /// The recovery key as a person has typed it; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "page")]
    key: Option<PathBuf>,
}

/// The result.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    devices: Vec<DeviceDocument>,
}

/// A device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DeviceDocument {
    device: String,
    uuid: String,
    opened: Option<u8>,
    marked: Vec<u8>,
}

/// Tries the key on each device.
pub(crate) async fn run(args: Args, cryptsetup: Cryptsetup, output: &mut Output<'_>) -> Result<Exit> {
    let key = match (&args.page, &args.key) {
        (Some(page), _) => RecoveryKey::of_page(&unseal(page, &args.identities.required()?)?)?,
        (None, Some(path)) => {
            let bytes = input::read(path, MOST_BYTES)?;
            let text =
                std::str::from_utf8(&bytes).map_err(|_cause| Error::config("the recovery key is not text"));
            text.and_then(RecoveryKey::parse).map_err(|error| error.context("input", input::name(path)))?
        }
        (None, None) => {
            return Err(Error::config("there is no recovery key: name its --page, or type it with --key -"));
        }
    };
    let mut devices = Vec::with_capacity(args.devices.len());
    for path in args.devices {
        let device = Device::new(cryptsetup.clone(), path);
        let header = device.header().await?;
        let opened = device.find(&header, key.passphrase()).await?.map(|slot| slot.number());
        devices.push(DeviceDocument {
            device: device.path().display().to_string(),
            uuid: header.uuid().to_owned(),
            opened,
            marked: recovery_slots(&header).into_iter().map(|slot| slot.number()).collect(),
        });
    }
    let document = Document { ok: devices.iter().all(|device| device.opened.is_some()), devices };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            for DeviceDocument { device, opened, .. } in &document.devices {
                match opened {
                    Some(slot) => output.state_line(Tone::Good, format!("ok    {device}  slot {slot}"))?,
                    None => output.state_line(
                        Tone::Bad,
                        format!("FAIL  {device}: the recovery key does not open the device"),
                    )?,
                }
            }
        }
    }
    Ok(if document.ok { Exit::Done } else { Exit::Failed })
}
