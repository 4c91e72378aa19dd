//! Rook's folder of an OSD on its host, with the nodes of the OSD's devices (rook-behaviour §10.2).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use kms_core::{Error, KeyName, Result};
use kms_rotation::is_same_device;

/// The nodes of an OSD's LUKS devices, data first, each with the node of the open device (rook-behaviour §8.3).
const NODES: [(&str, &str); 3] =
    [("block-tmp", "block"), ("block.db-tmp", "block.db"), ("block.wal-tmp", "block.wal")];
/// The start of the name of an OSD's folder.
const PREFIX: &str = "ceph-";

/// Rook's folder of an encrypted OSD.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OsdFolder {
    path: PathBuf,
    nodes: Vec<PathBuf>,
    is_complete: bool,
}

impl OsdFolder {
    /// Looks into a folder. `None` if it has no node of a LUKS device.
    pub fn at(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        let has = |name: &str| path.join(name).exists();
        let nodes: Vec<_> =
            NODES.iter().filter(|(node, _)| has(node)).map(|(node, _)| path.join(node)).collect();
        if nodes.is_empty() {
            return None;
        }
        // Init containers make the nodes one after the other, then open the devices, and then make the nodes of the open
        // ones. So the first of these shows that no node is still to come.
        let is_complete = has("block") && NODES.iter().all(|(node, open)| has(node) || !has(open));
        Some(Self { path, nodes, is_complete })
    }

    /// Finds the folders of the encrypted OSDs on PVCs below folders of Rook's data, with the names of their keys:
    /// `DIR/NAMESPACE/PVC/ceph-ID` (rook-behaviour §10.2). `kube_namespace` limits them to one namespace.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a folder cannot be read.
    pub fn find(data_dirs: &[PathBuf], kube_namespace: Option<&str>) -> Result<BTreeMap<KeyName, Vec<Self>>> {
        // Keyed by name: two of the folders may be the same, and lead to the same PVC.
        let mut found: BTreeMap<KeyName, Vec<Self>> = BTreeMap::new();
        for data_dir in data_dirs {
            for namespace in entries(data_dir)? {
                if kube_namespace.is_some_and(|wanted| name_of(&namespace) != Some(wanted)) {
                    continue;
                }
                for pvc in entries(&namespace)? {
                    // Rook names this folder after the PVC. A PVC's name is a valid key name.
                    let Some(name) = name_of(&pvc).and_then(|name| KeyName::new(name).ok()) else { continue };
                    let is_osd = |path: &PathBuf| name_of(path).is_some_and(|name| name.starts_with(PREFIX));
                    let osds = entries(&pvc)?.into_iter().filter(is_osd);
                    for osd in osds.filter_map(|osd| Self::at(osd.canonicalize().unwrap_or(osd))) {
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

    /// Finds the folders that have a node of one of these devices: the folders of the paths themselves, and those of the
    /// key `name` below `data_dirs`. Skips folders that are absent or cannot be read.
    pub fn of_devices(name: &KeyName, devices: &[PathBuf], data_dirs: &[PathBuf]) -> Vec<Self> {
        let namespaces = data_dirs.iter().flat_map(|folder| entries(folder).unwrap_or_default());
        let below =
            namespaces.flat_map(|namespace| entries(&namespace.join(name.as_str())).unwrap_or_default());
        let beside = devices.iter().filter_map(|path| {
            let path = path.canonicalize().ok()?;
            has_name_of_node(&path).then(|| path.parent().map(Path::to_owned))?
        });
        let mut found: Vec<Self> = Vec::new();
        let below = below.map(|folder| folder.canonicalize().unwrap_or(folder));
        for folder in beside.chain(below).filter_map(Self::at) {
            let is_used = |node: &PathBuf| devices.iter().any(|device| is_same_device(device, node));
            if folder.nodes.iter().any(is_used) && !found.contains(&folder) {
                found.push(folder);
            }
        }
        found
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The nodes of the LUKS devices, data first.
    pub fn nodes(&self) -> &[PathBuf] {
        &self.nodes
    }

    /// Whether the OSD has no other device than the nodes show. `false` while the OSD starts for the first time on this
    /// host: the node of its metadata appears after that of its data.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The number of the OSD, if the name of the folder has it.
    pub fn osd_id(&self) -> Option<u32> {
        name_of(&self.path)?.strip_prefix(PREFIX)?.parse().ok()
    }

    /// Checks that a list of the OSD's devices leaves no node out.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` naming the nodes that are not in the list.
    pub fn check_devices(&self, devices: &[PathBuf]) -> Result<()> {
        let is_named = |node: &PathBuf| devices.iter().any(|device| is_same_device(device, node));
        let left_out: Vec<_> =
            self.nodes.iter().filter(|node| !is_named(node)).map(|node| node.display().to_string()).collect();
        if left_out.is_empty() {
            return Ok(());
        }
        Err(Error::config(
            "the OSD has devices that are not named, and one KEK opens all of them: name them too, in the order data, \
             metadata, write-ahead log",
        )
        .context("left out", left_out.join(", ")))
    }
}

/// Whether the last part of a path is the name of a node of a LUKS device.
fn has_name_of_node(path: &Path) -> bool {
    name_of(path).is_some_and(|name| NODES.iter().any(|(node, _)| name == *node))
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

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn make(folder: &Path, files: &[&str]) {
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    fn name(text: &str) -> KeyName {
        KeyName::new(text).unwrap()
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
        let found = OsdFolder::find(&twice, Some("rook-ceph")).unwrap();
        let ids = |key: &str| found[&name(key)].iter().map(OsdFolder::osd_id).collect::<Vec<_>>();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(ids("moved-data-3"), [Some(3), Some(4)]);
        assert_eq!(ids("set1-data-1"), [Some(1)]);
        let [osd] = found[&name("set1-data-0")].as_slice() else { panic!("{found:?}") };
        let place = folder.path().canonicalize().unwrap().join("rook-ceph/set1-data-0/ceph-0");
        assert_eq!(osd.path(), place);
        assert_eq!(osd.nodes(), ["block-tmp", "block.db-tmp", "block.wal-tmp"].map(|node| place.join(node)));
        assert_eq!(OsdFolder::find(&twice, None).unwrap().len(), 4);
        let error = OsdFolder::find(&["/nonexistent".into()], None).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_folder_is_complete_when_its_osd_has_opened_the_devices() {
        let cases: [(&[&str], bool); 6] = [
            (&["block-tmp"], false),
            (&["block-tmp", "block.db-tmp"], false),
            (&["block-tmp", "block"], true),
            (&["block-tmp", "block.db-tmp", "block", "block.db"], true),
            // The node of the metadata is gone.
            (&["block-tmp", "block", "block.db"], false),
            (&["block.db-tmp", "block"], false),
        ];
        for (files, complete) in cases {
            let folder = tempfile::tempdir().unwrap();
            make(folder.path(), files);
            assert_eq!(OsdFolder::at(folder.path()).unwrap().is_complete(), complete, "{files:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), &["block", "whoami"]);
        assert_eq!(OsdFolder::at(folder.path()), None);
    }

    #[test]
    fn a_device_that_is_left_out_is_found_by_the_folder_of_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let osd = "rook-ceph/set1-data-0/ceph-0";
        make(
            folder.path(),
            &[
                &format!("{osd}/block-tmp"),
                &format!("{osd}/block.db-tmp"),
                "rook-ceph/set1-data-1/ceph-1/block-tmp",
            ],
        );
        let node = |node: &str| folder.path().join(osd).join(node);
        let (data, metadata) = (node("block-tmp"), node("block.db-tmp"));
        // Another path to the device, as `/dev/sdb` is another one to the device of a node.
        let elsewhere = folder.path().join("sdb");
        fs::hard_link(&data, &elsewhere).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let data_dirs = [folder.path().to_owned(), "/nonexistent".into()];
        let key = name("set1-data-0");
        for (device, data_dirs) in
            [(&data, &[][..]), (&link, &[]), (&elsewhere, &data_dirs), (&data, &data_dirs)]
        {
            let found = OsdFolder::of_devices(&key, from_ref(device), data_dirs);
            let [found] = found.as_slice() else { panic!("{device:?}: {found:?}") };
            let error = found.check_devices(from_ref(device)).unwrap_err().to_string();
            assert!(error.contains("block.db-tmp") && !error.contains("block-tmp,"), "{error}");
            found.check_devices(&[metadata.clone(), device.clone()]).unwrap();
        }
        assert!(OsdFolder::of_devices(&key, &[folder.path().join("image")], &data_dirs).is_empty());
        assert!(OsdFolder::of_devices(&name("set1-data-1"), &[elsewhere], &data_dirs).is_empty());
    }
}
