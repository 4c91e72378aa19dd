//! The Job that saves the KEKs of a cluster in an escrow.
//!
//! It runs on any node, without a device and without privileges. It reads the KEKs with an account of its own, and writes
//! nothing but archives that only the identities of the recipients decrypt.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, ObjectFieldSelector,
            PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
            SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kms_core::{Error, Result};
use kms_kube::CephCluster;

use crate::{
    container::{PROGRAM, REPORT_FILE, TERMINATION_LOG, mount, pull_policy_of},
    env::plain,
    names::{APP, CLUSTER_LABEL, ESCROW_LABEL},
    options::{JobOptions, no_image},
};

/// The value of the label `app`, which is also the name of the container and of the account by default.
pub const ESCROW_APP: &str = "rook-kms-escrow";
/// The folder of the claim in the container.
const ARCHIVES: &str = "/escrow";
/// The folder in the container with the file of the recipients.
const RECIPIENTS: &str = "/recipients";
/// The annotation of the pod with the recipients, which the kubelet writes into that file: recipients are public.
const ANNOTATION: &str = "kms.ceph.rook.io/escrow-recipients";
/// The user and the group of the container.
const USER: i64 = 65532;
/// The longest time of a run, in seconds.
const RUN_SECONDS: i64 = 3600;

/// Where an escrow goes, and who can read it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct EscrowTarget {
    /// The PersistentVolumeClaim for the archives.
    pub claim: String,
    /// The recipients, as `kms escrow create` takes them.
    pub recipients: Vec<String>,
    /// The account that may read the keys, and annotate the CephCluster.
    pub service_account: String,
}

impl EscrowTarget {
    /// An escrow in this claim for these recipients, made by the account of the name [`ESCROW_APP`].
    pub fn new(claim: impl Into<String>, recipients: Vec<String>) -> Self {
        Self { claim: claim.into(), recipients, service_account: ESCROW_APP.to_owned() }
    }

    /// Names another account.
    #[must_use]
    pub fn with_service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = name.into();
        self
    }
}

/// A Job of this name that saves all KEKs of a cluster once, in a folder of the same name, and that Kubernetes does not try
/// again. It has the label [`ESCROW_LABEL`].
///
/// # Errors
///
/// `ConfigInvalid` if the options name no image, or if the namespace or the name of the CephCluster is not known.
pub fn escrow_job(
    cluster: &CephCluster,
    options: &JobOptions,
    target: &EscrowTarget,
    name: &str,
) -> Result<Job> {
    let image = options.image.clone().filter(|image| !image.is_empty()).ok_or_else(no_image)?;
    let reference = cluster
        .reference
        .as_ref()
        .filter(|reference| !reference.kube_namespace.is_empty() && !reference.name.is_empty())
        .ok_or_else(|| Error::config("the name and the namespace of the CephCluster are not known"))?;
    let labels: BTreeMap<_, _> =
        [(APP, ESCROW_APP), (CLUSTER_LABEL, &reference.kube_namespace), (ESCROW_LABEL, "true")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let folder = format!("{ARCHIVES}/{name}");
    let file = format!("{RECIPIENTS}/recipients");
    let named = format!("{}/{}", reference.kube_namespace, reference.name);
    let args = ["--cluster", &named, "escrow", "create", &folder, "--recipients-file", &file];
    let container = Container {
        name: ESCROW_APP.to_owned(),
        image: Some(image),
        image_pull_policy: Some(pull_policy_of(cluster.spec.image_pull_policy.as_deref())),
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(args.map(str::to_owned).into()),
        // The operator reads the message of the pod.
        env: Some(vec![plain(REPORT_FILE, TERMINATION_LOG)]),
        volume_mounts: Some(vec![
            mount("archives", ARCHIVES),
            VolumeMount { read_only: Some(true), ..mount("recipients", RECIPIENTS) },
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        ..Container::default()
    };
    let pod = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(target.service_account.clone()),
        security_context: Some(PodSecurityContext {
            // The group owns the files of the claim.
            fs_group: Some(USER),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(vec![
            Volume {
                name: "archives".to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: target.claim.clone(),
                    read_only: None,
                }),
                ..Volume::default()
            },
            Volume {
                name: "recipients".to_owned(),
                downward_api: Some(DownwardAPIVolumeSource {
                    items: Some(vec![DownwardAPIVolumeFile {
                        field_ref: Some(ObjectFieldSelector {
                            field_path: format!("metadata.annotations['{ANNOTATION}']"),
                            api_version: None,
                        }),
                        path: "recipients".to_owned(),
                        ..DownwardAPIVolumeFile::default()
                    }]),
                    ..DownwardAPIVolumeSource::default()
                }),
                ..Volume::default()
            },
        ]),
        ..PodSpec::default()
    };
    let recipients = [(ANNOTATION.to_owned(), target.recipients.join("\n"))].into();
    let owner = reference.uid.clone().map(|uid| OwnerReference {
        api_version: "ceph.rook.io/v1".to_owned(),
        kind: "CephCluster".to_owned(),
        name: reference.name.clone(),
        uid,
        controller: None,
        block_owner_deletion: None,
    });
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(reference.kube_namespace.clone()),
            labels: Some(labels.clone()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            active_deadline_seconds: Some(RUN_SECONDS),
            backoff_limit: Some(0),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(recipients),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use kms_kube::ClusterRef;
    use serde_json::json;

    use super::*;

    fn cluster() -> CephCluster {
        let reference = ClusterRef::new("rook-ceph", "my-cluster").with_uid("u");
        let mut cluster = CephCluster::default();
        cluster.reference = Some(reference);
        cluster
    }

    #[test]
    fn an_escrow_runs_without_privileges_and_has_its_recipients_from_the_pod() {
        let target = EscrowTarget::new("archives", vec!["age1a".to_owned(), "age1b".to_owned()]);
        let job = escrow_job(&cluster(), &JobOptions::new("mine:0"), &target, "rook-kms-escrow-1").unwrap();
        let job = serde_json::to_value(job).unwrap();
        let at = |path: &str| job.pointer(path).unwrap_or_else(|| panic!("{path} is not in {job}"));
        assert_eq!(
            at("/spec/template/spec/containers/0/args"),
            &json!([
                "--cluster",
                "rook-ceph/my-cluster",
                "escrow",
                "create",
                "/escrow/rook-kms-escrow-1",
                "--recipients-file",
                "/recipients/recipients",
            ])
        );
        assert_eq!(
            at("/spec/template/metadata/annotations"),
            &json!({"kms.ceph.rook.io/escrow-recipients": "age1a\nage1b"})
        );
        assert_eq!(at("/spec/template/spec/serviceAccountName"), "rook-kms-escrow");
        assert_eq!(at("/spec/template/spec/volumes/0/persistentVolumeClaim/claimName"), "archives");
        assert_eq!(at("/metadata/ownerReferences/0/uid"), "u");
        let text = job.to_string();
        assert!(
            !text.contains("privileged") && !text.contains("hostPath") && !text.contains("secret"),
            "{text}"
        );
        let error = escrow_job(&cluster(), &JobOptions::default(), &target, "a").unwrap_err();
        assert!(error.to_string().contains("no image"), "{error}");
        let unnamed = CephCluster::default();
        assert!(escrow_job(&unnamed, &JobOptions::new("mine:0"), &target, "a").is_err());
    }
}
