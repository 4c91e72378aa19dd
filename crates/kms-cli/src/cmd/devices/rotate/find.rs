//! Finds the OSDs of a host: in Rook's folders, or in a list.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use kms_core::{Error, KeyName, Result};
use kms_luks::Cryptsetup;
use kms_rotation::Osd;

use crate::input;

/// The nodes that Rook creates for an encrypted OSD's devices: data, metadata, write-ahead log (rook-behaviour §8.3).
const NODES: [&str; 3] = ["block-tmp", "block.db-tmp", "block.wal-tmp"];
/// The prefix of an OSD's folder.
const OSD_FOLDER: &str = "ceph-";
/// The maximum size of a list.
const MOST_LIST_BYTES: usize = 8 * 1024 * 1024;

/// An OSD that was found, or its fault.
pub(super) type Found = (KeyName, Result<Osd>);

/// Finds the encrypted OSDs on PVCs: `DIR/NAMESPACE/PVC/ceph-ID/block-tmp` (rook-behaviour §10.2).
///
/// # Errors
///
/// `ConfigInvalid` if a folder cannot be read.
pub(super) fn on_host(
    folders: &[PathBuf],
    kube_namespace: Option<&str>,
    cryptsetup: &Cryptsetup,
) -> Result<Vec<Found>> {
    Ok(folders_on_host(folders, kube_namespace)?
        .into_iter()
        .map(|(name, folders)| {
            let osd = osd_in(&name, &folders, cryptsetup);
            (name, osd)
        })
        .collect())
}

/// Finds the nodes of the devices of the encrypted OSDs on PVCs, by the names of their keys.
///
/// # Errors
///
/// `ConfigInvalid` if a folder cannot be read.
pub(crate) fn nodes_on_host(
    folders: &[PathBuf],
    kube_namespace: Option<&str>,
) -> Result<BTreeMap<KeyName, Vec<PathBuf>>> {
    let found = folders_on_host(folders, kube_namespace)?;
    let nodes = |folders: Vec<PathBuf>| folders.iter().flat_map(|folder| nodes_in(folder)).collect();
    Ok(found.into_iter().map(|(name, folders)| (name, nodes(folders))).collect())
}

/// The folders of the encrypted OSDs of each key.
fn folders_on_host(
    folders: &[PathBuf],
    kube_namespace: Option<&str>,
) -> Result<BTreeMap<KeyName, Vec<PathBuf>>> {
    // Keyed by name: two of the folders may be the same, and lead to the same PVC.
    let mut found: BTreeMap<KeyName, Vec<PathBuf>> = BTreeMap::new();
    for folder in folders {
        for namespace in entries(folder)? {
            if kube_namespace.is_some_and(|wanted| name_of(&namespace) != Some(wanted)) {
                continue;
            }
            for pvc in entries(&namespace)? {
                // Rook names this folder after the PVC. A PVC's name is a valid key name.
                let Some(name) = name_of(&pvc).and_then(|name| KeyName::new(name).ok()) else { continue };
                let encrypted = |osd: &PathBuf| {
                    name_of(osd).is_some_and(|name| name.starts_with(OSD_FOLDER))
                        && osd.join(NODES[0]).exists()
                };
                let osds = entries(&pvc)?.into_iter().filter(encrypted);
                let osds = osds.map(|osd| osd.canonicalize().unwrap_or(osd));
                for osd in osds {
                    let known = found.entry(name.clone()).or_default();
                    if !known.contains(&osd) {
                        known.push(osd);
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The nodes of the devices in the folder of an OSD.
fn nodes_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    NODES.map(|node| folder.join(node)).into_iter().filter(|node| node.exists())
}

fn osd_in(name: &KeyName, folders: &[PathBuf], cryptsetup: &Cryptsetup) -> Result<Osd> {
    match folders {
        [folder] => Osd::new(name.clone(), cryptsetup.devices(nodes_in(folder))),
        several => {
            let several: Vec<_> = several.iter().map(|folder| folder.display().to_string()).collect();
            Err(Error::config("there are several OSDs of this PVC: remove the folder of the one that is gone, or name its devices")
                .context("key", name.as_str())
                .context("folders", several.join(", ")))
        }
    }
}

/// The folders in a folder, sorted.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let not_read = |cause: io::Error| {
        Error::config("the folder of Rook's data cannot be read")
            .context("folder", folder.display().to_string())
            .source(cause)
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(not_read)? {
        let path = entry.map_err(not_read)?.path();
        if path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Reads a list of OSDs: on each line a name and one to three devices. Skips empty lines and lines that begin with `#`.
///
/// # Errors
///
/// `ConfigInvalid` if the list cannot be read or has an invalid line; the error names the first invalid line.
pub(super) fn listed(list: &Path, cryptsetup: &Cryptsetup) -> Result<Vec<Found>> {
    let bytes = input::read(list, MOST_LIST_BYTES)?;
    let wrong = |number: usize, why: &str| {
        Error::config(format!("line {number} of the list is not NAME DEVICE [METADATA] [WAL]: {why}"))
            .context("list", input::name(list))
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|_cause| Error::config("the list is not UTF-8 text").context("list", input::name(list)))?;
    let mut found: Vec<Found> = Vec::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let name =
            KeyName::new(words.next().unwrap_or_default()).map_err(|error| wrong(number, error.message()))?;
        if found.iter().any(|(known, _)| *known == name) {
            return Err(wrong(number, "the name occurs twice"));
        }
        let osd = Osd::new(name.clone(), cryptsetup.devices(words.map(PathBuf::from)))
            .map_err(|error| wrong(number, error.message()))?;
        found.push((name, Ok(osd)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    fn shown(found: &[Found], folder: &Path) -> Vec<String> {
        let folder = folder.canonicalize().unwrap().display().to_string();
        let one = |(name, osd): &Found| match osd {
            Ok(osd) => {
                let paths: Vec<_> = osd
                    .devices()
                    .iter()
                    .map(|device| device.path().display().to_string().replace(&folder, ""))
                    .collect();
                format!("{name}: {}", paths.join(" "))
            }
            Err(error) => format!("{name}: {}", error.message()),
        };
        found.iter().map(one).collect()
    }

    #[test]
    fn encrypted_osds_are_found_where_rook_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        make(
            folder.path(),
            &[
                "rook-ceph/set1-data-0/ceph-0/block-tmp",
                "rook-ceph/set1-data-0/ceph-0/block.wal-tmp",
                "rook-ceph/set1-data-0/ceph-0/block.db-tmp",
                "rook-ceph/set1-data-1/ceph-1/block-tmp",
                "rook-ceph/plain-data-2/ceph-2/block",
                "rook-ceph/moved-data-3/ceph-3/block-tmp",
                "rook-ceph/moved-data-3/ceph-4/block-tmp",
                "rook-ceph/log/ceph-osd.log",
                "rook-ceph/crash",
                "other/set1-data-9/ceph-9/block-tmp",
                "mon-a/data/store.db",
            ],
        );
        let twice = [folder.path().to_owned(), folder.path().to_owned()];
        let found = on_host(&twice, Some("rook-ceph"), &Cryptsetup::new()).unwrap();
        let shown = shown(&found, folder.path());
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown[0].starts_with("moved-data-3: there are several OSDs"), "{shown:?}");
        let osd = "/rook-ceph/set1-data-0/ceph-0";
        assert_eq!(shown[1], format!("set1-data-0: {osd}/block-tmp {osd}/block.db-tmp {osd}/block.wal-tmp"));
        assert_eq!(shown[2], "set1-data-1: /rook-ceph/set1-data-1/ceph-1/block-tmp");
        assert_eq!(on_host(&twice, None, &Cryptsetup::new()).unwrap().len(), 4);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = on_host(&["/nonexistent".into()], None, &Cryptsetup::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_list_has_an_osd_on_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        fs::write(&list, "# all\n\na /dev/x\n  b /dev/y /dev/z /dev/w\n").unwrap();
        let found = listed(&list, &Cryptsetup::new()).unwrap();
        assert_eq!(shown(&found, folder.path()), ["a: /dev/x", "b: /dev/y /dev/z /dev/w"]);
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
