//! The steps about the OSDs of the cluster: whether each has a key, whether a CronJob rotates it, and whether the
//! namespace admits the pods of the CronJobs. `kms doctor` has the same checks, and more.
//!
//! They never fail, since the KMS works without them: each gives a warning.

use std::collections::BTreeMap;

use kms_core::{KmsProvider, Result};
use kms_rook::{
    Discovery,
    client::RookNamespace,
    doctor::{
        Cause, Commands, Diagnosis, admission,
        codes::{ADMISSION, DEPLOYMENT, MISSING, NO_ROTATION, SUSPENDED},
        cron_jobs, keys, osds,
    },
    inventory::{Facts, Inventory, OsdFacts},
};

use crate::{
    args::Global,
    cmd::{
        clusters::source::{DEPLOYMENT as KIND, discover_in},
        keys::list::collect,
    },
    output::chain,
    settings::read_manifests,
    steps::Steps,
    target::Target,
};

const OSDS: &str = "osds";
const ROTATION: &str = "rotation";
const POD_SECURITY: &str = "pod security";

/// How many OSDs a warning names.
const SHOWN: usize = 10;

/// Adds the steps: with `--cluster` for the OSDs in Kubernetes, with `-f` for the Deployments in the files.
pub(super) async fn add(global: &Global, target: &Target, kms: &dyn KmsProvider, steps: &mut Steps) {
    let Some(cluster) = &global.cluster else {
        match in_files(global) {
            Ok(found) if found.osds.is_empty() && found.faults.is_empty() => {}
            Ok(found) => add_osds(&found, target, kms, steps).await,
            Err(error) => steps.warn(OSDS, format!("not seen: {}", chain(&error))),
        }
        return;
    };
    if steps.error().is_some() {
        [OSDS, ROTATION, POD_SECURITY].into_iter().for_each(|step| steps.not_run(step));
        return;
    }
    let seen = async {
        let place = target.kubernetes().rook(&cluster.kube_namespace).await?;
        let found = place.osds().await?;
        Ok::<_, kms_core::Error>((place, found))
    };
    match seen.await {
        Ok((place, found)) => {
            add_osds(&found, target, kms, steps).await;
            add_rotation(&place, &found, target, steps).await;
            add_admission(&place, steps).await;
        }
        Err(error) => steps.warn(OSDS, format!("not seen: {}", chain(&error))),
    }
}

/// The OSDs of the Deployments in the files.
fn in_files(global: &Global) -> Result<Discovery> {
    let mut manifests = read_manifests(global, &[KIND])?;
    let cluster = manifests.cluster().and_then(|cluster| cluster.reference.clone());
    Ok(discover_in(&mut manifests, cluster.as_ref()))
}

async fn add_osds(found: &Discovery, target: &Target, kms: &dyn KmsProvider, steps: &mut Steps) {
    let (mut diagnosis, commands) = (Diagnosis::new(), commands());
    osds(found, target.security(), &commands, &mut diagnosis);
    for broken in diagnosis.findings(DEPLOYMENT) {
        if let (Some(object), Some(Cause::Failed(error))) = (&broken.object, &broken.cause) {
            steps.warn(OSDS, format!("the {object} cannot be understood: {}", chain(error)));
        }
    }
    let count = found.osds.len();
    if !kms.capability().list {
        steps.pass(
            OSDS,
            format!("{count} encrypted; the KMS cannot list keys, so the keys were not compared"),
        );
        return;
    }
    match collect(kms).await {
        Ok((listed, None)) => {
            let facts = Facts {
                osds: OsdFacts::of_deployments(found, &BTreeMap::new()),
                keys: listed,
                ..Facts::default()
            };
            let inventory = Inventory::new(facts, std::time::SystemTime::now(), None);
            keys(&inventory, false, &commands, &mut diagnosis);
            let without: Vec<_> = diagnosis.objects(MISSING).collect();
            steps.pass(OSDS, format!("{count} encrypted, {} with a key in the KMS", count - without.len()));
            if !without.is_empty() {
                steps.warn(
                    OSDS,
                    format!(
                        "no key in the KMS for {}: these OSDs do not start again; look for the keys in the KMS that the \
                         cluster had before, and see kms recover",
                        named(&without)
                    ),
                );
            }
        }
        Ok((_, Some(error))) | Err(error) => {
            steps.warn(OSDS, format!("not compared with the keys: {}", chain(&error)));
        }
    }
}

async fn add_rotation(place: &RookNamespace, found: &Discovery, target: &Target, steps: &mut Steps) {
    let rotation = &target.security().key_rotation;
    if !rotation.enabled {
        steps.pass(ROTATION, "keyRotation.enabled is not true");
        return;
    }
    match place.rotations().await {
        Ok(jobs) => {
            let mut diagnosis = Diagnosis::new();
            cron_jobs(rotation, &jobs, Some(found), &commands(), &mut diagnosis);
            let without: Vec<_> = diagnosis.objects(NO_ROTATION).collect();
            let suspended: Vec<_> = diagnosis.objects(SUSPENDED).collect();
            let (count, rotated) = (found.osds.len(), found.osds.len() - without.len());
            steps.pass(
                ROTATION,
                format!("keyRotation.enabled is true, and CronJobs rotate {rotated} of {count} keys"),
            );
            if !without.is_empty() {
                steps.warn(
                    ROTATION,
                    format!(
                        "no CronJob rotates the key of {}: run kms cronjobs apply, or see the log of the Rook operator",
                        named(&without)
                    ),
                );
            }
            if !suspended.is_empty() {
                steps.warn(ROTATION, format!("suspended: {}", named(&suspended)));
            }
        }
        Err(error) => steps.warn(ROTATION, format!("not seen: {}", chain(&error))),
    }
}

async fn add_admission(place: &RookNamespace, steps: &mut Steps) {
    let level = match place.pod_security().await {
        Ok(level) => level,
        // To read a namespace is a right that nothing else needs.
        Err(error) => {
            steps.pass(POD_SECURITY, format!("not known: {}", chain(&error)));
            return;
        }
    };
    let mut diagnosis = Diagnosis::new();
    admission(place.name(), level.as_deref(), &commands(), &mut diagnosis);
    let has_found = diagnosis.has_found(ADMISSION);
    for entry in diagnosis.settle(&[], &[]) {
        if let (Some(object), Some(Cause::Said(text))) = (entry.object, entry.cause) {
            let text = format!("{object}: {text}");
            if has_found { steps.warn(POD_SECURITY, text) } else { steps.pass(POD_SECURITY, text) }
        }
    }
}

/// The check shows no next commands.
fn commands() -> Commands {
    Commands::new("kms", "kubectl", "")
}

/// Objects by name, some of them if there are many.
fn named(objects: &[&str]) -> String {
    let more = objects.len().saturating_sub(SHOWN);
    let shown: Vec<_> = objects.iter().take(SHOWN).copied().collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}
