//! The checks of the devices of this host.

use std::{collections::BTreeMap, fs, path::PathBuf};

use kms_core::{ErrorKind, KeyName, KmsProvider, Result};
use kms_luks::{Device, Header, KeySlot, OsdFolder, SlotKdf};
use kms_rook::{
    Osd,
    doctor::{Finding, codes::MISSING},
};
use kms_rotation::{DeviceCheck, Refusal, Silent, verify};

use super::{
    Doctor,
    catalogue::host::{
        CRYPTSETUP, FOLDERS, FOREIGN_SLOT, FOREIGN_TOKEN, HEADER, LEFTOVER, MEMORY, MIXED, UNTRIED,
    },
};
use crate::{args::Global, cmd::escrow::slot::is_recovery};

/// The memory of this host.
const MEMINFO: &str = "/proc/meminfo";
/// The limit of the control group of this process, inside a container.
const CGROUP: &str = "/sys/fs/cgroup/memory.max";
/// What all checks are about if nothing is wrong.
const DEVICES: &str = "devices";

/// The folders of the OSDs of this host.
pub(super) struct Folders(Result<BTreeMap<KeyName, Vec<OsdFolder>>>);

impl Folders {
    /// Finds the folders, if this is a host of OSDs.
    pub(super) fn find(data_dir: &[PathBuf], global: &Global) -> Self {
        let known: Vec<_> = data_dir.iter().filter(|folder| folder.exists()).cloned().collect();
        let kube_namespace = global.cluster.as_ref().map(|named| named.kube_namespace.as_str());
        Self(OsdFolder::find(&known, kube_namespace))
    }

    /// Whether this host has OSDs, as far as can be seen.
    pub(super) fn is_host(&self) -> bool {
        self.0.as_ref().map_or(true, |folders| !folders.is_empty())
    }
}

/// A limit of memory, in bytes, and what sets it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Limit {
    bytes: u64,
    of: String,
}

impl Doctor<'_> {
    /// Checks the devices of every OSD of this host. `osds` has the Deployments, if they are known.
    pub(super) async fn devices(&mut self, folders: Folders, kms: Option<&dyn KmsProvider>, osds: &[Osd]) {
        let folders = match folders.0 {
            Ok(folders) if folders.is_empty() => return,
            Ok(folders) => folders,
            Err(error) => {
                self.diagnosis.add(Finding::failed(FOLDERS, "folders", error, "ls -l /var/lib/rook"));
                return;
            }
        };
        self.diagnosis.pass(FOLDERS, "folders", format!("{} OSDs on this host", folders.len()));
        let cryptsetup = self.invocation.cryptsetup();
        match cryptsetup.version().await {
            Ok(version) => self.diagnosis.pass(CRYPTSETUP, "cryptsetup", version.to_string()),
            Err(error) => {
                self.diagnosis.add(Finding::failed(CRYPTSETUP, "cryptsetup", error, "cryptsetup --version"));
                return;
            }
        }
        for (name, folders) in folders {
            let nodes: Vec<_> = folders.iter().flat_map(OsdFolder::nodes).cloned().collect();
            let limits: Vec<_> = host_limits().into_iter().chain(limit_of(&name, osds)).collect();
            for node in &nodes {
                let header = Device::new(cryptsetup.clone(), node).header().await;
                let object = node.display().to_string();
                match header {
                    Ok(header) => self.header(&object, &header, &limits),
                    Err(error) => {
                        let next = self.commands.kms(&match Refusal::of(&error) {
                            Some(_) => format!("escrow restore DIR {name} --header {object} --uuid UUID"),
                            None => format!("slots {object}"),
                        });
                        self.diagnosis.add(Finding::failed(HEADER, object, error, next));
                    }
                }
            }
            if let Some(kms) = kms {
                self.verify(kms, &name, nodes).await;
            }
        }
        let made: &[_] = if kms.is_some() {
            &[HEADER, MIXED, LEFTOVER, FOREIGN_SLOT, FOREIGN_TOKEN, MEMORY, UNTRIED]
        } else {
            &[HEADER, FOREIGN_SLOT, FOREIGN_TOKEN, MEMORY]
        };
        for code in made {
            if !self.diagnosis.has_made(*code) {
                self.diagnosis.pass(*code, DEVICES, "nothing to note");
            }
        }
    }

    /// Checks the slots of a header.
    fn header(&mut self, object: &str, header: &Header, limits: &[Limit]) {
        let show = self.commands.kms(&format!("slots {object}"));
        for slot in header.slots() {
            let number = slot.slot;
            if let Some(text) = too_large(slot, limits) {
                self.diagnosis.add(Finding::new(MEMORY, object, text, &show));
            }
            // A recovery key of kms escrow slot is meant to be there.
            if !number.is_rotation() && is_recovery(slot) {
                continue;
            }
            if let Some(token) = slot.tokens.first() {
                let text = format!("key slot {number} belongs to {token}: that program opens the device too");
                self.diagnosis.add(Finding::new(FOREIGN_TOKEN, object, text, &show));
            } else if !number.is_rotation() && slot.opens_data {
                let text = format!(
                    "key slot {number} does not belong to the KEK: the key that opens it is not in the KMS, and no \
                     rotation replaces it"
                );
                self.diagnosis.add(Finding::new(FOREIGN_SLOT, object, text, &show));
            }
        }
    }

    /// Tries the KEK on the devices of an OSD.
    async fn verify(&mut self, kms: &dyn KmsProvider, name: &KeyName, nodes: Vec<PathBuf>) {
        let cryptsetup = self.invocation.cryptsetup();
        let verified = async {
            let osd = kms_rotation::Osd::new(name.clone(), cryptsetup.devices(nodes))?;
            verify(kms, &osd, &Silent).await
        };
        let checks = match verified.await {
            Ok(verified) => verified.devices,
            // The inventory has said it, if there is one.
            Err(error) if error.kind() == ErrorKind::NotFound && self.diagnosis.has_found(MISSING) => return,
            Err(error) => {
                let (code, next) = if error.kind() == ErrorKind::NotFound {
                    (MISSING, format!("recover {name} DEVICE"))
                } else {
                    (UNTRIED, format!("verify {name} DEVICE"))
                };
                let next = self.commands.kms(&next);
                self.diagnosis.add(Finding::failed(code, format!("key {name}"), error, next));
                return;
            }
        };
        for DeviceCheck { path, slot, leftovers, .. } in checks {
            let path = path.display();
            match slot {
                Ok(_) if leftovers.is_empty() => {}
                Ok(slot) => {
                    let left: Vec<_> = leftovers.iter().map(ToString::to_string).collect();
                    let text =
                        format!("the KEK opens key slot {slot}, and slot {} is in use too", left.join(", "));
                    let next = self.commands.kms(&format!("rotate {name} {path} --finish"));
                    self.diagnosis.add(Finding::new(LEFTOVER, path.to_string(), text, next));
                }
                Err(error) => {
                    let path = path.to_string();
                    // The header check has said it.
                    if self.diagnosis.objects(HEADER).any(|object| object == path) {
                        continue;
                    }
                    let (code, next) = match Refusal::of(&error) {
                        Some(_) => (MIXED, format!("recover {name} {path}")),
                        None => (UNTRIED, format!("verify {name} {path}")),
                    };
                    let next = self.commands.kms(&next);
                    self.diagnosis.add(Finding::failed(code, path, error, next));
                }
            }
        }
    }
}

/// Says that a slot of the KEK needs more memory than a limit allows. `None` if it does not.
fn too_large(slot: &KeySlot, limits: &[Limit]) -> Option<String> {
    let SlotKdf::Argon2 { memory_kib, .. } = &slot.kdf else { return None };
    let needed = memory_kib.saturating_mul(1024);
    let least = limits.iter().filter(|limit| limit.bytes < needed).min_by_key(|limit| limit.bytes)?;
    Some(format!(
        "key slot {} needs {} MiB, and {} has {} MiB: the device does not open there",
        slot.slot,
        needed >> 20,
        least.of,
        least.bytes >> 20
    ))
}

/// The limit that the Deployment of an OSD sets for the container which opens its devices.
fn limit_of(name: &KeyName, osds: &[Osd]) -> Option<Limit> {
    let osd = osds.iter().find(|osd| osd.name == *name)?;
    Some(Limit { bytes: osd.memory_limit?, of: format!("Deployment {}", osd.deployment) })
}

/// The limits that this host shows.
fn host_limits() -> Vec<Limit> {
    let read = |path: &str, parse: fn(&str) -> Option<u64>, of: &str| {
        let bytes = parse(&fs::read_to_string(path).ok()?)?;
        Some(Limit { bytes, of: of.to_owned() })
    };
    let limits = [
        read(MEMINFO, total_memory, "this host"),
        read(CGROUP, |text| text.trim().parse().ok(), "the control group of this process"),
    ];
    limits.into_iter().flatten().collect()
}

/// The memory of a host, from the text of `/proc/meminfo`.
fn total_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use kms_luks::Slot;

    use super::*;

    #[test]
    fn a_slot_that_needs_more_than_the_smallest_limit_is_named_with_it() {
        let slot = |memory_kib| KeySlot {
            slot: Slot::CURRENT,
            kdf: SlotKdf::Argon2 { variant: "argon2id".to_owned(), passes: 4, memory_kib, threads: 4 },
            opens_data: true,
            salt: String::new(),
            ignored: false,
            tokens: Vec::new(),
        };
        let limits = [(1 << 30, "this host"), (512 << 20, "Deployment a")]
            .map(|(bytes, of)| Limit { bytes, of: of.to_owned() });
        assert_eq!(too_large(&slot(512 * 1024), &limits), None);
        let text = too_large(&slot(2 * 1024 * 1024), &limits).unwrap();
        assert!(text.starts_with("key slot 0 needs 2048 MiB, and Deployment a has 512 MiB"), "{text}");
        let cheap =
            KeySlot { kdf: SlotKdf::Pbkdf2 { hash: "sha256".to_owned(), iterations: 1000 }, ..slot(0) };
        assert_eq!(too_large(&cheap, &limits), None);
    }

    #[test]
    fn the_memory_of_a_host_is_read() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }
}
