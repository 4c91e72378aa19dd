//! `kms escrow create`: saves KEKs and LUKS headers.

use std::{path::PathBuf, sync::Arc};

use kms_core::{Error, KeyName, KmsProvider, Result};
use kms_escrow::{
    About, Draft, HeaderTest as _, Overwrite, Recipients, SavedKey, Sharing, all_names, read_keys,
};
use kms_luks::{Cryptsetup, Device};
use serde::Serialize;

use super::{
    document::EscrowDocument,
    files::{IdentityArgs, recipients},
    headers::{DeviceArgs, InMemory, copy},
};
use crate::{
    args::{Files, key_name},
    exit::Exit,
    output::{ErrorDocument, Format, Output, Tone},
    progress::Progress,
};

/// The start of the subsystem of an OSD's header, which has the id of the Ceph cluster (rook-behaviour §8.4).
const FSID: &str = "ceph_fsid=";

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    /// The folder to be made
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Save these keys only [default: every key of the KMS]
    #[arg(value_name = "NAME", value_parser = key_name)]
    names: Vec<KeyName>,

    /// The recipients of the KEKs: age1… and the recipients of plugins, one a line
    #[arg(short = 'R', long = "recipients-file", value_name = "FILE", required = true)]
    recipients: PathBuf,

    /// Also save the LUKS headers of all OSDs in Rook's folders on this host
    #[arg(long)]
    devices: bool,

    #[command(flatten)]
    device: DeviceArgs,

    /// The recipients of the LUKS headers
    #[arg(long, value_name = "FILE")]
    header_recipients: Option<PathBuf>,

    /// Let a recipient of the KEKs decrypt the headers too: it can open the disks for ever, whatever a rotation does
    ///
    /// Without --header-recipients, the headers have the recipients of the KEKs.
    #[arg(long)]
    together: bool,

    /// Replace the escrow that is in the folder
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    identities: IdentityArgs,
}

/// What was saved.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    ok: bool,
    #[serde(flatten)]
    escrow: EscrowDocument,
    /// What decrypted the archives when they were read back.
    proof: &'static str,
    devices: Vec<DeviceDocument>,
}

/// A device whose header was to be saved.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DeviceDocument {
    name: String,
    device: String,
    uuid: Option<String>,
    slots: Vec<u8>,
    opened: Option<u8>,
    error: Option<ErrorDocument>,
}

/// Saves the KEKs, then the headers. A header that cannot be read does not keep the rest from being saved. `cluster` is
/// what the escrow is of, with the namespace of the cluster. `record` gets the time of an escrow of all keys.
pub(crate) async fn run(
    args: Args,
    cluster: (About, Option<&str>),
    cryptsetup: Cryptsetup,
    (connect, record): (impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>, impl AsyncFnOnce(String)),
    output: &mut Output<'_>,
) -> Result<Exit> {
    let of_keks = recipients(&args.recipients)?;
    let of_headers = args.header_recipients.as_deref().map(recipients).transpose()?;
    let identities = args.identities.read()?;
    let wants_headers = args.devices || !args.device.named.is_empty();
    let of_headers = match (wants_headers, &of_headers) {
        (false, None) => None,
        (false, Some(_)) => {
            return Err(Error::config(
                "--header-recipients needs headers: add --devices, or name a --device",
            ));
        }
        (true, Some(of_headers)) => Some(of_headers),
        (true, None) if args.together => Some(&of_keks),
        (true, None) => {
            return Err(Error::config(
                "LUKS headers need recipients: name them with --header-recipients, or use those of the KEKs with \
                 --together",
            ));
        }
    };
    let (mut about, kube_namespace) = cluster;
    let mut devices = args.device.find(args.devices, kube_namespace)?;
    if !args.names.is_empty() {
        devices.retain(|(name, _)| args.names.contains(name));
    }
    if about.fsid.is_none() {
        about.fsid = fsid(&devices, &cryptsetup).await;
    }
    let overwrite = if args.overwrite { Overwrite::Escrow } else { Overwrite::Never };
    // Before the connection: a wrong folder needs no login.
    let mut draft = Draft::begin(&args.folder, about, overwrite)?;
    let kms = connect().await?;
    let is_whole = args.names.is_empty();
    let names = if is_whole { all_names(&*kms).await? } else { args.names };
    let progress = output.progress();
    let keys = read_keys(&*kms, &names, &|done, all| progress.reached("KEKs", done, all)).await?;
    draft.add_keys(&keys, &of_keks, &identities)?;
    let sharing = if args.together { Sharing::Together } else { Sharing::Separate };
    let mut saved = Vec::new();
    if let Some(of_headers) = of_headers {
        saved =
            save_headers(&mut draft, of_headers, sharing, &devices, &keys, (&cryptsetup, &progress)).await?;
    }
    drop(progress);
    let sidecar = draft.commit()?;
    if is_whole {
        record(sidecar.created.to_string()).await;
    }
    let failed = saved.iter().find_map(|(_, error)| error.as_ref()).map(Exit::of);
    let document = Document {
        ok: failed.is_none(),
        escrow: EscrowDocument::of(&args.folder, &sidecar, None),
        proof: if identities.is_empty() { "file-key" } else { "identity" },
        devices: saved.into_iter().map(|(device, _)| device).collect(),
    };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => text(&document, output)?,
    }
    Ok(failed.unwrap_or(Exit::Done))
}

/// The id of the Ceph cluster in the first header that has it.
async fn fsid(devices: &[(KeyName, PathBuf)], cryptsetup: &Cryptsetup) -> Option<String> {
    for (_, path) in devices {
        if let Ok(header) = Device::new(cryptsetup.clone(), path).header().await
            && let Some(fsid) = header.subsystem().and_then(|subsystem| subsystem.strip_prefix(FSID))
        {
            return Some(fsid.to_owned());
        }
    }
    None
}

type Saved = (DeviceDocument, Option<Error>);

/// Copies each header, tries the KEK on the copy, and writes it.
async fn save_headers(
    draft: &mut Draft,
    recipients: &Recipients,
    sharing: Sharing,
    devices: &[(KeyName, PathBuf)],
    keys: &[SavedKey],
    (cryptsetup, progress): (&Cryptsetup, &Progress),
) -> Result<Vec<Saved>> {
    let mut headers = draft.add_headers(recipients, sharing)?;
    let test = InMemory(cryptsetup.clone());
    let mut saved = Vec::new();
    for (name, path) in devices {
        let mut document = DeviceDocument {
            name: name.to_string(),
            device: path.display().to_string(),
            uuid: None,
            slots: Vec::new(),
            opened: None,
            error: None,
        };
        let copied = async {
            let copy = copy(name, path, cryptsetup).await?;
            (document.uuid, document.slots) = (Some(copy.uuid.clone()), copy.slots.clone());
            if let Some(key) = keys.iter().find(|key| key.entry().name == *name) {
                document.opened = test.opened(&copy.bytes, key.kek()).await?;
            }
            headers.add(&copy, document.opened)
        };
        let error = copied.await.err();
        document.error = error.as_ref().map(ErrorDocument::of);
        saved.push((document, error));
        progress.reached("headers", saved.len(), devices.len());
    }
    // The identities of the KEKs need not be those of the headers: a drill proves these.
    headers.finish(&kms_escrow::Identities::default()).await?;
    Ok(saved)
}

fn text(document: &Document, output: &mut Output<'_>) -> Result<()> {
    let EscrowDocument { escrow, keks, headers, .. } = &document.escrow;
    output.line(format!("{escrow}: {} KEKs for {}", keks.entries, keks.recipients.join(", ")))?;
    if let Some(headers) = headers {
        output.line(format!(
            "{escrow}: {} LUKS headers for {}",
            headers.entries,
            headers.recipients.join(", ")
        ))?;
    }
    for device in &document.devices {
        let DeviceDocument { name, device, opened, error, .. } = device;
        match (error, opened) {
            (Some(error), _) => output.state_line(Tone::Bad, format!("NOT SAVED  {name}: {}", error.message()))?,
            (None, None) => output.state_line(
                Tone::Warning,
                format!("mixed  {name}: the KEK of the KMS does not open {device}, whose header was saved (kms recover)"),
            )?,
            (None, Some(_)) => {}
        }
    }
    output.line(match document.proof {
        "identity" => "the KEKs were read back with the identity".to_owned(),
        _ => {
            format!("the KEKs were read back; prove the identity too: kms escrow drill {escrow} -i IDENTITY")
        }
    })
}
