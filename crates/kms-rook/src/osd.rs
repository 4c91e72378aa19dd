//! Reads an OSD from its Deployment (rook-behaviour §10).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Container, EnvFromSource, EnvVar, PodSpec, Toleration, Volume},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference},
};
use kms_core::{Error, KeyName, Result};

use crate::names::{APP, CLUSTER_LABEL, OSD_APP, OSD_ID_LABEL, PVC_LABEL};

/// The container of the OSD itself.
const CONTAINER: &str = "osd";
/// The init containers that open a device.
const OPEN: &str = "encryption-open";
/// The init container that fetches the KEK from the KMS.
const FETCH: &str = "encryption-kms-get-kek";
/// The init containers that make a device visible to the others.
const MAP: &str = "blkdevmapper";
/// The starts of the names of the variables that are settings of a KMS (rook-behaviour §13.1).
const KMS_SETTINGS: [&str; 5] = ["AZURE_", "IBM_KP_", "KMIP_", "KMS_PROVIDER", "VAULT_"];
/// The end of the names of the init containers for the metadata device.
const METADATA: &str = "-metadata";
/// The end of the names of the init containers for the write-ahead log.
const WAL: &str = "-wal";
/// The toleration that Rook adds to an OSD on a PVC, so that the OSD leaves an unreachable node. It does not belong to the
/// placement of the CephCluster.
const UNREACHABLE: (&str, &str, &str) = ("node.kubernetes.io/unreachable", "Exists", "NoExecute");

/// An OSD on PVCs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Osd {
    /// The number of the OSD.
    pub id: u32,
    /// The name of its key, which is the name of its data PVC.
    pub name: KeyName,
    /// The namespace of its Deployment.
    pub kube_namespace: String,
    /// The name of its Deployment.
    pub deployment: String,
    /// The UID of its Deployment; `None` if the Deployment comes from a manifest.
    pub uid: Option<String>,
    /// The PVC of its metadata (block.db), if that is separate.
    pub metadata_pvc: Option<String>,
    /// The PVC of its write-ahead log (block.wal), if that is separate.
    pub wal_pvc: Option<String>,
    /// The folder on the host with its devices.
    pub bridge: String,
    /// The annotations of its Deployment.
    pub annotations: BTreeMap<String, String>,
    /// The memory that the container which opens its devices may use, in bytes; `None` without a limit.
    pub memory_limit: Option<u64>,
    /// The selector of its Deployment, which cannot change while the Deployment exists.
    pub(crate) selector: LabelSelector,
    pub(crate) pod: Pod,
}

/// The settings that a rotation job takes over from the pod of its OSD.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pod {
    pub(crate) env: Vec<EnvVar>,
    pub(crate) env_from: Option<Vec<EnvFromSource>>,
    pub(crate) store: Option<String>,
    pub(crate) tolerations: Option<Vec<Toleration>>,
    pub(crate) priority_class_name: Option<String>,
    pub(crate) scheduler_name: Option<String>,
    pub(crate) host_network: Option<bool>,
    pub(crate) dns_policy: Option<String>,
    pub(crate) service_account_name: Option<String>,
    /// The settings of the KMS in the container that fetches the KEK. Empty if the KEK comes from a mounted Secret.
    pub(crate) kms: Vec<EnvVar>,
}

impl Osd {
    /// Reads the Deployment of an OSD on a PVC; `None` if the OSD is not encrypted.
    ///
    /// An OSD is encrypted if its label says so, if one of its containers opens a device, or if its block device is a
    /// dm-crypt mapping. One of the three is enough, so that a lost label does not stop the rotation of the key.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if it is not the Deployment of an OSD on a PVC, or if it contradicts itself about its devices. The
    /// message does not name the Deployment.
    pub fn of(deployment: &Deployment) -> Result<Option<Self>> {
        let meta = &deployment.metadata;
        let labels = meta.labels.clone().unwrap_or_default();
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        if label(APP) != OSD_APP {
            return Err(invalid(format!("its label {APP} is not {OSD_APP}")));
        }
        let deployed = deployment.spec.as_ref();
        let template = deployed.map(|spec| &spec.template);
        let Some(pod) = template.and_then(|template| template.spec.as_ref()) else {
            return Err(invalid("it has no pod template"));
        };
        let containers = Containers(pod);
        if !is_encrypted(label("encrypted"), &containers) {
            return Ok(None);
        }
        let pvc = label(PVC_LABEL);
        if pvc.is_empty() {
            return Err(invalid(format!("its label {PVC_LABEL} is empty or missing")));
        }
        let id = osd_id(label(OSD_ID_LABEL), &containers)?;
        let data =
            containers.device("")?.ok_or_else(|| invalid(format!("it has no init container {MAP}")))?;
        if data != pvc {
            return Err(invalid(format!(
                "its label {PVC_LABEL} says {pvc}, but its data is on the PVC {data}"
            )));
        }
        let selector = deployed.map(|spec| spec.selector.clone()).unwrap_or_default();
        if selector.match_labels.as_ref().is_none_or(|labels| !labels.contains_key(OSD_ID_LABEL)) {
            return Err(invalid(format!(
                "its selector has no {OSD_ID_LABEL}, so its pods cannot be told apart from those of other OSDs"
            )));
        }
        Ok(Some(Self {
            id,
            name: KeyName::new(pvc)?,
            kube_namespace: meta
                .namespace
                .clone()
                .filter(|namespace| !namespace.is_empty())
                .or_else(|| labels.get(CLUSTER_LABEL).cloned())
                .ok_or_else(|| invalid("it has no namespace"))?,
            deployment: meta.name.clone().ok_or_else(|| invalid("it has no name"))?,
            uid: meta.uid.clone().filter(|uid| !uid.is_empty()),
            metadata_pvc: containers.device(METADATA)?,
            wal_pvc: containers.device(WAL)?,
            bridge: containers.bridge(id)?,
            annotations: meta.annotations.clone().unwrap_or_default(),
            memory_limit: containers.init(OPEN).and_then(memory_limit),
            selector,
            pod: Pod { store: labels.get("osd-store").cloned(), ..Pod::of(&containers) },
        }))
    }
}

impl Osd {
    /// The service account of its pod.
    pub fn service_account(&self) -> &str {
        // The account of a pod that names none.
        self.pod.service_account_name.as_deref().unwrap_or("default")
    }

    /// The reference to its Deployment, so that Kubernetes deletes an object together with it; `None` without a UID.
    pub fn owner(&self) -> Option<OwnerReference> {
        Some(OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: self.deployment.clone(),
            uid: self.uid.clone()?,
            controller: None,
            block_owner_deletion: None,
        })
    }

    /// Checks that a list of this many LUKS devices can be the whole list: data, metadata, write-ahead log.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if the Deployment has more devices or fewer. The message names the PVCs.
    pub fn check_devices(&self, named: usize) -> Result<()> {
        let pvcs = [
            ("data", Some(self.name.as_str())),
            ("metadata", self.metadata_pvc.as_deref()),
            ("write-ahead log", self.wal_pvc.as_deref()),
        ];
        let pvcs: Vec<_> =
            pvcs.into_iter().filter_map(|(what, pvc)| Some(format!("{what} on the PVC {}", pvc?))).collect();
        if named == pvcs.len() {
            return Ok(());
        }
        Err(Error::config(format!(
            "the OSD has {} devices that one KEK opens, and {named} are named: name all of them, in this order: {}",
            pvcs.len(),
            pvcs.join(", ")
        ))
        .context("key", self.name.as_str())
        .context("deployment", &self.deployment))
    }
}

impl Pod {
    fn of(containers: &Containers<'_>) -> Self {
        let Containers(pod) = containers;
        let osd = containers.osd();
        let is_placement = |toleration: &&Toleration| {
            let parts = [&toleration.key, &toleration.operator, &toleration.effect].map(Option::as_deref);
            parts != [Some(UNREACHABLE.0), Some(UNREACHABLE.1), Some(UNREACHABLE.2)]
        };
        let tolerations =
            pod.tolerations.as_ref().map(|all| all.iter().filter(is_placement).cloned().collect());
        Self {
            env: osd.and_then(|osd| osd.env.clone()).unwrap_or_default(),
            env_from: osd.and_then(|osd| osd.env_from.clone()),
            tolerations: tolerations.filter(|left: &Vec<_>| !left.is_empty()),
            priority_class_name: pod.priority_class_name.clone(),
            scheduler_name: pod.scheduler_name.clone(),
            host_network: pod.host_network,
            dns_policy: pod.dns_policy.clone(),
            service_account_name: pod.service_account_name.clone(),
            kms: containers.init(FETCH).map(kms_settings).unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// The containers of a pod template.
struct Containers<'a>(&'a PodSpec);

impl<'a> Containers<'a> {
    fn init(&self, name: &str) -> Option<&'a Container> {
        self.0.init_containers.iter().flatten().find(|container| container.name == name)
    }

    fn osd(&self) -> Option<&'a Container> {
        self.0.containers.iter().find(|container| container.name == CONTAINER)
    }

    /// A variable of the OSD's own container.
    fn env(&self, name: &str) -> Option<&'a str> {
        self.osd()?.env.iter().flatten().find(|var| var.name == name)?.value.as_deref()
    }

    fn volume(&self, name: &str) -> Option<&'a Volume> {
        self.0.volumes.iter().flatten().find(|volume| volume.name == name)
    }

    /// The PVC that the init container `blkdevmapper<end>` makes visible; `None` if there is no such container.
    fn device(&self, end: &str) -> Result<Option<String>> {
        let (map, open) = (format!("{MAP}{end}"), format!("{OPEN}{end}"));
        let Some(container) = self.init(&map) else {
            return match self.init(&open) {
                Some(_) => Err(invalid(format!("it has an init container {open}, but no {map}"))),
                None => Ok(None),
            };
        };
        if self.init(&open).is_none() {
            // An OSD in Rook's LVM mode, or a Deployment that was edited: its devices have other names.
            return Err(invalid(format!("it is encrypted and has an init container {map}, but no {open}")));
        }
        let device = match container.volume_devices.as_deref() {
            Some([device]) => &device.name,
            _ => return Err(invalid(format!("its init container {map} has not exactly one device"))),
        };
        let claim = self.volume(device).and_then(|volume| volume.persistent_volume_claim.as_ref());
        match claim {
            Some(claim) => Ok(Some(claim.claim_name.clone())),
            None => Err(invalid(format!("the device of its init container {map} is not on a PVC"))),
        }
    }

    /// The folder on the host that the init containers mount as the folder of the OSD.
    fn bridge(&self, id: u32) -> Result<String> {
        let folder = format!("/var/lib/ceph/osd/ceph-{id}");
        let mounts = self.init(MAP).and_then(|container| container.volume_mounts.as_ref());
        let Some(mount) = mounts.into_iter().flatten().find(|mount| mount.mount_path == folder) else {
            return Err(invalid(format!("its init container {MAP} mounts nothing at {folder}")));
        };
        let Some(host) = self.volume(&mount.name).and_then(|volume| volume.host_path.as_ref()) else {
            return Err(invalid(format!("its volume {} is not a folder of the host", mount.name)));
        };
        let path = host.path.trim_end_matches('/');
        Ok(match mount.sub_path.as_deref() {
            Some(below) if !below.is_empty() => format!("{path}/{below}"),
            _ => path.to_owned(),
        })
    }
}

fn is_encrypted(label: &str, containers: &Containers<'_>) -> bool {
    label == "true"
        || containers.init(OPEN).is_some()
        || containers.env("ROOK_BLOCK_PATH").is_some_and(|path| path.contains("-dmcrypt"))
}

fn osd_id(label: &str, containers: &Containers<'_>) -> Result<u32> {
    let id = label.parse().map_err(|_cause| invalid(format!("its label {OSD_ID_LABEL} is not a number")))?;
    match containers.env("ROOK_OSD_ID") {
        Some(other) if other != label => {
            Err(invalid(format!("its label {OSD_ID_LABEL} says {id}, but it runs the OSD {other}")))
        }
        _ => Ok(id),
    }
}

/// The variables of a container that are settings of a KMS.
fn kms_settings(container: &Container) -> Vec<EnvVar> {
    let is_setting = |var: &&EnvVar| KMS_SETTINGS.iter().any(|start| var.name.starts_with(start));
    container.env.iter().flatten().filter(is_setting).cloned().collect()
}

/// The memory that a container may use, in bytes.
fn memory_limit(container: &Container) -> Option<u64> {
    quantity(&container.resources.as_ref()?.limits.as_ref()?.get("memory")?.0)
}

/// Parses a quantity of bytes as the API server writes it. `None` if it is malformed, or less than one byte.
fn quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 12] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("m", 1e-3),
        ("", 1.0),
    ];
    let (number, unit) = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))?;
    let bytes = number.parse::<f64>().ok()? * unit;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (1.0..1e19).contains(&bytes).then_some(bytes as u64)
}

fn invalid(what: impl Into<String>) -> Error {
    Error::config(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_a_number_with_a_unit() {
        for (text, bytes) in [
            ("128974848", Some(128_974_848)),
            ("4Gi", Some(4 << 30)),
            ("1.5Gi", Some(3 << 29)),
            ("129e6", Some(129_000_000)),
            ("129M", Some(129_000_000)),
            ("128974848000m", Some(128_974_848)),
            ("", None),
            ("Gi", None),
            ("-1", None),
            ("1Xi", None),
            ("NaN", None),
            ("1e30", None),
        ] {
            assert_eq!(quantity(text), bytes, "{text}");
        }
    }
}
