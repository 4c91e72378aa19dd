//! Compares the list of an OSD's devices with the OSD's Deployment and with Rook's folders.
//!
//! One KEK opens all devices of an OSD. A rotation that does not know of one of them leaves it with a KEK that the KMS no
//! longer returns.

use std::path::PathBuf;

use kms_core::Result;
use kms_luks::OsdFolder;
use kms_rotation::Osd;

use crate::rook::Deployments;

/// Checks that no device is left out, as far as can be seen. Marks the list as confirmed if the Deployment or a folder of
/// Rook shows that it is complete. `data_dirs` are the folders of Rook's data on this host.
///
/// # Errors
///
/// `ConfigInvalid` if the OSD has a device that is not in the list, or if its Deployment cannot be understood.
pub(crate) fn compared(osd: Osd, deployments: &Deployments, data_dirs: &[PathBuf]) -> Result<Osd> {
    let paths: Vec<PathBuf> = osd.devices().iter().map(|device| device.path().to_owned()).collect();
    let mut is_complete = false;
    for folder in OsdFolder::of_devices(osd.name(), &paths, data_dirs) {
        folder.check_devices(&paths).map_err(|error| error.context("key", osd.name().as_str()))?;
        is_complete |= folder.is_complete();
    }
    is_complete |= deployments.confirms(osd.name(), None, paths.len())?;
    Ok(if is_complete { osd.confirmed() } else { osd })
}
