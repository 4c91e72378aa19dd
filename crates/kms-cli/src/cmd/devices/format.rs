//! `kms format`: makes an empty device a LUKS device that the KEK opens.

use std::{path::PathBuf, sync::Arc};

use clap::builder::NonEmptyStringValueParser;
use kms_core::{ErrorKind, Freshness, Kek, KmsProvider, KmsProviderExt, Result};
use kms_luks::{Cryptsetup, Device, FormatOptions, FormatTarget, Formatted, Identity};
use serde::Serialize;

use super::warn_if_shortened;
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

    /// The device, or an image
    #[arg(value_name = "DEVICE")]
    pub(crate) device: PathBuf,

    /// Label the device as one of this Ceph cluster, as Rook does
    #[arg(long, value_name = "FSID", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) fsid: Option<String>,

    /// The PVC of the device, for its label [default: NAME]
    #[arg(long, value_name = "PVC", requires = "fsid", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) pvc: Option<String>,

    /// Format the device even if it is not empty; all data on it is lost
    #[arg(long)]
    pub(crate) force: bool,
}

/// The device that the KEK opens now.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    name: String,
    outcome: &'static str,
    version: String,
    fingerprint: String,
    created: bool,
    device: String,
    uuid: String,
    slot: Option<u8>,
    label: Option<String>,
}

/// Formats the device.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let name = args.key.arg.name;
    let device = Device::new(cryptsetup, &args.device);
    let mut options = FormatOptions::new().with_force(args.force);
    if let Some(fsid) = &args.fsid {
        let identity = Identity::new(args.pvc.as_deref().unwrap_or_else(|| name.as_str()), fsid);
        warn_if_shortened(&identity);
        options = options.with_identity(identity);
    }
    // This check comes first, so that kms creates no key for a device that it cannot format.
    let target = device.check_format(&options).await?;
    let kms = connect().await?;
    let (stored, created) = match target {
        FormatTarget::Header(without_kek) => match kms.get(&name, Freshness::Fresh).await {
            Ok(stored) => (stored, false),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(without_kek),
            Err(error) => return Err(error),
        },
        _ => {
            let ensured = kms.ensure(&name, Kek::generate()?).await?;
            (ensured.stored, ensured.created)
        }
    };
    let outcome = match device.format(&stored.kek, &options).await? {
        Formatted::Already => "already-formatted",
        _ => "formatted",
    };
    let header = device.header().await?;
    let document = Document {
        name: name.to_string(),
        outcome,
        version: stored.version.to_string(),
        fingerprint: stored.kek.fingerprint(),
        created,
        device: args.device.display().to_string(),
        uuid: header.uuid().to_owned(),
        slot: device.find(&header, &stored.kek).await?.map(|slot| slot.number()),
        label: header.label().map(ToOwned::to_owned),
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            let Document { outcome, fingerprint, created, device, uuid, .. } = &document;
            let kek = if *created { "new" } else { "existing" };
            output
                .line(format!("{outcome}  {device}  {uuid}  with the {kek} KEK {fingerprint} of {name}"))?;
        }
    }
    Ok(Exit::Done)
}
