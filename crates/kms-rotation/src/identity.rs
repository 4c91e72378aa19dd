//! Tells whether two paths lead to the same device.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// The device behind a path.
///
/// Rook makes nodes of its own for the devices of an OSD, so the paths of one block device may have nothing in common.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum DeviceIdentity {
    /// The number of a block device.
    Block(u64),
    /// The filesystem and the inode of an image.
    File(u64, u64),
    /// A path that leads nowhere. The error comes when the device is opened.
    Missing(PathBuf),
}

impl DeviceIdentity {
    /// Looks at the path.
    pub(crate) fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Self::Block(found.rdev()),
            Ok(found) => Self::File(found.dev(), found.ino()),
            Err(_) => Self::Missing(path.to_owned()),
        }
    }
}

/// Whether two paths lead to the same block device, or to the same image.
pub fn is_same_device(left: &Path, right: &Path) -> bool {
    DeviceIdentity::of(left) == DeviceIdentity::of(right)
}
