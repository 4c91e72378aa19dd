//! The LUKS headers of this host, for an escrow.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use clap::builder::{StringValueParser, TypedValueParser};
use kms_core::{Error, Kek, KeyName, Result};
use kms_escrow::{HeaderCopy, HeaderTest};
use kms_luks::{Cryptsetup, Device, OsdFolder};

use crate::{args::key_name, cmd::devices::DATA_DIR};

/// The options that name devices.
#[derive(clap::Args, Debug)]
pub(super) struct DeviceArgs {
    /// A device and the name of its key, in addition to those in Rook's folders; may be repeated
    #[arg(long = "device", value_name = "NAME=DEVICE", value_parser = StringValueParser::new().try_map(named_device))]
    pub(super) named: Vec<(KeyName, PathBuf)>,

    /// The folder where Rook keeps the data of OSDs on this host; may be repeated
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub(super) data_dir: Vec<PathBuf>,
}

/// Parses `NAME=DEVICE`.
fn named_device(text: String) -> std::result::Result<(KeyName, PathBuf), String> {
    match text.split_once('=') {
        Some((name, device)) if !device.is_empty() => Ok((key_name(name)?, PathBuf::from(device))),
        _ => Err("write it as NAME=DEVICE, such as set1-data-0x7dwl=/dev/sdb".to_owned()),
    }
}

impl DeviceArgs {
    /// The devices with the names of their keys, each once: those that are named, and with `folders` also those in Rook's
    /// folders.
    pub(super) fn find(
        &self,
        folders: bool,
        kube_namespace: Option<&str>,
    ) -> Result<Vec<(KeyName, PathBuf)>> {
        let mut found = self.named.clone();
        if folders {
            let data_dirs: Vec<_> = self.data_dir.iter().filter(|folder| folder.exists()).cloned().collect();
            for (name, folders) in OsdFolder::find(&data_dirs, kube_namespace)? {
                let nodes = folders.iter().flat_map(OsdFolder::nodes);
                found.extend(nodes.map(|node| (name.clone(), node.clone())));
            }
            if found.is_empty() {
                return Err(Error::config(
                    "Rook's folders on this host have no encrypted OSD: name the folder with --data-dir, or the devices \
                     with --device",
                ));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Copies the header of a device.
pub(super) async fn copy(name: &KeyName, path: &Path, cryptsetup: &Cryptsetup) -> Result<HeaderCopy> {
    let bytes = Device::new(cryptsetup.clone(), path).copy_header()?;
    // The header of the copy, not that of the device: another program may write to the device meanwhile.
    let header = Device::in_memory(cryptsetup.clone(), &bytes)?.header().await;
    let header = header.map_err(|error| error.context("device", path.display().to_string()))?;
    Ok(HeaderCopy {
        name: name.clone(),
        device: path.display().to_string(),
        luks: header.version().number(),
        uuid: header.uuid().to_owned(),
        slots: header.slots().map(|slot| slot.slot.number()).collect(),
        bytes,
    })
}

/// Tries KEKs on headers in memory.
#[derive(Debug)]
pub(super) struct InMemory(pub(super) Cryptsetup);

#[async_trait]
impl HeaderTest for InMemory {
    async fn opened(&self, header: &[u8], kek: &Kek) -> Result<Option<u8>> {
        let device = Device::in_memory(self.0.clone(), header)?;
        let header = device.header().await?;
        Ok(device.find(&header, kek).await?.map(|slot| slot.number()))
    }
}
