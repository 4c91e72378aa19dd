//! `kms close`: closes an open device.

use kms_core::{ErrorKind, Result};
use kms_luks::{Cryptsetup, Mapping};
use serde::Serialize;

use crate::{
    args::MapperArg,
    exit::Exit,
    output::{Format, Output},
};

/// The arguments.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) mapper: MapperArg,

    /// Succeed if no device is open under this name
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
}

/// The result for the device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    mapper: String,
    outcome: &'static str,
}

/// Closes the device.
pub(crate) async fn run(args: Args, cryptsetup: Cryptsetup, output: &mut Output<'_>) -> Result<Exit> {
    let mapper = args.mapper.mapper;
    let outcome = match Mapping::new(cryptsetup, mapper.clone()).close().await {
        Ok(()) => "closed",
        Err(error) if args.ignore_not_found && error.kind() == ErrorKind::NotFound => "not-found",
        Err(error) => return Err(error),
    };
    match output.format() {
        Format::Json => output.json(&Document { mapper: mapper.to_string(), outcome })?,
        Format::Text => output.line(format!("{outcome}  {mapper}"))?,
    }
    Ok(Exit::Done)
}
