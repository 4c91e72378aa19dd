//! `kms undelete`: brings back a deleted KEK.

use kms_core::{KmsProvider, Result};
use serde::Serialize;

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
}

/// The key that is back.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    name: String,
    outcome: &'static str,
    version: String,
}

/// Brings the key back.
pub(crate) async fn run(args: Args, kms: &dyn KmsProvider, output: &mut Output<'_>) -> Result<Exit> {
    let name = args.key.arg.name;
    let version = kms.undelete(&name).await?;
    let document = Document { name: name.to_string(), outcome: "undeleted", version: version.to_string() };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => output.line(format!("{}  {name}  version {version}", document.outcome))?,
    }
    Ok(Exit::Done)
}
