//! Finds the OSDs of a host: in Rook's folders, or in a list.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kms_core::{Error, ErrorKind, KeyName, Result, Retry};
use kms_luks::{Cryptsetup, OsdFolder};
use kms_rotation::Osd;

use crate::{input, rook::Deployments};

/// The maximum size of a list.
const MOST_LIST_BYTES: usize = 8 * 1024 * 1024;

/// An OSD that was found, or its fault.
pub(super) type Found = (KeyName, Result<Osd>);

/// The OSDs of these folders. An OSD is a fault if it is not certain that its folder has all its devices.
pub(super) fn in_folders(
    folders: BTreeMap<KeyName, Vec<OsdFolder>>,
    deployments: &Deployments,
    cryptsetup: &Cryptsetup,
) -> Vec<Found> {
    let found = |(name, folders): (KeyName, Vec<OsdFolder>)| {
        let osd = osd_in(&name, &folders, deployments, cryptsetup);
        (name, osd)
    };
    folders.into_iter().map(found).collect()
}

fn osd_in(
    name: &KeyName,
    folders: &[OsdFolder],
    deployments: &Deployments,
    cryptsetup: &Cryptsetup,
) -> Result<Osd> {
    let [folder] = folders else {
        let several: Vec<_> = folders.iter().map(|folder| folder.path().display().to_string()).collect();
        return Err(Error::config("there are several OSDs of this PVC: remove the folder of the one that is gone, or name its devices")
            .context("key", name.as_str())
            .context("folders", several.join(", ")));
    };
    let in_folder = |error: Error| error.context("folder", folder.path().display().to_string());
    let deployed = deployments.confirms(name, folder.osd_id(), folder.nodes().len()).map_err(in_folder)?;
    if !deployed && !folder.is_complete() {
        return Err(in_folder(
            Error::new(
                ErrorKind::Conflict,
                "the OSD has not started in this folder yet, and more of its devices may appear: wait until it has \
                 started, or name its cluster (--cluster) or its devices",
            )
            .retry(Retry::Always)
            .context("key", name.as_str()),
        ));
    }
    Ok(Osd::new(name.clone(), cryptsetup.devices(folder.nodes().to_vec()))?.confirmed())
}

/// Reads a list of OSDs: on each line a name and one to three devices. Skips empty lines and lines that begin with `#`.
///
/// # Errors
///
/// `ConfigInvalid` if the list cannot be read or has an invalid line; the error names the first invalid line.
pub(super) fn listed(list: &Path, cryptsetup: &Cryptsetup) -> Result<Vec<Osd>> {
    let bytes = input::read(list, MOST_LIST_BYTES)?;
    let wrong = |number: usize, why: &str| {
        Error::config(format!("line {number} of the list is not NAME DEVICE [METADATA] [WAL]: {why}"))
            .context("list", input::name(list))
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|_cause| Error::config("the list is not UTF-8 text").context("list", input::name(list)))?;
    let mut found: Vec<Osd> = Vec::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let name =
            KeyName::new(words.next().unwrap_or_default()).map_err(|error| wrong(number, error.message()))?;
        if found.iter().any(|known| *known.name() == name) {
            return Err(wrong(number, "the name occurs twice"));
        }
        let osd = Osd::new(name, cryptsetup.devices(words.map(PathBuf::from)))
            .map_err(|error| wrong(number, error.message()))?;
        found.push(osd);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn paths(osd: &Osd) -> String {
        let paths: Vec<_> = osd.devices().iter().map(|device| device.path().display().to_string()).collect();
        format!("{}: {}", osd.name(), paths.join(" "))
    }

    #[test]
    fn an_osd_whose_devices_are_not_all_there_yet_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "rook-ceph/ready/ceph-0/block",
            "rook-ceph/ready/ceph-0/block-tmp",
            "rook-ceph/ready/ceph-0/block.db-tmp",
            // The init container for its metadata has not run yet.
            "rook-ceph/starting/ceph-1/block-tmp",
            "rook-ceph/moved/ceph-3/block-tmp",
            "rook-ceph/moved/ceph-4/block-tmp",
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let folders = OsdFolder::find(&[folder.path().to_owned()], None).unwrap();
        let found = in_folders(folders, &Deployments::default(), &Cryptsetup::new());
        let [(_, moved), (name, ready), (_, starting)] = found.as_slice() else { panic!("{found:?}") };
        let ready = ready.as_ref().unwrap();
        assert!(name.as_str() == "ready" && ready.is_confirmed() && ready.devices().len() == 2, "{ready:?}");
        assert!(moved.as_ref().unwrap_err().message().starts_with("there are several OSDs"), "{moved:?}");
        let error = starting.as_ref().unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Conflict, Retry::Always));
        assert!(error.to_string().contains("has not started in this folder yet"), "{error}");
    }

    #[test]
    fn a_list_has_an_osd_on_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        fs::write(&list, "# all\n\na /dev/x\n  b /dev/y /dev/z /dev/w\n").unwrap();
        let found = listed(&list, &Cryptsetup::new()).unwrap();
        let found: Vec<_> = found.iter().map(paths).collect();
        assert_eq!(found, ["a: /dev/x", "b: /dev/y /dev/z /dev/w"]);
        for (text, why) in [
            ("a", "line 1 .*not 0"),
            ("a /x\na /y", "line 2 .*occurs twice"),
            ("a 1 2 3 4", "line 1 .*not 4"),
            ("/dev/x a", "line 1 .*not valid"),
        ] {
            fs::write(&list, text).unwrap();
            let error = listed(&list, &Cryptsetup::new()).unwrap_err().to_string();
            assert!(why.split(".*").all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
