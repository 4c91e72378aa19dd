//! `kms delete`: deletes a KEK that is not in use.

use std::path::PathBuf;

use kms_core::{DeleteMode, ErrorKind, KmsProvider, Result, provider::Deleted};
use serde::Serialize;

use crate::{
    args::KeyArgs,
    exit::Exit,
    output::{Format, Output},
    time::rfc3339,
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// Destroy the KEK and all its versions; nothing can bring them back
    #[arg(long, conflicts_with = "soft")]
    pub(crate) destroy: bool,

    /// Delete so that `kms undelete` can bring the key back; this is the default
    #[arg(long)]
    pub(crate) soft: bool,

    /// Delete the key although it is in use; the data of its OSD can then no longer be opened
    #[arg(long)]
    pub(crate) in_use: bool,

    /// Succeed if the key does not exist
    #[arg(long)]
    pub(crate) ignore_not_found: bool,

    /// The folder where Rook keeps the data of OSDs on this host, to see whether the key is in use; may be repeated
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rook", conflicts_with = "in_use")]
    pub(crate) data_dir: Vec<PathBuf>,
}

/// What is left of the key.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) outcome: &'static str,
    pub(crate) undo: Option<String>,
    pub(crate) recoverable_until: Option<String>,
}

/// Deletes the key. The caller has checked that it is not in use.
pub(crate) async fn run(args: Args, kms: &dyn KmsProvider, output: &mut Output<'_>) -> Result<Exit> {
    let name = args.key.arg.name;
    let mode = if args.destroy { DeleteMode::Destroy } else { DeleteMode::Soft };
    let deleted = match kms.delete(&name, mode).await {
        Ok(deleted) => Some(deleted),
        Err(error) if args.ignore_not_found && error.kind() == ErrorKind::NotFound => None,
        Err(error) if mode == DeleteMode::Soft && error.kind() == ErrorKind::Unsupported => {
            return Err(error.context("to do", "give --destroy to destroy the key for good"));
        }
        Err(error) => return Err(error),
    };
    let document = document(name.as_str(), deleted);
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            output.line(format!("{}  {name}", document.outcome))?;
            if let Some(undo) = &document.undo {
                let until = document.recoverable_until.as_ref();
                let until = until.map(|until| format!("until {until} ")).unwrap_or_default();
                output.line(format!("{until}this brings it back: {undo}"))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn document(name: &str, deleted: Option<Deleted>) -> Document {
    let until = match deleted {
        Some(Deleted::Recoverable { until }) => until.and_then(rfc3339),
        _ => None,
    };
    Document {
        name: name.to_owned(),
        outcome: match deleted {
            None => "not-found",
            Some(Deleted::Destroyed) => "destroyed",
            Some(Deleted::Recoverable { .. }) => "recoverable",
            Some(_) => "deleted",
        },
        undo: deleted.is_some_and(Deleted::is_recoverable).then(|| format!("kms undelete {name}")),
        recoverable_until: until,
    }
}
