//! `kms status`: shows what an open device is mapped to.

use kms_core::{Error, ErrorKind, Result};
use kms_luks::{Cryptsetup, Mapping, MappingName, MappingStatus};
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

/// An open device.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document {
    mapper: String,
    node: String,
    kernel_name: String,
    uuid: String,
    devices: Vec<String>,
    bytes: u64,
    read_only: bool,
    suspended: bool,
    stale: bool,
}

/// Shows the status.
pub(crate) fn run(args: Args, cryptsetup: Cryptsetup, output: &mut Output<'_>) -> Result<Exit> {
    let mapper = args.mapper.mapper;
    let status = Mapping::new(cryptsetup, mapper.clone()).status()?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no device is open under this name")
            .context("mapping", mapper.as_str())
    })?;
    let document = document(&mapper, status);
    match output.format() {
        Format::Json => output.json(&document)?,
        Format::Text => {
            let Document { mapper: _, node, kernel_name, uuid, devices, bytes, read_only, suspended, stale } =
                &document;
            let mut state = vec![if *read_only { "read-only" } else { "read-write" }];
            state.extend(suspended.then_some("suspended"));
            state.extend(stale.then_some("stale: it leads nowhere"));
            output.line(format!("{node}  {kernel_name}  {uuid}"))?;
            output.line(format!("devices  {}", devices.join(" ")))?;
            output.line(format!("size     {bytes} bytes"))?;
            output.line(format!("state    {}", state.join(", ")))?;
        }
    }
    Ok(if document.stale { Exit::Failed } else { Exit::Done })
}

fn document(mapper: &MappingName, status: MappingStatus) -> Document {
    Document {
        mapper: mapper.to_string(),
        node: status.node.display().to_string(),
        kernel_name: status.kernel_name,
        uuid: status.uuid,
        devices: status.devices,
        bytes: status.bytes,
        read_only: status.read_only,
        suspended: status.suspended,
        stale: status.stale,
    }
}
