//! One OSD, as its Deployment shows it (rook-behaviour §10).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Container, EnvFromSource, EnvVar, PodSpec, Toleration, Volume},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kms_core::{Error, KeyName, Result};

use crate::names::{APP, CLUSTER_LABEL, OSD_APP, OSD_ID_LABEL, PVC_LABEL};

/// The container of the OSD itself.
const CONTAINER: &str = "osd";
/// The init containers that open a device.
const OPEN: &str = "encryption-open";
/// The init containers that show a device to the others.
const MAP: &str = "blkdevmapper";
/// The ends of their names, for the devices that an OSD may have.
const METADATA: &str = "-metadata";
const WAL: &str = "-wal";
/// The annotations of Multus: the networks that a pod is to be on.
const MULTUS: &str = "k8s.v1.cni.cncf.io/";
/// What Rook adds to the tolerations of an OSD on a PVC, so that it leaves a node that is away. It is no part of the
/// placement.
const UNREACHABLE: (&str, &str, &str) = ("node.kubernetes.io/unreachable", "Exists", "NoExecute");

/// An OSD on PVCs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Osd {
    /// Its number.
    pub id: u32,
    /// The name of its key: that of its data PVC.
    pub name: KeyName,
    /// The namespace.
    pub kube_namespace: String,
    /// The name of its Deployment.
    pub deployment: String,
    /// The UID of its Deployment, if it was read from a cluster.
    pub uid: Option<String>,
    /// The PVC of its metadata (block.db), if it has one of its own.
    pub metadata_pvc: Option<String>,
    /// The PVC of its write-ahead log (block.wal), if it has one of its own.
    pub wal_pvc: Option<String>,
    /// The folder on the host that has its devices.
    pub bridge: String,
    /// The annotations of its Deployment.
    pub annotations: BTreeMap<String, String>,
    /// The labels by which its Deployment finds its pods, which cannot change while it exists.
    pub(crate) selector: LabelSelector,
    pub(crate) pod: Pod,
}

/// What a rotation job takes over from the pod of its OSD.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pod {
    pub(crate) env: Vec<EnvVar>,
    pub(crate) env_from: Option<Vec<EnvFromSource>>,
    pub(crate) store: Option<String>,
    pub(crate) networks: BTreeMap<String, String>,
    pub(crate) tolerations: Option<Vec<Toleration>>,
    pub(crate) priority_class_name: Option<String>,
    pub(crate) scheduler_name: Option<String>,
    pub(crate) host_network: Option<bool>,
    pub(crate) dns_policy: Option<String>,
    pub(crate) service_account_name: Option<String>,
}

impl Osd {
    /// Reads the Deployment of an OSD on a PVC; `None` if the OSD is not encrypted.
    ///
    /// An OSD is encrypted if its label says so, if one of its containers opens a device, or if its block device is
    /// an opened one: whichever of the three somebody has lost, its key is still to be rotated.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if it is no Deployment of an OSD on a PVC, or if what it says of its devices does not fit
    /// together. The message does not name the Deployment.
    pub fn of(deployment: &Deployment) -> Result<Option<Self>> {
        let meta = &deployment.metadata;
        let labels = meta.labels.clone().unwrap_or_default();
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        if label(APP) != OSD_APP {
            return Err(fault(format!("its label {APP} is not {OSD_APP}")));
        }
        let deployed = deployment.spec.as_ref();
        let template = deployed.map(|spec| &spec.template);
        let Some(pod) = template.and_then(|template| template.spec.as_ref()) else {
            return Err(fault("it has no pod template"));
        };
        let containers = Containers(pod);
        if !is_encrypted(label("encrypted"), &containers) {
            return Ok(None);
        }
        let pvc = label(PVC_LABEL);
        if pvc.is_empty() {
            return Err(fault(format!("its label {PVC_LABEL} is empty or missing")));
        }
        let id = osd_id(label(OSD_ID_LABEL), &containers)?;
        let data = containers.device("")?.ok_or_else(|| fault(format!("it has no init container {MAP}")))?;
        if data != pvc {
            return Err(fault(format!(
                "its label {PVC_LABEL} says {pvc}, but its data is on the PVC {data}"
            )));
        }
        let selector = deployed.map(|spec| spec.selector.clone()).unwrap_or_default();
        if selector.match_labels.as_ref().is_none_or(|labels| !labels.contains_key(OSD_ID_LABEL)) {
            return Err(fault(format!(
                "its selector has no {OSD_ID_LABEL}, so its pods are not told from others"
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
                .ok_or_else(|| fault("it has no namespace"))?,
            deployment: meta.name.clone().ok_or_else(|| fault("it has no name"))?,
            uid: meta.uid.clone().filter(|uid| !uid.is_empty()),
            metadata_pvc: containers.device(METADATA)?,
            wal_pvc: containers.device(WAL)?,
            bridge: containers.bridge(id)?,
            annotations: meta.annotations.clone().unwrap_or_default(),
            selector,
            pod: Pod {
                store: labels.get("osd-store").cloned(),
                networks: networks(
                    template.and_then(|template| template.metadata.as_ref()?.annotations.as_ref()),
                ),
                ..Pod::of(&containers)
            },
        }))
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

    /// The PVC that the init container `blkdevmapper<end>` shows to the others; `None` if there is no such container.
    fn device(&self, end: &str) -> Result<Option<String>> {
        let (map, open) = (format!("{MAP}{end}"), format!("{OPEN}{end}"));
        let Some(container) = self.init(&map) else {
            return match self.init(&open) {
                Some(_) => Err(fault(format!("it has an init container {open}, but none {map}"))),
                None => Ok(None),
            };
        };
        if self.init(&open).is_none() {
            // Rook's OSDs in LVM mode, or a Deployment that somebody has changed: the devices have other names then.
            return Err(fault(format!("it is encrypted and has an init container {map}, but none {open}")));
        }
        let device = match container.volume_devices.as_deref() {
            Some([device]) => &device.name,
            _ => return Err(fault(format!("its init container {map} has not exactly one device"))),
        };
        let claim = self.volume(device).and_then(|volume| volume.persistent_volume_claim.as_ref());
        match claim {
            Some(claim) => Ok(Some(claim.claim_name.clone())),
            None => Err(fault(format!("the device of its init container {map} is not on a PVC"))),
        }
    }

    /// The folder on the host that the init containers see as the folder of the OSD.
    fn bridge(&self, id: u32) -> Result<String> {
        let folder = format!("/var/lib/ceph/osd/ceph-{id}");
        let mounts = self.init(MAP).and_then(|container| container.volume_mounts.as_ref());
        let Some(mount) = mounts.into_iter().flatten().find(|mount| mount.mount_path == folder) else {
            return Err(fault(format!("its init container {MAP} mounts nothing at {folder}")));
        };
        let Some(host) = self.volume(&mount.name).and_then(|volume| volume.host_path.as_ref()) else {
            return Err(fault(format!("its volume {} is no folder of the host", mount.name)));
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
    let id = label.parse().map_err(|_cause| fault(format!("its label {OSD_ID_LABEL} is not a number")))?;
    match containers.env("ROOK_OSD_ID") {
        Some(other) if other != label => {
            Err(fault(format!("its label {OSD_ID_LABEL} says {id}, but it runs the OSD {other}")))
        }
        _ => Ok(id),
    }
}

fn networks(annotations: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let all = annotations.into_iter().flatten();
    all.filter(|(name, _)| name.starts_with(MULTUS))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn fault(what: impl Into<String>) -> Error {
    Error::config(what.into())
}
