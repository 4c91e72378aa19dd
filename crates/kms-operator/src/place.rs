//! One namespace: its copies, and the facts that they make.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use kms_dispatch::Provider;
use kms_kube::{CephCluster, KUBERNETES};
use kms_rook::{
    JobMaker, JobOptions, Naming, Osd,
    client::{LastRotation, OsdPod, nodes_of},
};

use crate::{
    api::{KeyPolicySpec, Window},
    copies::{ClusterCopy, Deployed, KeyCopy, in_words},
    escrow::{EscrowFacts, EscrowJob, EscrowRules},
    facts::{Facts, Obstacle, OsdFacts},
    job::JobFacts,
    mirror::Mirror,
    reports::{Report, token},
    rules::{Rules, limit_of, pauses, policy_for},
    view::TokenView,
};

/// The labels of a node.
pub(crate) type Labels = BTreeMap<String, String>;

/// The copies that all namespaces share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) policies: Mirror<KeyPolicySpec>,
    pub(crate) nodes: Mirror<Labels>,
}

/// The copies of the objects of one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    pub(crate) clusters: Mirror<ClusterCopy>,
    pub(crate) deployments: Mirror<Deployed>,
    pub(crate) pods: Mirror<OsdPod>,
    pub(crate) jobs: Mirror<JobFacts>,
    pub(crate) keys: Mirror<KeyCopy>,
    /// The Jobs of escrows.
    pub(crate) escrows: Mirror<EscrowJob>,
    /// What the pods of Jobs have reported.
    pub(crate) reports: Mirror<Report>,
    /// The PersistentVolumeClaims, and whether each is being deleted.
    pub(crate) claims: Mirror<bool>,
    /// The CronJobs that rotate keys, by the naming that their label says.
    pub(crate) cron_jobs: Mirror<Naming>,
}

/// A namespace at one moment.
#[derive(Debug)]
pub(crate) struct Sight {
    /// The cluster that the operator has taken over; `None` if there is none.
    pub(crate) ours: Option<Ours>,
    /// Its `OsdKey`s, by name.
    pub(crate) keys: BTreeMap<String, KeyCopy>,
    pub(crate) cron_jobs: BTreeSet<&'static str>,
}

/// A cluster that the operator has taken over.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) name: String,
    pub(crate) policy: Option<String>,
    /// The window of the policy.
    pub(crate) window: Option<Window>,
    /// The cluster and the options of its Jobs, if they are valid.
    pub(crate) settings: Option<(Arc<CephCluster>, JobOptions)>,
    /// The OSDs, in the order of `facts`.
    pub(crate) osds: Vec<Arc<Osd>>,
    pub(crate) facts: Facts,
    /// The token of the KMS, as the last Job has seen it.
    pub(crate) token: Option<TokenView>,
    /// The Deployments that could not be parsed, and why.
    pub(crate) faults: BTreeMap<String, String>,
}

impl Copies {
    pub(crate) fn new() -> Self {
        Self {
            clusters: Mirror::new(),
            deployments: Mirror::new(),
            pods: Mirror::new(),
            jobs: Mirror::new(),
            keys: Mirror::new(),
            escrows: Mirror::new(),
            reports: Mirror::new(),
            claims: Mirror::new(),
            cron_jobs: Mirror::new(),
        }
    }

    /// The namespace at this moment; `None` before every list is complete. `begun` has Jobs that were created, and that the watch
    /// may not have shown yet. `image` is that of Jobs whose cluster records none.
    pub(crate) fn sight(
        &self,
        kube_namespace: &str,
        shared: &Shared,
        now: Timestamp,
        begun: &BTreeMap<String, JobFacts>,
        image: Option<&str>,
    ) -> Option<Sight> {
        let (clusters, deployments) = (self.clusters.objects()?, self.deployments.objects()?);
        let (keys, mut jobs) = (self.keys.objects()?, self.jobs.objects()?);
        let (nodes, labels) = (nodes_of(self.pods.objects()?.into_values()), shared.nodes.objects()?);
        let (escrows, claims) = (self.escrows.objects()?, self.claims.objects()?);
        let policies: Vec<_> = shared.policies.objects()?.into_iter().collect();
        let cron_jobs = self.cron_jobs.objects()?.into_values().map(Naming::app).collect();
        let several = clusters.len() > 1;
        let Some((name, cluster)) = clusters.into_iter().find(|(_, cluster)| cluster.is_ours) else {
            return Some(Sight { ours: None, keys, cron_jobs });
        };
        for (name, job) in begun {
            jobs.entry(name.clone()).or_insert_with(|| job.clone());
        }
        let reports = self.reports.objects()?;
        let token = token(reports.values());
        let failures: BTreeMap<_, _> =
            reports.into_values().filter_map(|report| Some((report.job?, report.failure?))).collect();
        let mut jobs_of: BTreeMap<u32, Vec<JobFacts>> = BTreeMap::new();
        for mut job in jobs.into_values() {
            job.failure = job.uid.as_ref().and_then(|uid| failures.get(uid).copied());
            jobs_of.entry(job.osd).or_default().push(job);
        }
        let policy = policy_for(&policies, kube_namespace);
        let settings = cluster.settings.map(|(cluster, options)| {
            let of_operator = image.map(JobOptions::new).unwrap_or_default();
            (cluster, options.or(of_operator).with_naming(Naming::BesideRook))
        });
        let rules = match &settings {
            Err(why) => Err(Obstacle::Invalid(why.clone())),
            Ok(_) if several => Err(Obstacle::Invalid(
                "the namespace has several CephClusters, and OSDs do not tell to which one they belong"
                    .to_owned(),
            )),
            Ok((cluster, options)) => rules(cluster, options, policy),
        };
        let security = settings.as_ref().ok().map(|(cluster, _)| &cluster.spec.security);
        let provider = security.and_then(|security| Provider::of(security).ok());
        let domain_label = rules.as_ref().map(|rules| rules.domain_label.clone()).unwrap_or_default();
        let domain_of = |node: &String| match labels.get(node).and_then(|labels| labels.get(&domain_label)) {
            Some(value) => format!("{domain_label}={value}"),
            None => format!("node {node}"),
        };
        let (osds, faults) = distinct(deployments);
        let lost_claim = |osd: &Osd| {
            let of_osd = [Some(osd.name.as_str()), osd.metadata_pvc.as_deref(), osd.wal_pvc.as_deref()];
            let lost = of_osd.into_iter().flatten().find(|claim| claims.get(*claim) != Some(&false));
            lost.map(str::to_owned)
        };
        let facts_of = |(osd, created): &(Arc<Osd>, Option<Timestamp>)| {
            let key = keys.get(osd.name.as_str());
            let node = nodes.get(&osd.id).cloned();
            OsdFacts {
                id: osd.id,
                key: osd.name.clone(),
                created: *created,
                last: LastRotation::of(&osd.annotations),
                domain: node.as_ref().map(domain_of),
                node,
                is_paused: key.is_some_and(|key| key.is_paused),
                asked: key.and_then(|key| key.asked.clone()),
                // A new object has the first one.
                generation: key.map_or(1, |key| key.generation),
                status: key.map(|key| key.status.clone()).unwrap_or_default(),
                jobs: jobs_of.get(&osd.id).cloned().unwrap_or_default(),
                lost_claim: lost_claim(osd),
            }
        };
        let provider = provider.map(|provider| match provider {
            Provider::KubernetesSecret => KUBERNETES.to_owned(),
            provider => provider.as_str().to_owned(),
        });
        let escrow = policy.and_then(|(_, spec)| spec.escrow.as_ref()).map(|escrow| match &settings {
            Err(why) => Err(why.clone()),
            Ok((cluster, _)) if cluster.deleting => Err("the CephCluster is being deleted".to_owned()),
            Ok((_, options)) if options.image.is_none() => {
                Err("no image is set for its Job: see the annotation kms.ceph.rook.io/rotation-image"
                    .to_owned())
            }
            Ok(_) => EscrowRules::of(escrow).map_err(|error| in_words(&error)),
        });
        let facts = Facts {
            now,
            limit: provider.as_deref().and_then(|provider| limit_of(&policies, provider)),
            elsewhere: None,
            provider,
            rules,
            is_paused: cluster.is_paused || pauses(&policies, kube_namespace),
            escrow: EscrowFacts {
                rules: escrow,
                made: cluster.escrowed,
                drilled: cluster.drilled,
                jobs: escrows.into_values().collect(),
            },
            osds: osds.iter().map(facts_of).collect(),
        };
        let ours = Ours {
            name,
            policy: policy.map(|(name, _)| name.clone()),
            window: policy.and_then(|(_, spec)| spec.window.clone()),
            settings: settings.ok(),
            osds: osds.into_iter().map(|(osd, _)| osd).collect(),
            facts,
            token,
            faults,
        };
        Some(Sight { ours: Some(ours), keys, cron_jobs })
    }
}

/// The rules of a cluster, or why the operator may not rotate its keys.
fn rules(
    cluster: &CephCluster,
    options: &JobOptions,
    policy: Option<&(String, KeyPolicySpec)>,
) -> Result<Rules, Obstacle> {
    if cluster.deleting {
        return Err(Obstacle::Invalid("the CephCluster is being deleted".to_owned()));
    }
    if cluster.spec.security.key_rotation.enabled {
        return Err(Obstacle::RookRotates(
            "keyRotation.enabled is true, so Rook rotates these keys, and two rotations of one device can lose it: set it \
             to false, and the operator rotates"
                .to_owned(),
        ));
    }
    let read = Rules::of(cluster, policy)
        .and_then(|rules| JobMaker::new(&cluster.spec, options).map(|_maker| rules));
    read.map_err(|error| Obstacle::Invalid(in_words(&error)))
}

/// An OSD, and when its Deployment was created.
type Dated = (Arc<Osd>, Option<Timestamp>);

/// The OSDs of distinct numbers and keys, and the Deployments without one, with the reason. If two Deployments have the same
/// number or key, both are faults: a rotation could open the devices of the wrong one.
fn distinct(deployments: BTreeMap<String, Deployed>) -> (Vec<Dated>, BTreeMap<String, String>) {
    let (mut ids, mut names): (BTreeMap<u32, u32>, BTreeMap<String, u32>) = Default::default();
    for deployed in deployments.values() {
        match deployed {
            Deployed::Osd(osd, _) => {
                *ids.entry(osd.id).or_default() += 1;
                *names.entry(osd.name.to_string()).or_default() += 1;
            }
            Deployed::Invalid(id, _) => {
                if let Some(id) = id {
                    *ids.entry(*id).or_default() += 1;
                }
            }
        }
    }
    let is_single = |osd: &Osd| ids.get(&osd.id) == Some(&1) && names.get(osd.name.as_str()) == Some(&1);
    let (mut osds, mut faults) = (Vec::new(), BTreeMap::new());
    for (name, deployed) in deployments {
        match deployed {
            Deployed::Osd(osd, created) if is_single(&osd) => osds.push((osd, created)),
            Deployed::Osd(osd, _) => {
                faults.insert(
                    name,
                    format!("another Deployment has the OSD {} or the key {} too", osd.id, osd.name),
                );
            }
            Deployed::Invalid(_, why) => {
                faults.insert(name, why);
            }
        }
    }
    osds.sort_by_key(|(osd, _)| osd.id);
    (osds, faults)
}
