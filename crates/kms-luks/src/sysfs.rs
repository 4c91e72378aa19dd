//! What the kernel tells of its devices.

use std::path::PathBuf;

/// Where the kernel tells of its devices: `/sys`, or what stands for it in a test.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// That of this system.
    pub fn new() -> Self {
        Self::at("/sys")
    }

    /// One at another place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::new()
    }
}
