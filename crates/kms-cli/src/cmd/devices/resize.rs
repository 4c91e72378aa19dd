//! `kms resize`: grows an open device to the size of the disk below it.

use kms_core::Result;
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
}

/// The new size of the device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    mapper: String,
    bytes_before: u64,
    bytes: u64,
}

/// Resizes the device.
pub(crate) async fn run(args: Args, cryptsetup: Cryptsetup, output: &mut Output<'_>) -> Result<Exit> {
    let mapping = Mapping::new(cryptsetup, args.mapper.mapper);
    let bytes = || mapping.status().map(|status| status.map_or(0, |status| status.bytes));
    let bytes_before = bytes()?;
    mapping.resize().await?;
    let document = Document { mapper: mapping.name().to_string(), bytes_before, bytes: bytes()? };
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            output.line(format!(
                "resized  {}  {} bytes, before {bytes_before}",
                document.mapper, document.bytes
            ))?;
        }
    }
    Ok(Exit::Done)
}
