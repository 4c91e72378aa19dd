//! Looks whether a key is in use, before it is deleted.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use kms_core::{Error, ErrorKind, KeyName, Result};
use kms_luks::{Cryptsetup, DeviceKind, Mapping, OsdFolder};
use rustix::io::Errno;
use tracing::warn;

use crate::{invocation::Invocation, output::chain, target::Target};

/// Fails if an OSD of this host or of the cluster given with `--cluster` uses the key.
///
/// # Errors
///
/// `Conflict` with everything that was found; errors of asking the cluster.
pub(super) async fn refuse_if_in_use(
    name: &KeyName,
    data_dirs: &[PathBuf],
    target: &Target,
    invocation: &Invocation<'_>,
) -> Result<()> {
    let found = uses(name, data_dirs, target, invocation).await.map_err(|error| {
        error.context("to do", "let the account list Deployments and PVCs, or give --in-use to delete unseen")
    })?;
    refuse(name, &found)
}

/// What uses the key on this host, and in the cluster given with `--cluster`. Empty if nothing does.
///
/// # Errors
///
/// Those of asking the cluster.
pub(crate) async fn uses(
    name: &KeyName,
    data_dirs: &[PathBuf],
    target: &Target,
    invocation: &Invocation<'_>,
) -> Result<Vec<String>> {
    let mut uses = on_host(name, data_dirs, target.kube_namespace(), &invocation.cryptsetup());
    if let Some(cluster) = &invocation.global.cluster {
        uses.extend(target.uses_in_cluster(&cluster.kube_namespace, name).await?);
    }
    Ok(uses)
}

fn refuse(name: &KeyName, uses: &[String]) -> Result<()> {
    if uses.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "the key is in use, and without it the data of its OSD cannot be opened: remove the OSD first, or give --in-use",
    )
    .operation("delete")
    .context("key", name.as_str())
    .context("in use", uses.join(", ")))
}

/// The uses of a key on this host: devices in Rook's folders, and the open mapping of its data.
///
/// What cannot be read is a warning: a host of an administrator need not have any OSD.
fn on_host(
    name: &KeyName,
    data_dirs: &[PathBuf],
    kube_namespace: Option<&str>,
    cryptsetup: &Cryptsetup,
) -> Vec<String> {
    let mut uses = Vec::new();
    for folder in data_dirs.iter().filter(|folder| folder.exists()) {
        match OsdFolder::find(std::slice::from_ref(folder), kube_namespace) {
            Ok(mut found) => {
                let osds = found.remove(name).unwrap_or_default();
                let nodes = osds.iter().flat_map(OsdFolder::nodes);
                uses.extend(
                    nodes
                        .filter(|node| leads_to_a_device(node))
                        .map(|node| format!("device {}", node.display())),
                );
            }
            Err(error) => warn!("devices of this host may use the key: {}", chain(&error)),
        }
    }
    // A name that no mapping can have belongs to no mapping.
    if let Ok(mapper) = DeviceKind::Block.mapping_of(name.as_str()) {
        match Mapping::new(cryptsetup.clone(), mapper.clone()).status() {
            Ok(Some(_)) => uses.push(format!("open device {mapper}")),
            Ok(None) => {}
            Err(error) => warn!("an open device may use the key: {}", chain(&error)),
        }
    }
    uses
}

/// Whether there is a device behind the node. Rook leaves the node behind when an OSD is gone.
fn leads_to_a_device(node: &Path) -> bool {
    match File::open(node) {
        Ok(_) => true,
        Err(error) => {
            !matches!(Errno::from_io_error(&error), Some(Errno::NXIO | Errno::NODEV | Errno::NOENT))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kms_luks::Sysfs;

    use super::*;

    #[test]
    fn a_key_is_in_use_by_a_node_in_rooks_folders_and_by_an_open_mapping() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let node = path("rook/rook-ceph/set1-data-0/ceph-0/block-tmp");
        for file in [&node, &path("rook/rook-ceph/set1-data-0/ceph-0/block.db-tmp")] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        for (number, name) in ["set1-data-0-block-dmcrypt", "other"].into_iter().enumerate() {
            let mapping = path(&format!("sys/block/dm-{number}/dm"));
            fs::create_dir_all(&mapping).unwrap();
            fs::write(mapping.join("name"), format!("{name}\n")).unwrap();
        }
        let cryptsetup = Cryptsetup::new().with_sysfs(Sysfs::at(path("sys"), path("nodes")));
        let uses = |name: &str, kube_namespace: Option<&str>| {
            let dirs = [path("rook"), path("absent")];
            on_host(&name.parse().unwrap(), &dirs, kube_namespace, &cryptsetup)
        };
        let node = format!("device {}", node.canonicalize().unwrap().display());
        let open = "open device set1-data-0-block-dmcrypt".to_owned();
        let db = node.replace("block-tmp", "block.db-tmp");
        assert_eq!(uses("set1-data-0", Some("rook-ceph")), [node.clone(), db.clone(), open.clone()]);
        assert_eq!(uses("set1-data-0", None), [node.clone(), db, open.clone()]);
        assert_eq!(uses("set1-data-0", Some("other")), std::slice::from_ref(&open));
        assert!(uses("set1-data-1", None).is_empty());

        let error = refuse(&"set1-data-0".parse().unwrap(), &[node.clone(), open.clone()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let text = error.to_string();
        assert!(text.contains(&node) && text.contains(&open) && text.contains("--in-use"), "{text}");
    }

    #[test]
    fn a_node_without_a_device_is_not_a_use() {
        assert!(!leads_to_a_device(Path::new("/nonexistent")));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(leads_to_a_device(file.path()));
    }
}
