//! `kms put`: stores an existing KEK.

use std::path::PathBuf;

use kms_core::{Kek, KmsProvider, PutMode, Result};
use serde::Serialize;

use crate::{
    args::KeyArgs,
    exit::Exit,
    input,
    output::{Format, Output, identity},
};

/// The arguments. The KEK itself is never one, since every process may read our command line.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) key: KeyArgs,

    /// The file with the KEK, without a line break at its end; `-` reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(crate) from: PathBuf,

    /// Replace an existing KEK; a device that only the old KEK opens is lost
    #[arg(long)]
    pub(crate) replace: bool,
}

/// The key that is now stored.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) fingerprint: String,
}

/// Reads the KEK.
pub(crate) fn read(args: &Args) -> Result<Kek> {
    let mut bytes = input::read(&args.from, Kek::MAX_BYTES)?;
    Kek::parse_bytes(std::mem::take(&mut *bytes))
        .map_err(|error| error.context("input", input::name(&args.from)))
}

/// Stores the KEK.
pub(crate) async fn run(
    args: Args,
    kek: &Kek,
    kms: &dyn KmsProvider,
    output: &mut Output<'_>,
) -> Result<Exit> {
    let name = args.key.arg.name;
    let mode = if args.replace { PutMode::Overwrite } else { PutMode::Create };
    let version = kms.put(&name, kek, mode).await?;
    let document =
        Document { name: name.to_string(), version: version.to_string(), fingerprint: kek.fingerprint() };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            let Document { name, version, fingerprint } = document;
            output.line(format!("stored  {name}  {}", identity(&version, &fingerprint)))?;
        }
    }
    Ok(Exit::Done)
}
