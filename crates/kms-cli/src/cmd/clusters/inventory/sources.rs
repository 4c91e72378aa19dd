//! The sources of an inventory: Kubernetes, files or this host; and the KMS.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kms_core::{Error, ErrorKind, KeyName, KmsProvider, Result};
use kms_kube::ClusterRef;
use kms_luks::{Cryptsetup, OsdFolder};
use kms_rook::{
    Discovery,
    client::{OsdPod, nodes_of},
    inventory::{Facts, Gap, OsdFacts, Source},
};
use kms_rotation::{DeviceCheck, Osd, Refusal, Silent, verify};
use kms_source::Manifests;
use tokio::join;

use crate::{
    cmd::{
        clusters::source::{DEPLOYMENT, discover_in},
        devices::verify::DeviceDocument,
        keys::list::collect,
    },
    invocation::Invocation,
    kubernetes::Kubernetes,
    output::chain,
    progress::Progress,
    settings::{ClusterSettings, read_manifests},
    target::Target,
};

/// The kinds of objects that are taken from files, besides Deployments.
pub(crate) const CLAIM: &str = "PersistentVolumeClaim";
const POD: &str = "Pod";
/// The name of this host.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// How many OSDs have their devices tried at a time.
const DEVICES_PARALLEL: usize = 2;

/// The devices of this host by the name of their key, and whether its KEK opens them.
pub(super) type Devices = BTreeMap<KeyName, Vec<DeviceDocument>>;

/// The folders of OSDs on this host, by the name of their key.
type Folders = BTreeMap<KeyName, Vec<OsdFolder>>;

/// What was found.
pub(super) struct Found {
    pub(super) target: Target,
    /// The connection to the KMS. An error is a gap too.
    pub(super) kms: Result<Arc<dyn KmsProvider>>,
    pub(super) provider: &'static str,
    pub(super) facts: Facts,
    pub(super) devices: Devices,
}

impl Found {
    /// Asks all sources. OSDs come from Kubernetes with `--cluster`, else from the files if they have any, else from the
    /// folders of this host. `try_devices` shows how far the tries on devices are; without it, kms tries no device.
    ///
    /// # Errors
    ///
    /// Those of finding the settings. A source that fails is a gap.
    pub(super) async fn read(
        invocation: &Invocation<'_>,
        data_dir: &[PathBuf],
        try_devices: Option<&Progress>,
    ) -> Result<Self> {
        let global = &invocation.global;
        let (target, files) = match (&global.cluster, global.files.is_empty()) {
            (None, false) => {
                let mut manifests = read_manifests(global, &[DEPLOYMENT, CLAIM, POD])?;
                let files = in_files(&mut manifests);
                let settings = Box::new(ClusterSettings::of_files(manifests, None)?);
                let kubernetes = Kubernetes::new(global, global.timeout);
                let (environment, registry) = (invocation.environment, &invocation.registry);
                (Target::new(settings, kubernetes, global, environment, registry), files)
            }
            _ => (invocation.target().await?, None),
        };
        let provider = target.provider()?.as_str();
        let kms = target.connect().await;
        let (keys, cluster) = join!(
            async {
                match &kms {
                    Ok(kms) => collect(&**kms).await,
                    Err(error) => Err(error.clone()),
                }
            },
            async {
                match &global.cluster {
                    Some(named) => Some(in_kubernetes(target.kubernetes(), named).await),
                    None => None,
                }
            }
        );
        let reads_host = try_devices.is_some() || (cluster.is_none() && files.is_none());
        let folders =
            if reads_host { on_host(data_dir, target.kube_namespace()) } else { Ok(Folders::new()) };
        let mut facts = cluster.or(files).unwrap_or_else(|| of_host(&folders));
        match keys {
            Ok((keys, cut)) => {
                facts.keys = keys;
                facts.gaps.extend(cut.map(|error| failed(Source::Keys, error)));
            }
            Err(error) => facts.gaps.push(failed(Source::Keys, error)),
        }
        let mut devices = Devices::new();
        if let (Some(progress), Ok(kms)) = (try_devices, &kms) {
            match folders {
                Ok(folders) => {
                    devices =
                        open_each(&**kms, folders, &invocation.cryptsetup(), &mut facts, progress).await;
                }
                Err(error) => facts.gaps.push(failed(Source::Devices, error)),
            }
        }
        Ok(Self { target, kms, provider, facts, devices })
    }
}

fn failed(source: Source, error: Error) -> Gap {
    Gap::failed(source, chain(&error), error)
}

/// Takes the objects of a cluster from files. `None` if the files have none.
fn in_files(manifests: &mut Manifests) -> Option<Facts> {
    let cluster = manifests.cluster().and_then(|cluster| cluster.reference.clone());
    let found = discover_in(manifests, cluster.as_ref());
    let mut gaps = Vec::new();
    let mut claims = Vec::new();
    for (_, read) in manifests.take_objects::<PersistentVolumeClaim>(CLAIM) {
        match read {
            Ok(claim) => claims.extend(claim.metadata.name),
            Err(error) => gaps.push(failed(Source::Claims, error)),
        }
    }
    let mut pods = Vec::new();
    for (_, read) in manifests.take_objects::<Pod>(POD) {
        match read {
            Ok(pod) => pods.push(pod),
            Err(error) => gaps.push(failed(Source::Nodes, error)),
        }
    }
    let no_osds = found.osds.is_empty() && found.faults.is_empty() && found.plain == 0;
    if no_osds && claims.is_empty() && pods.is_empty() && gaps.is_empty() {
        return None;
    }
    let absent = |source, kind| Gap::new(source, format!("the files given with -f have no {kind}"));
    gaps.extend(no_osds.then(|| absent(Source::Osds, "Deployment of an OSD")));
    gaps.extend(claims.is_empty().then(|| absent(Source::Claims, CLAIM)));
    gaps.extend(pods.is_empty().then(|| absent(Source::Nodes, POD)));
    gaps.extend(faults(&found));
    let osds = OsdFacts::of_deployments(&found, &nodes_of(pods.iter().filter_map(OsdPod::of)));
    Some(Facts { osds, claims: claims.into_iter().collect(), gaps, ..Facts::default() })
}

/// Asks Kubernetes for the OSDs, the PVCs and the nodes.
async fn in_kubernetes(kubernetes: &Kubernetes, named: &ClusterRef) -> Facts {
    let mut facts = Facts::default();
    let place = match kubernetes.rook(&named.kube_namespace).await {
        Ok(place) => place,
        Err(error) => {
            let sources = [Source::Osds, Source::Claims, Source::Nodes];
            facts.gaps.extend(sources.map(|source| failed(source, error.clone())));
            return facts;
        }
    };
    let (osds, claims, nodes) = join!(place.osds(), place.claims(), place.nodes());
    let mut known = |source, error: Error| facts.gaps.push(failed(source, error));
    let nodes = nodes.unwrap_or_else(|error| {
        known(Source::Nodes, error);
        BTreeMap::new()
    });
    match claims {
        Ok(claims) => facts.claims = claims,
        Err(error) => known(Source::Claims, error),
    }
    match osds {
        Ok(found) => {
            facts.gaps.extend(faults(&found));
            facts.osds = OsdFacts::of_deployments(&found, &nodes);
        }
        Err(error) => known(Source::Osds, error),
    }
    facts
}

/// A Deployment that cannot be understood may belong to any key.
fn faults(found: &Discovery) -> Vec<Gap> {
    found.faults.iter().map(|fault| failed(Source::Osds, fault.error.clone())).collect()
}

/// The folders of the OSDs of this host.
fn on_host(data_dir: &[PathBuf], kube_namespace: Option<&str>) -> Result<Folders> {
    let folders: Vec<_> = data_dir.iter().filter(|folder| folder.exists()).cloned().collect();
    OsdFolder::find(&folders, kube_namespace)
}

/// What the folders of this host tell.
fn of_host(folders: &Result<Folders>) -> Facts {
    let name_it = "name the cluster with --cluster";
    let mut gaps = vec![
        Gap::new(Source::Osds, format!("only the OSDs of this host are known: {name_it}")),
        Gap::new(Source::Claims, format!("a host does not tell which PVCs exist: {name_it}")),
    ];
    let node = fs::read_to_string(HOSTNAME).ok().map(|name| name.trim().to_owned());
    let of_folder = |(name, folders): (&KeyName, &Vec<OsdFolder>)| {
        let osd = |folder: &OsdFolder| OsdFacts::on_host(folder.osd_id(), name.clone(), node.clone());
        folders.iter().map(osd).collect::<Vec<_>>()
    };
    let osds = match folders {
        Ok(folders) => folders.iter().flat_map(of_folder).collect(),
        Err(error) => {
            gaps.push(failed(Source::Osds, error.clone()));
            Vec::new()
        }
    };
    Facts { osds, gaps, ..Facts::default() }
}

/// Tries the KEK of each OSD of this host on the devices of the OSD.
async fn open_each(
    kms: &dyn KmsProvider,
    folders: Folders,
    cryptsetup: &Cryptsetup,
    facts: &mut Facts,
    progress: &Progress,
) -> Devices {
    let (all, mut done) = (folders.len(), 0);
    let tried = stream::iter(folders).map(async |(name, folders)| {
        let nodes = folders.iter().flat_map(OsdFolder::nodes).cloned();
        let verified = async {
            let osd = Osd::new(name.clone(), cryptsetup.devices(nodes))?;
            verify(kms, &osd, &Silent).await
        };
        let verified = verified.await;
        (name, verified)
    });
    let mut tried = tried.buffer_unordered(DEVICES_PARALLEL);
    let mut devices = Devices::new();
    while let Some((name, verified)) = tried.next().await {
        done += 1;
        progress.reached("OSDs", done, all);
        match verified {
            Ok(found) => {
                let (problem, untried) = judged(&found.devices);
                facts.gaps.extend(untried.into_iter().map(|error| failed(Source::Devices, error)));
                facts.devices.insert(name.clone(), problem);
                devices.insert(name, found.devices.iter().map(DeviceDocument::of).collect());
            }
            // The list of keys tells it too.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => facts.gaps.push(failed(Source::Devices, error)),
        }
    }
    devices
}

/// Why an OSD does not start from its devices, if that was seen, and the errors of the devices that could not be tried.
fn judged(devices: &[DeviceCheck]) -> (Option<String>, Vec<Error>) {
    let errors = devices.iter().filter_map(|device| device.slot.as_ref().err());
    let (seen, untried): (Vec<_>, Vec<_>) = errors.partition(|error| Refusal::of(error).is_some());
    let problem = seen.into_iter().map(chain).collect::<Vec<_>>().join("; ");
    (Some(problem).filter(|text| !text.is_empty()), untried.into_iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use kms_rotation::Slot;

    use super::*;

    #[test]
    fn a_device_that_is_in_use_is_not_one_that_the_kek_does_not_open() {
        let of = |slots: Vec<std::result::Result<Slot, Error>>| {
            let devices: Vec<_> = slots.into_iter().map(|slot| DeviceCheck::new("/dev/a", slot)).collect();
            let (problem, untried) = judged(&devices);
            (problem, untried.len())
        };
        let conflict = |message: &'static str| Error::new(ErrorKind::Conflict, message);
        assert_eq!(of(vec![Ok(Slot::CURRENT), Err(conflict("in use"))]), (None, 1));
        let (problem, untried) = of(vec![
            Err(conflict("no slot").source(Refusal::Kek)),
            Err(conflict("in use")),
            Err(Error::config("no header").source(Refusal::Header)),
        ]);
        assert_eq!(untried, 1);
        assert_eq!(
            problem.as_deref(),
            Some(
                "no slot: an OSD does not start with this KEK; no header: an OSD does not start from this device"
            )
        );
    }
}
