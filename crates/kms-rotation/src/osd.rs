//! An encrypted OSD: one KEK, and the devices that it opens.

use std::{collections::BTreeSet, path::PathBuf};

use kms_core::{Error, KeyName, Result};
use kms_luks::{Cryptsetup, Device};

/// The most devices that an OSD has: data, metadata, write-ahead log.
const MOST_DEVICES: usize = 3;

/// An encrypted OSD: the name of its KEK, and the devices that the KEK opens, data first.
#[derive(Debug)]
pub struct Osd {
    name: KeyName,
    devices: Vec<Device>,
}

impl Osd {
    /// An OSD with these devices: data, and then metadata and write-ahead log if it has them.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` without a device, with more than three, and with one that is named twice.
    pub fn new(
        name: KeyName,
        cryptsetup: &Cryptsetup,
        paths: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Self> {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let wrong = |what: String| Err(Error::config(what).context("key", name.as_str()));
        if !(1..=MOST_DEVICES).contains(&paths.len()) {
            return wrong(format!(
                "an OSD has one to {MOST_DEVICES} devices (data, metadata, write-ahead log), not {}",
                paths.len()
            ));
        }
        let mut seen = BTreeSet::new();
        for path in &paths {
            // One that is not there is reported when it is opened.
            if !seen.insert(path.canonicalize().unwrap_or_else(|_missing| path.clone())) {
                return wrong(format!("the device {} is named twice", path.display()));
            }
        }
        let devices = paths.into_iter().map(|path| Device::new(cryptsetup.clone(), path)).collect();
        Ok(Self { name, devices })
    }

    /// The name of its KEK.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Its devices, data first.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_osd_has_one_to_three_devices_each_once() {
        let osd = |paths: &[&str]| {
            let paths = paths.iter().map(PathBuf::from);
            Osd::new("a".parse().unwrap(), &Cryptsetup::new(), paths)
        };
        assert_eq!(osd(&["x", "y", "z"]).unwrap().devices().len(), 3);
        for (paths, why) in
            [(&[][..], "not 0"), (&["a", "b", "c", "d"], "not 4"), (&["/", "a", "/."], "named twice")]
        {
            assert!(osd(paths).unwrap_err().to_string().contains(why), "{why}");
        }
    }
}
