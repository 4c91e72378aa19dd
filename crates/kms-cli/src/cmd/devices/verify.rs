//! `kms verify`: checks whether the KEK in the KMS opens the devices.

use std::path::PathBuf;

use kms_core::{Error, KmsProvider, Result};
use kms_luks::{Cryptsetup, Slot};
use kms_rotation::{DeviceCheck, Osd, Refusal, Silent, Verified, verify};
use serde::Serialize;

use crate::{
    args::KeyArgs,
    cmd::devices::{DATA_DIR, compared},
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone, identity},
    rook::Deployments,
    time::rfc3339,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// The devices that the KEK should open
    #[arg(value_name = "DEVICE", required = true, num_args = 1..=3)]
    pub(crate) devices: Vec<PathBuf>,
}

/// The result for all devices.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    name: String,
    version: String,
    fingerprint: String,
    stored: Option<String>,
    devices: Vec<DeviceDocument>,
}

/// The result for one device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DeviceDocument {
    path: String,
    /// `None` if the KEK could not be tried.
    opens: Option<bool>,
    slot: Option<u8>,
    kdf: Option<String>,
    leftovers: Vec<u8>,
    foreign: Vec<u8>,
    error: Option<ErrorDocument>,
}

impl DeviceDocument {
    pub(crate) fn of(device: &DeviceCheck) -> Self {
        let numbers = |slots: &[Slot]| slots.iter().map(|slot| slot.number()).collect();
        Self {
            path: device.path.display().to_string(),
            opens: match &device.slot {
                Ok(_) => Some(true),
                Err(error) => Refusal::of(error).map(|_| false),
            },
            slot: device.slot.as_ref().ok().map(|slot| slot.number()),
            kdf: device.kdf.clone(),
            leftovers: numbers(&device.leftovers),
            foreign: numbers(&device.foreign),
            error: device.slot.as_ref().err().map(ErrorDocument::of),
        }
    }

    fn line(&self) -> String {
        let Self { path, opens, slot, kdf, leftovers, error, .. } = self;
        match (slot, error) {
            (Some(slot), _) => {
                let kdf = kdf.as_deref().unwrap_or("-");
                let left: Vec<String> = leftovers.iter().map(u8::to_string).collect();
                let left = if left.is_empty() {
                    String::new()
                } else {
                    format!("  a rotation is not finished: slot {}", left.join(", "))
                };
                format!("ok    {path}  slot {slot}  {kdf}{left}")
            }
            (None, Some(error)) if opens.is_none() => format!("?     {path}: not tried: {}", error.message()),
            (None, Some(error)) => format!("FAIL  {path}: {}", error.message()),
            (None, None) => format!("FAIL  {path}"),
        }
    }
}

/// Tries the KEK on each device.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    connect: impl AsyncFnOnce() -> Result<std::sync::Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let osd = Osd::new(args.key.arg.name, cryptsetup.devices(args.devices))?;
    let osd = compared(osd, &Deployments::default(), &[PathBuf::from(DATA_DIR)])?;
    let kms = connect().await?;
    Ok(check(&*kms, &osd, output).await?.as_ref().map_or(Exit::Done, Exit::of))
}

/// Tries the KEK on each device of an OSD, and shows the result. Returns the error of the first device that the KEK does not
/// open.
pub(crate) async fn check(
    kms: &dyn KmsProvider,
    osd: &Osd,
    output: &mut Output<'_>,
) -> Result<Option<Error>> {
    let found = verify(kms, osd, &Silent).await?;
    let failure = found.failure().cloned();
    let Verified { name, version, fingerprint, stored, devices, .. } = &found;
    let document = Document {
        ok: failure.is_none(),
        name: name.to_string(),
        version: version.to_string(),
        fingerprint: fingerprint.clone(),
        stored: stored.and_then(rfc3339),
        devices: devices.iter().map(DeviceDocument::of).collect(),
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            output.line(format!("{name}  {}", identity(version.as_str(), fingerprint)))?;
            document.devices.iter().try_for_each(|device| {
                let tone = match device.opens {
                    Some(true) => Tone::Good,
                    Some(false) => Tone::Bad,
                    None => Tone::Warning,
                };
                output.state_line(tone, device.line())
            })?;
        }
    }
    Ok(failure)
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;

    use super::*;

    #[test]
    fn a_device_that_could_not_be_tried_is_not_one_that_the_kek_does_not_open() {
        let of = |slot: Result<Slot>| DeviceDocument::of(&DeviceCheck::new("/dev/a", slot));
        let busy = || Error::new(ErrorKind::Conflict, "the device is in use");
        let untried = of(Err(busy()));
        assert_eq!(
            (untried.opens, untried.line().as_str()),
            (None, "?     /dev/a: not tried: the device is in use")
        );
        for refusal in [Refusal::Kek, Refusal::Header] {
            let refused = of(Err(busy().source(refusal)));
            assert_eq!(refused.opens, Some(false));
            assert!(refused.line().starts_with("FAIL  /dev/a: the device is in use"), "{}", refused.line());
        }
        assert_eq!(of(Ok(Slot::CURRENT)).opens, Some(true));
    }
}
