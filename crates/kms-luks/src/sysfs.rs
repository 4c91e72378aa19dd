//! The mappings, as the kernel lists them.
//!
//! In `/sys/block` each mapping is a folder `dm-*` with its name, its UUID and links to the devices below.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use kms_core::{Error, ErrorKind, Result};
use rustix::fs::{major, minor};

use crate::mapping_name::MappingName;

/// The bytes of a sector in `/sys`, which do not depend on the device.
const SECTOR: u64 = 512;

/// The folders `/sys` and `/dev/mapper`, or stand-ins in a test.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
    nodes: PathBuf,
}

/// A mapping, as the kernel lists it.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    /// Its name in the kernel, such as `dm-0`.
    pub(crate) kernel_name: String,
    /// The UUID that the creator set; from cryptsetup `CRYPT-LUKS2-…`.
    pub(crate) uuid: String,
    pub(crate) bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) suspended: bool,
    pub(crate) below: Vec<Below>,
}

/// A device that a mapping is on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Below {
    pub(crate) kernel_name: String,
    /// The number, such as `8:1`. `None` if the device is gone.
    number: Option<String>,
    /// The image of a loop device.
    image: Option<PathBuf>,
}

impl Sysfs {
    /// The folders of this system.
    pub fn new() -> Self {
        Self { root: PathBuf::from("/sys"), nodes: PathBuf::from("/dev/mapper") }
    }

    /// Stand-ins for `/sys` and for `/dev/mapper`.
    pub fn at(root: impl Into<PathBuf>, nodes: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), nodes: nodes.into() }
    }

    /// The node of a mapping.
    pub(crate) fn node(&self, name: &MappingName) -> PathBuf {
        self.nodes.join(name.as_str())
    }

    /// Whether the node of a mapping exists.
    pub(crate) fn has_node(&self, name: &MappingName) -> bool {
        self.node(name).exists()
    }

    /// Whether device-mapper is loaded.
    pub(crate) fn has_device_mapper(&self) -> bool {
        self.root.join("class/misc/device-mapper").exists()
    }

    /// The mapping of this name. `None` if there is no such mapping.
    ///
    /// # Errors
    ///
    /// `Unexpected` if `/sys` cannot be read, since then no mapping counts as absent.
    pub(crate) fn mapped(&self, name: &MappingName) -> Result<Option<Mapped>> {
        self.find(name).map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the kernel's list of mapped devices cannot be read")
                .context("path", self.root.join("block").display().to_string())
                .source(cause)
        })
    }

    fn find(&self, name: &MappingName) -> io::Result<Option<Mapped>> {
        for entry in fs::read_dir(self.root.join("block"))? {
            let entry = entry?;
            let kernel_name = entry.file_name().to_string_lossy().into_owned();
            // A mapping that vanishes meanwhile has no name.
            if kernel_name.starts_with("dm-")
                && line(&entry.path().join("dm/name")).as_deref() == Some(name.as_str())
            {
                return Ok(Some(mapped(&entry.path(), kernel_name)));
            }
        }
        Ok(None)
    }
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::new()
    }
}

impl Mapped {
    /// Whether the mapping is on this device or image.
    pub(crate) fn is_on(&self, path: &Path) -> io::Result<bool> {
        let metadata = fs::metadata(path)?;
        if metadata.file_type().is_block_device() {
            let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
            return Ok(self.below.iter().any(|below| below.number.as_deref() == Some(&number)));
        }
        let path = path.canonicalize()?;
        Ok(self.below.iter().any(|below| below.image.as_deref() == Some(&path)))
    }

    /// Whether cryptsetup made the mapping.
    pub(crate) fn is_crypt(&self) -> bool {
        self.uuid.starts_with("CRYPT-")
    }

    /// Whether the mapping was made from the LUKS header with this UUID.
    pub(crate) fn is_of(&self, luks_uuid: &str) -> bool {
        let digits: String = luks_uuid.chars().filter(|c| *c != '-').collect();
        self.uuid.split('-').nth(2) == Some(&digits)
    }

    /// Whether the mapping is stale: it has no table and so no size, or all devices below it are gone.
    ///
    /// A suspended mapping is not stale: a resize suspends it for a moment.
    pub(crate) fn is_stale(&self) -> bool {
        self.bytes == 0 || self.below.iter().all(|below| below.number.is_none())
    }
}

fn mapped(path: &Path, kernel_name: String) -> Mapped {
    let number =
        |name: &str| line(&path.join(name)).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let mut below: Vec<_> = names(&path.join("slaves")).map(|name| device_below(path, name)).collect();
    below.sort_by(|one, other| one.kernel_name.cmp(&other.kernel_name));
    Mapped {
        uuid: line(&path.join("dm/uuid")).unwrap_or_default(),
        bytes: number("size").saturating_mul(SECTOR),
        read_only: number("ro") != 0,
        suspended: number("dm/suspended") != 0,
        below,
        kernel_name,
    }
}

fn device_below(mapping: &Path, kernel_name: String) -> Below {
    let path = mapping.join("slaves").join(&kernel_name);
    let number = line(&path.join("dev"));
    let image = line(&path.join("loop/backing_file")).map(PathBuf::from);
    Below { kernel_name, number, image }
}

/// The names in a folder. Empty if there is no such folder.
fn names(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The line that a file in `/sys` holds.
fn line(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(below: &[(&str, Option<&str>, Option<&str>)]) -> Mapped {
        let below = below.iter().map(|(name, number, image)| Below {
            kernel_name: (*name).to_owned(),
            number: number.map(ToOwned::to_owned),
            image: image.map(PathBuf::from),
        });
        Mapped {
            kernel_name: "dm-0".to_owned(),
            uuid: "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-set1-data-0-block-dmcrypt".to_owned(),
            bytes: 512,
            read_only: false,
            suspended: false,
            below: below.collect(),
        }
    }

    #[test]
    fn a_mapping_is_of_the_header_whose_uuid_it_bears() {
        let mapping = mapping(&[]);
        assert!(mapping.is_crypt() && mapping.is_of("01234567-89ab-cdef-0123-456789abcdef"));
        assert!(!mapping.is_of("11234567-89ab-cdef-0123-456789abcdef") && !mapping.is_of(""));
    }

    #[test]
    fn a_mapping_on_nothing_is_stale() {
        assert!(mapping(&[]).is_stale() && mapping(&[("sdb", None, None)]).is_stale());
        assert!(!mapping(&[("sdb", Some("8:16"), None)]).is_stale());
        let unfinished = Mapped { bytes: 0, ..mapping(&[("sdb", Some("8:16"), None)]) };
        let resized = Mapped { suspended: true, ..mapping(&[("sdb", Some("8:16"), None)]) };
        assert!(unfinished.is_stale() && !resized.is_stale());
    }

    #[test]
    fn a_mapping_is_on_the_image_behind_its_loop_device() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path().canonicalize().unwrap();
        assert!(mapping(&[("loop0", Some("7:0"), path.to_str())]).is_on(image.path()).unwrap());
        assert!(!mapping(&[("loop0", Some("7:0"), Some("/other"))]).is_on(image.path()).unwrap());
        assert!(mapping(&[]).is_on(Path::new("/nonexistent")).is_err());
    }
}
