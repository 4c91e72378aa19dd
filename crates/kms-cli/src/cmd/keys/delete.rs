//! `kms delete`: deletes a KEK.

use kms_core::{DeleteMode, ErrorKind, KmsProvider, Result, provider::Deleted};
use serde::Serialize;

use crate::{
    args::{Files, NameArg},
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) files: Files,

    #[command(flatten)]
    pub(crate) name: NameArg,

    /// Succeed if the key does not exist
    #[arg(long)]
    pub(crate) ignore_not_found: bool,

    /// Delete so that the provider's own tools can restore the key, if the provider supports that
    #[arg(long)]
    pub(crate) soft: bool,
}

/// The remains of the key.
#[derive(Serialize)]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) outcome: &'static str,
}

/// Deletes the key.
pub(crate) async fn run(args: Args, kms: &dyn KmsProvider, output: &mut Output<'_>) -> Result<Exit> {
    let name = args.name.name;
    let mode = if args.soft { DeleteMode::Soft } else { DeleteMode::Destroy };
    let outcome = match kms.delete(&name, mode).await {
        Ok(Deleted::Destroyed) => "destroyed",
        Ok(Deleted::Recoverable) => "recoverable",
        Ok(_) => "deleted",
        Err(error) if args.ignore_not_found && error.kind() == ErrorKind::NotFound => "not-found",
        Err(error) => return Err(error),
    };
    match output.format() {
        Format::Json => output.json(&Document { name: name.to_string(), outcome })?,
        Format::Text => output.line(format!("{outcome}  {name}"))?,
    }
    Ok(Exit::Done)
}
