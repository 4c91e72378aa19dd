//! `kms escrow restore`: brings KEKs back to the KMS.

use std::{path::PathBuf, sync::Arc};

use kms_core::{Error, ErrorKind, KeyName, KmsProvider, Result};
use kms_escrow::{Escrow, Restored, SavedKey, restore};
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
}

/// What was brought back.
#[derive(Serialize)]
struct Document {
    ok: bool,
    keys: Vec<KeyDocument>,
}

/// A key.
#[derive(Serialize)]
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
    connect: impl AsyncFnOnce() -> Result<Arc<dyn KmsProvider>>,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let identities = args.identities.required()?;
    let mut keys = Escrow::open(&args.folder)?.keks(&identities)?;
    if !args.all {
        if let Some(absent) = args.names.iter().find(|name| !keys.iter().any(|key| is_of(key, name))) {
            return Err(Error::new(ErrorKind::NotFound, "the escrow does not have the key")
                .context("key", absent.as_str())
                .context("escrow", args.folder.display().to_string()));
        }
        keys.retain(|key| args.names.iter().any(|name| is_of(key, name)));
    }
    let kms = connect().await?;
    let mut document = Document { ok: true, keys: Vec::with_capacity(keys.len()) };
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
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => document.keys.iter().try_for_each(|key| line(key, output))?,
    }
    Ok(exit)
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
