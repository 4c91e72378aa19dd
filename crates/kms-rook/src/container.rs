//! The container of a rotation job: program, environment and volumes (rook-behaviour §12.1).

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EnvVar, HostPathVolumeSource, ResourceRequirements, SecurityContext, Volume,
        VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    env::{from_secret, plain},
    names::Naming,
    options::JobOptions,
    osd::Osd,
    volumes::Mounted,
};

/// The program. The job names it so that a wrong image fails at once. Rook relies on the entry point of its image,
/// which has its own `rotate-key`.
pub(crate) const PROGRAM: &str = "kms";

/// The subcommand of `key-management` that rotates a key.
pub(crate) const ROTATE_KEY: &str = "rotate-key";

/// The subcommand of `key-management` that tries the KEK on the devices.
const VERIFY_KEY: &str = "verify-key";

/// The argument of a job with the grace period.
pub(crate) const GRACE: &str = "--grace";
/// The argument of a job that destroys superseded KEKs.
pub(crate) const DESTROY_SUPERSEDED: &str = "--destroy-superseded";

/// The variable of a Job with the file for its report. It is no argument, so that an image with an older `kms` works as before.
pub(crate) const REPORT_FILE: &str = "KMS_REPORT_FILE";
/// The file whose end the kubelet puts into the status of the pod.
pub(crate) const TERMINATION_LOG: &str = "/dev/termination-log";

/// The folder in the container with the devices of the OSD.
const DEVICES: &str = "/var/lib/ceph/osd/";

/// The variables that a job takes from the OSD's own container, in Rook's order. The variables from Secrets come
/// between the two lists.
const BEFORE_SECRETS: [&str; 11] = [
    "ROOK_NODE_NAME",
    "ROOK_CLUSTER_ID",
    "ROOK_CLUSTER_NAME",
    "ROOK_PRIVATE_IP",
    "ROOK_PUBLIC_IP",
    "POD_NAMESPACE",
    "ROOK_MON_ENDPOINTS",
    "ROOK_CONFIG_DIR",
    "ROOK_CEPH_CONFIG_OVERRIDE",
    "NODE_NAME",
    "ROOK_CRUSHMAP_ROOT",
];
const AFTER_SECRETS: [&str; 4] =
    ["ROOK_CRUSHMAP_HOSTNAME", "CEPH_VOLUME_DEBUG", "CEPH_VOLUME_SKIP_RESTORECON", "DM_DISABLE_UDEV"];

/// The Secret of the monitors, which names the Ceph cluster.
const MONITORS: &str = "rook-ceph-mon";

/// What a job does with the key of its OSD.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    /// Stores a new KEK.
    Rotate {
        /// Whether superseded KEKs are destroyed.
        destroy_superseded: bool,
    },
    /// Tries the KEK on the devices, and changes nothing.
    Verify,
}

/// The arguments: Rook's own (rook-behaviour §11), the grace period if one is set, what happens to superseded KEKs, and
/// that the job does not replace Rook's.
fn arguments(osd: &Osd, options: &JobOptions, task: Task) -> Vec<String> {
    let command = match task {
        Task::Rotate { .. } => ROTATE_KEY,
        Task::Verify => VERIFY_KEY,
    };
    let mut args = vec!["key-management".to_owned(), command.to_owned(), osd.name.to_string()];
    let devices = [
        (true, "block-tmp"),
        (osd.metadata_pvc.is_some(), "block.db-tmp"),
        (osd.wal_pvc.is_some(), "block.wal-tmp"),
    ];
    args.extend(devices.iter().filter(|(there, _)| *there).map(|(_, name)| format!("{DEVICES}{name}")));
    let Task::Rotate { destroy_superseded } = task else { return args };
    if let Some(grace) = options.grace {
        args.extend([GRACE.to_owned(), format!("{}s", grace.as_secs())]);
    }
    if destroy_superseded {
        args.push(DESTROY_SUPERSEDED.to_owned());
    }
    if options.naming == Naming::BesideRook {
        args.push("--beside-rook".to_owned());
    }
    args
}

/// The container of a job.
pub(crate) fn container(
    name: &str,
    options: &JobOptions,
    pull_policy: Option<&str>,
    osd: &Osd,
    kms: Vec<EnvVar>,
    mounted: Option<&Mounted>,
    task: Task,
) -> Container {
    let mut mounts = vec![mount("devices", "/dev"), mount("udev", "/run/udev"), mount("bridge", DEVICES)];
    mounts.extend(mounted.map(|mounted| mounted.mount.clone()));
    Container {
        name: name.to_owned(),
        image: options.image.clone(),
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(arguments(osd, options, task)),
        env: Some(environment(osd, kms)),
        env_from: osd.pod.env_from.clone(),
        resources: Some(resources()),
        volume_mounts: Some(mounts),
        image_pull_policy: Some(pull_policy_of(pull_policy)),
        // cryptsetup needs the devices of the host, and a place for its locks.
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities { drop: Some(vec!["NET_RAW".to_owned()]), add: None }),
            privileged: Some(true),
            run_as_user: Some(0),
            run_as_non_root: Some(false),
            read_only_root_filesystem: Some(false),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// What a job asks the node for. There is no limit: to open a slot that Rook made takes as much memory as its key
/// derivation says, up to some GiB, and a job that is killed for it would fail at every run.
fn resources() -> ResourceRequirements {
    let requests = [("cpu", "20m"), ("memory", "64Mi")];
    let requests = requests.map(|(name, least)| (name.to_owned(), Quantity(least.to_owned())));
    ResourceRequirements { requests: Some(requests.into()), ..ResourceRequirements::default() }
}

/// The volumes of a job.
pub(crate) fn volumes(osd: &Osd, mounted: Option<&Mounted>) -> Vec<Volume> {
    let mut volumes = vec![
        host("udev", "/run/udev", None),
        host("devices", "/dev", None),
        // The folder must exist: an empty new folder would look like an OSD without devices.
        host("bridge", &osd.bridge, Some("Directory")),
    ];
    volumes.extend(mounted.map(|mounted| mounted.volume.clone()));
    volumes
}

/// Rook's environment of an OSD, followed by the KMS part. Of two variables with one name the first counts, as in Rook.
fn environment(osd: &Osd, kms: Vec<EnvVar>) -> Vec<EnvVar> {
    let known = |name: &&str| osd.pod.env.iter().find(|var| var.name == **name).cloned();
    let mut all: Vec<EnvVar> = BEFORE_SECRETS.iter().filter_map(known).collect();
    all.push(from_secret("ROOK_CEPH_USERNAME", MONITORS, "ceph-username"));
    all.push(from_secret("ROOK_FSID", MONITORS, "fsid"));
    all.extend(osd.pod.store.as_deref().map(|store| plain("ROOK_OSD_STORE_TYPE", store)));
    all.extend(AFTER_SECRETS.iter().filter_map(known));
    for var in kms {
        if !all.iter().any(|known| known.name == var.name) {
            all.push(var);
        }
    }
    all
}

/// When the image of a job is pulled: as the CephCluster says for its daemons, otherwise if it is absent.
pub(crate) fn pull_policy_of(cluster: Option<&str>) -> String {
    cluster.unwrap_or("IfNotPresent").to_owned()
}

pub(crate) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn host(name: &str, path: &str, kind: Option<&str>) -> Volume {
    let source = HostPathVolumeSource { path: path.to_owned(), type_: kind.map(str::to_owned) };
    Volume { name: name.to_owned(), host_path: Some(source), ..Volume::default() }
}
