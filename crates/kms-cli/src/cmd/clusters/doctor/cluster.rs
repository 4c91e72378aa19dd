//! The checks of a cluster: its API server, and the objects that it or files have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kms_core::{Error, Probe};
use kms_kube::ClusterRef;
use kms_rook::{
    Discovery,
    doctor::{
        Code, Finding,
        codes::{API_CONFIG, CLAIMS, CRON_JOBS, DEPLOYMENTS},
        cron_jobs, osds,
    },
    inventory::{Facts, Gap, OsdFacts, Source},
};
use tokio::join;

use super::{Doctor, accounts::Known, connection};
use crate::{
    cmd::clusters::{
        accounts::Account,
        inventory::CLAIM,
        source::{DEPLOYMENT, discover_in},
    },
    kubernetes::Kubernetes,
    output::chain,
    settings::read_manifests,
    steps::Steps,
    target::Target,
};

/// The object of the checks of the API server.
const API_SERVER: &str = "API server";

impl Doctor<'_> {
    /// Looks at the API server. Returns whether it can be used.
    pub(super) async fn api_server(&mut self, kubernetes: &Kubernetes) -> bool {
        let next = self.commands.kubectl("version");
        let connection = match kubernetes.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                self.diagnosis.add(Finding::failed(API_CONFIG, API_SERVER, error, next));
                return false;
            }
        };
        self.diagnosis.pass(API_CONFIG, API_SERVER, connection.server().unwrap_or_default());
        let mut probe = Probe::new();
        let account = connection.probe_server(&[], &mut probe).await;
        let mut steps = Steps::default();
        steps.add(probe);
        connection::of_api_server().add(steps, API_SERVER, &next, &mut self.diagnosis);
        account.is_some()
    }

    /// Checks the objects of a cluster. Adds what the inventory needs to `facts`, and returns the OSDs.
    pub(super) async fn cluster(
        &mut self,
        target: &Target,
        named: &ClusterRef,
        operator: Option<&Account>,
        facts: &mut Facts,
    ) -> Discovery {
        let ClusterRef { kube_namespace, name, .. } = named;
        let place = match target.kubernetes().rook(kube_namespace).await {
            Ok(place) => place,
            Err(error) => {
                facts.gaps.push(gap(Source::Osds, &error));
                self.not_listed(DEPLOYMENTS, "Deployments", error);
                return Discovery::default();
            }
        };
        let (found, claims, jobs) = join!(place.osds(), place.claims(), place.rotations());
        let found = found.map_err(|error| {
            facts.gaps.push(gap(Source::Osds, &error));
            self.not_listed(DEPLOYMENTS, "Deployments", error);
        });
        match claims {
            Ok(claims) => {
                self.diagnosis.pass(CLAIMS, "PVCs", format!("{} PVCs", claims.len()));
                facts.claims = claims;
            }
            Err(error) => {
                facts.gaps.push(gap(Source::Claims, &error));
                self.not_listed(CLAIMS, "PVCs", error);
            }
        }
        let jobs = jobs.map_err(|error| self.not_listed(CRON_JOBS, "CronJobs", error));
        let (found, jobs) = (found.ok(), jobs.ok());
        if let Some(found) = &found {
            self.diagnosis.pass(DEPLOYMENTS, "Deployments", "may be listed");
            self.osds(target, found, facts);
        }
        if let Some(jobs) = &jobs {
            self.diagnosis.pass(CRON_JOBS, "CronJobs", "may be listed");
            let rotation = &target.security().key_rotation;
            cron_jobs(rotation, jobs, found.as_ref(), &self.commands, &mut self.diagnosis);
        }
        let security = target.security();
        let known =
            Known { place: &place, security, cluster: name, osds: found.as_ref(), jobs: jobs.as_deref() };
        self.accounts(&known, operator).await;
        found.unwrap_or_default()
    }

    /// Checks the OSDs of files. `None` if the files have none.
    pub(super) fn files(&mut self, target: &Target, facts: &mut Facts) -> Option<Discovery> {
        if self.global.files.is_empty() {
            return None;
        }
        let mut manifests = read_manifests(&self.global, &[DEPLOYMENT, CLAIM]).ok()?;
        let cluster = manifests.cluster().and_then(|cluster| cluster.reference.clone());
        let found = discover_in(&mut manifests, cluster.as_ref());
        if found.osds.is_empty() && found.faults.is_empty() {
            return None;
        }
        let claims = manifests.take_objects::<PersistentVolumeClaim>(CLAIM);
        facts.claims = claims.into_iter().filter_map(|(_, claim)| claim.ok()?.metadata.name).collect();
        if facts.claims.is_empty() {
            facts.gaps.push(Gap::new(Source::Claims, format!("the files given with -f have no {CLAIM}")));
        }
        self.osds(target, &found, facts);
        Some(found)
    }

    fn osds(&mut self, target: &Target, found: &Discovery, facts: &mut Facts) {
        osds(found, target.security(), &self.commands, &mut self.diagnosis);
        // A Deployment that cannot be understood may belong to any key.
        facts.gaps.extend(found.faults.iter().map(|fault| gap(Source::Osds, &fault.error)));
        facts.osds = OsdFacts::of_deployments(found, &BTreeMap::new());
    }

    fn not_listed(&mut self, code: Code, object: &str, error: Error) {
        let next = self.commands.kubectl(&format!("auth can-i list {}", object.to_lowercase()));
        self.diagnosis.add(Finding::failed(code, object, error, next));
    }
}

fn gap(source: Source, error: &Error) -> Gap {
    Gap::failed(source, chain(error), error.clone())
}
