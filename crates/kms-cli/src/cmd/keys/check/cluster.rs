//! The steps about the OSDs of the cluster: whether each has a key, whether a CronJob rotates it, and whether the
//! namespace admits the pods of the CronJobs.
//!
//! They never fail, since the KMS works without them: each gives a warning.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use kms_core::{KeyName, KmsProvider, Result};
use kms_rook::{Discovery, Osd, client::RookNamespace};

use super::Report;
use crate::{
    args::Global,
    cmd::clusters::source::{DEPLOYMENT, discover_in},
    output::chain,
    settings::read_manifests,
    target::Target,
};

const OSDS: &str = "osds";
const ROTATION: &str = "rotation";
const ADMISSION: &str = "pod security";

/// How many OSDs a warning names.
const SHOWN: usize = 10;

/// The level of the Pod Security Standards that admits the pods of the CronJobs: they open devices of the host.
const PRIVILEGED: &str = "privileged";

/// Adds the steps: with `--cluster` for the OSDs in Kubernetes, with `-f` for the Deployments in the files.
pub(super) async fn add(global: &Global, target: &Target, kms: &dyn KmsProvider, report: &mut Report) {
    let Some(cluster) = &global.cluster else {
        match in_files(global) {
            Ok(found) if found.osds.is_empty() && found.faults.is_empty() => {}
            Ok(found) => add_osds(&found, kms, report).await,
            Err(error) => report.warn(OSDS, format!("not seen: {}", chain(&error))),
        }
        return;
    };
    if report.failed() {
        [OSDS, ROTATION, ADMISSION].into_iter().for_each(|step| report.not_run(step));
        return;
    }
    let seen = async {
        let place = target.kubernetes().rook(&cluster.kube_namespace).await?;
        let found = place.osds().await?;
        Ok::<_, kms_core::Error>((place, found))
    };
    match seen.await {
        Ok((place, found)) => {
            add_osds(&found, kms, report).await;
            add_rotation(&place, &found, target.security().key_rotation.enabled, report).await;
            add_admission(&place, report).await;
        }
        Err(error) => report.warn(OSDS, format!("not seen: {}", chain(&error))),
    }
}

/// The OSDs of the Deployments in the files.
fn in_files(global: &Global) -> Result<Discovery> {
    let mut manifests = read_manifests(global, &[DEPLOYMENT])?;
    let cluster = manifests.cluster().and_then(|cluster| cluster.reference.clone());
    Ok(discover_in(&mut manifests, cluster.as_ref()))
}

async fn add_osds(found: &Discovery, kms: &dyn KmsProvider, report: &mut Report) {
    for fault in &found.faults {
        let why = chain(&fault.error);
        report.warn(OSDS, format!("the Deployment {} cannot be understood: {why}", fault.deployment));
    }
    let count = found.osds.len();
    if !kms.capability().list {
        report.pass(
            OSDS,
            format!("{count} encrypted; the KMS cannot list keys, so the keys were not compared"),
        );
        return;
    }
    match kms.list().map_ok(|info| info.name).try_collect::<BTreeSet<KeyName>>().await {
        Ok(stored) => {
            let without: Vec<_> = found.osds.iter().filter(|osd| !stored.contains(&osd.name)).collect();
            report.pass(OSDS, format!("{count} encrypted, {} with a key in the KMS", count - without.len()));
            if !without.is_empty() {
                report.warn(
                    OSDS,
                    format!(
                        "no key in the KMS for {}: these OSDs do not start again; look for the keys in the KMS that the \
                         cluster had before, and see kms recover",
                        named(&without)
                    ),
                );
            }
        }
        Err(error) => report.warn(OSDS, format!("not compared with the keys: {}", chain(&error))),
    }
}

async fn add_rotation(place: &RookNamespace, found: &Discovery, rotates: bool, report: &mut Report) {
    if !rotates {
        report.pass(ROTATION, "keyRotation.enabled is not true");
        return;
    }
    match place.rotated_keys().await {
        Ok(rotated) => {
            let without: Vec<_> =
                found.osds.iter().filter(|osd| !rotated.contains(osd.name.as_str())).collect();
            let (count, jobs) = (found.osds.len(), found.osds.len() - without.len());
            report.pass(
                ROTATION,
                format!("keyRotation.enabled is true, and CronJobs rotate {jobs} of {count} keys"),
            );
            if !without.is_empty() {
                report.warn(
                    ROTATION,
                    format!(
                        "no CronJob rotates the key of {}: run kms cronjobs apply, or see the log of the Rook operator",
                        named(&without)
                    ),
                );
            }
        }
        Err(error) => report.warn(ROTATION, format!("not seen: {}", chain(&error))),
    }
}

async fn add_admission(place: &RookNamespace, report: &mut Report) {
    let kube_namespace = place.name();
    match place.pod_security().await {
        Ok(Some(level)) if level != PRIVILEGED => report.warn(
            ADMISSION,
            format!(
                "the namespace {kube_namespace} enforces the Pod Security Standard {level:?}, which does not admit the \
                 pods of the CronJobs: set its label pod-security.kubernetes.io/enforce to {PRIVILEGED}"
            ),
        ),
        Ok(Some(level)) => report.pass(ADMISSION, format!("the namespace {kube_namespace} enforces {level}")),
        Ok(None) => report.pass(ADMISSION, format!("the namespace {kube_namespace} enforces no level by its label")),
        // To read a namespace is a right that nothing else needs.
        Err(error) => report.pass(ADMISSION, format!("not known: {}", chain(&error))),
    }
}

/// The keys of OSDs, with their numbers.
fn named(osds: &[&Osd]) -> String {
    let more = osds.len().saturating_sub(SHOWN);
    let shown: Vec<_> =
        osds.iter().take(SHOWN).map(|osd| format!("{} (OSD {})", osd.name.as_str(), osd.id)).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}
