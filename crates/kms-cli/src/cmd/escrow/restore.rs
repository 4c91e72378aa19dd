//! `kms escrow restore`: brings KEKs back to the KMS, and a LUKS header back to its device.

use std::{path::PathBuf, sync::Arc};

use kms_core::{Error, ErrorKind, KeyName, KmsProvider, Result};
use kms_escrow::{Escrow, Identities, Restored, SavedKey, restore};
use kms_luks::{Cryptsetup, Device, Slot};
use serde::Serialize;

use super::files::IdentityArgs;
use crate::{
    args::{Files, key_name},
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    /// The folder of the escrow
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// The keys to bring back
    #[arg(value_name = "NAME", value_parser = key_name, required_unless_present = "all", conflicts_with = "all")]
    names: Vec<KeyName>,

    /// Bring back every key of the escrow
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    identities: IdentityArgs,

    /// Store the KEK also in place of another one that the KMS has, unless that changes meanwhile
    #[arg(long)]
    replace: bool,

    /// Then put the saved LUKS header of NAME back on this device
    ///
    /// kms refuses if the device has the header of another UUID or other data, if it is in use, if the KEK of the KMS opens
    /// it as it is, or does not open the saved header.
    #[arg(long, value_name = "DEVICE", requires = "uuid", conflicts_with = "all")]
    header: Option<PathBuf>,

    /// The LUKS UUID of the saved header, as kms escrow drill shows it with -o json
    #[arg(long, value_name = "UUID", requires = "header")]
    uuid: Option<String>,
}

/// What was brought back.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    keys: Vec<KeyDocument>,
    header: Option<HeaderDocument>,
}

/// A header that was put back.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct HeaderDocument {
    device: String,
    uuid: String,
    /// The slot that the KEK opens now.
    opened: u8,
}

/// A key.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct KeyDocument {
    name: String,
    outcome: &'static str,
    version: Option<String>,
    error: Option<ErrorDocument>,
}

impl KeyDocument {
    fn of(name: &KeyName, restored: &Result<Restored>) -> Self {
        let name = name.to_string();
        match restored {
            Ok(restored) => {
                let version = Some(restored.version().to_string());
                Self { name, outcome: restored.as_str(), version, error: None }
            }
            Err(error) => {
                Self { name, outcome: "failed", version: None, error: Some(ErrorDocument::of(error)) }
            }
        }
    }
}

/// Brings back one KEK after another. One that fails does not keep the others from coming back.
pub(crate) async fn run(
    args: Args,
    cryptsetup: Cryptsetup,
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let identities = args.identities.required()?;
    let escrow = Escrow::open(&args.folder)?;
    let mut keys = escrow.keks(&identities)?;
    if !args.all {
        if let Some(absent) = args.names.iter().find(|name| !keys.iter().any(|key| is_of(key, name))) {
            return Err(Error::new(ErrorKind::NotFound, "the escrow does not have the key")
                .context("key", absent.as_str())
                .context("escrow", args.folder.display().to_string()));
        }
        keys.retain(|key| args.names.iter().any(|name| is_of(key, name)));
    }
    if args.header.is_some() && keys.len() != 1 {
        return Err(Error::config("--header is of one key: name one NAME"));
    }
    let kms = connect().await?;
    let mut document = Document { ok: true, keys: Vec::with_capacity(keys.len()), header: None };
    let mut exit = Exit::Done;
    for key in &keys {
        let restored = restore(&*kms, key, args.replace).await;
        if let Err(error) = &restored
            && exit == Exit::Done
        {
            (document.ok, exit) = (false, Exit::of(error));
        }
        document.keys.push(KeyDocument::of(&key.entry().name, &restored));
    }
    if let (Some(path), Some(uuid), [key], true) = (&args.header, &args.uuid, keys.as_slice(), document.ok) {
        let device = Device::new(cryptsetup, path);
        let opened = put_back(&device, uuid, key, &escrow, &identities).await?;
        let device = path.display().to_string();
        document.header = Some(HeaderDocument { device, uuid: uuid.clone(), opened: opened.number() });
    }
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            document.keys.iter().try_for_each(|key| line(key, output))?;
            if let Some(HeaderDocument { device, uuid, opened }) = &document.header {
                let line = format!("restored  header {uuid}  {device}: the KEK opens slot {opened}");
                output.state_line(Tone::Good, line)?;
            }
        }
    }
    Ok(exit)
}

/// Puts a saved header back on a device. The KMS has the KEK by now.
async fn put_back(
    device: &Device,
    uuid: &str,
    key: &SavedKey,
    escrow: &Escrow,
    identities: &Identities,
) -> Result<Slot> {
    let name = &key.entry().name;
    let mut saved: Option<Vec<u8>> = None;
    let entries = escrow.headers(identities, async |of, found, header| {
        if of == name && found == uuid {
            saved = Some(header.to_vec());
        }
        Ok(())
    });
    entries.await?;
    let saved = saved.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the escrow has no header of this UUID for the key")
            .context("key", name.as_str())
            .context("uuid", uuid)
    })?;
    // A damaged header is why it is to be put back.
    if let Ok(header) = device.header().await
        && device.find(&header, key.kek()).await?.is_some()
    {
        return Err(Error::new(ErrorKind::Conflict, "the KEK opens the device as it is: its header stays")
            .context("device", device.path().display().to_string()));
    }
    let in_memory = Device::in_memory(device.cryptsetup().clone(), &saved)?;
    if in_memory.find(&*in_memory.header().await?, key.kek()).await?.is_none() {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the KEK does not open the saved header: it was not put back",
        )
        .context("key", name.as_str()));
    }
    device.restore_header(&saved).await?;
    let opened = device.find(&*device.header().await?, key.kek()).await?;
    opened.ok_or_else(|| {
        Error::new(ErrorKind::Unexpected, "the header was put back, and the KEK does not open the device")
    })
}

fn is_of(key: &SavedKey, name: &KeyName) -> bool {
    key.entry().name == *name
}

fn line(key: &KeyDocument, output: &mut Output<'_>) -> Result<()> {
    let KeyDocument { name, outcome, version, error } = key;
    match (version, error) {
        (_, Some(error)) => output.state_line(Tone::Bad, format!("FAIL  {name}: {}", error.message())),
        (Some(version), None) => {
            output.state_line(Tone::Good, format!("{outcome}  {name}  version {version}"))
        }
        (None, None) => Ok(()),
    }
}
