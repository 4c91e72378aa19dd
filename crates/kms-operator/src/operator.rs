//! The operator: its watches, its loops and its part in the election.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Node, PersistentVolumeClaim, Pod},
};
use kms_core::{Error, ErrorKind, Result};
use kms_kube::{Connection, Objects};
use kms_rook::{
    ESCROW_APP, ESCROW_LABEL, Naming, ROTATION_LABEL,
    client::{RookNamespace, encrypted_osds},
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tracing::info;

use crate::{
    api::{KeyPolicy, OsdKey},
    clock::Clock,
    controller::{Controller, Pace},
    copies::{self, ClusterCopy, Deployed, KeyCopy},
    events::Announcer,
    health::Health,
    lease::{Election, Leadership, LeaseTimes},
    metrics::{Metrics, Reconciles},
    mirror::{Mirror, Reports},
    place::{Copies, Shared},
    reports::{Report, Requests},
    source::{Replica, Source},
    tally::Tally,
    view::{Publisher, Views},
};

/// The number of objects on a page of a list. A Deployment of an OSD has 25 kB.
const PAGE: u32 = 50;

/// How the operator works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The namespaces with CephClusters.
    pub namespaces: Vec<String>,
    /// The namespace of the Lease.
    pub lease_namespace: String,
    /// The name of this replica in the Lease. No two replicas may have the same one.
    pub identity: String,
    /// The image of Jobs, for clusters that record none.
    pub image: Option<String>,
    /// The times of the Lease.
    pub lease: LeaseTimes,
    /// How often the loops work.
    pub pace: Pace,
}

impl Settings {
    /// The settings of a replica that watches one namespace, which has the Lease too.
    pub fn new(kube_namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        let kube_namespace = kube_namespace.into();
        Self {
            namespaces: vec![kube_namespace.clone()],
            lease_namespace: kube_namespace,
            identity: identity.into(),
            image: None,
            lease: LeaseTimes::default(),
            pace: Pace::default(),
        }
    }
}

/// A replica of the operator.
#[derive(Debug)]
pub struct Operator {
    connection: Connection,
    settings: Settings,
    clock: Clock,
    health: Health,
    publisher: Publisher,
    views: Views,
    reconciles: Reconciles,
    requests: Requests,
}

impl Operator {
    /// A replica over a connection that allows for watches. Sends nothing.
    pub fn new(connection: Connection, settings: Settings) -> Self {
        // A loop may wait for a namespace of many OSDs, and for requests that are retried.
        let limit = settings.pace.longest.max(settings.lease.renew).max(Duration::from_secs(60)) * 5;
        let (publisher, views) = Publisher::new();
        Self {
            clock: Clock::of(&connection),
            connection,
            settings,
            health: Health::new(limit),
            publisher,
            views,
            reconciles: Reconciles::new(),
            requests: Requests::default(),
        }
    }

    /// What its HTTP server shows, as of the moment of a request.
    pub fn source(&self) -> Arc<dyn Source> {
        let Self { views, health, clock, .. } = self;
        Arc::new(Replica { views: views.clone(), health: health.clone(), clock: clock.clone() })
    }

    /// Its metrics.
    pub fn metrics(&self) -> Metrics {
        Metrics::with(self.source(), &self.reconciles, &self.requests)
    }

    /// Its health.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// What it sees of the keys, on a standby too.
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// Its clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Runs until `stop` is ready; then it begins nothing more, and releases the Lease.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if a setting cannot be the name of a namespace. `Unexpected` if a task has ended.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { connection, settings, clock, health, publisher, views: _, reconciles, requests } = self;
        let (election, leadership) = Election::new(
            connection.clone(),
            &settings.lease_namespace,
            settings.identity.clone(),
            settings.lease,
            clock.clone(),
            health.clone(),
        )?;
        let (changed, _) = watch::channel(());
        let mut tasks =
            Tasks { set: JoinSet::new(), connection: connection.clone(), changed, health: health.clone() };
        let shared = tasks.watch_shared();
        // Each once: two loops of one namespace would both act.
        let namespaces: BTreeSet<&String> = settings.namespaces.iter().collect();
        let tally = Tally::new(namespaces.iter().copied(), tasks.changed.clone());
        for kube_namespace in namespaces {
            let controller = Controller {
                place: RookNamespace::new(connection.clone(), kube_namespace),
                copies: tasks.watch_namespace(kube_namespace),
                shared: shared.clone(),
                jobs: Objects::new(connection.clone(), kube_namespace)?,
                deployments: Objects::new(connection.clone(), kube_namespace)?,
                keys: Objects::new(connection.clone(), kube_namespace)?,
                clock: clock.clone(),
                leadership: Leadership::clone(&leadership),
                health: health.clone(),
                publisher: publisher.clone(),
                reconciles: reconciles.clone(),
                tally: tally.clone(),
                requests: requests.clone(),
                announcer: Announcer::new(settings.identity.clone()),
                image: settings.image.clone(),
                pace: settings.pace,
                begun: BTreeMap::new(),
                rook: None,
                logged: BTreeMap::new(),
            };
            health.expect_loop(kube_namespace);
            let changed = tasks.changed.subscribe();
            let name = kube_namespace.clone();
            tasks.set.spawn(async move {
                controller.run(changed).await;
                format!("the loop of the namespace {name}")
            });
        }
        let (stop_election, stopped) = watch::channel(false);
        let mut election = tokio::spawn(election.run(stopped));
        info!(identity = %settings.identity, namespaces = %settings.namespaces.join(","), "the operator runs");
        let ended = tokio::select! {
            () = stop => None,
            part = first_end(&mut tasks.set, &mut election) => Some(part),
        };
        // First, so that nothing begins after the Lease is released.
        tasks.set.shutdown().await;
        stop_election.send_replace(true);
        if !election.is_finished() {
            let _ended = election.await;
        }
        match ended {
            None => Ok(()),
            Some(task) => {
                Err(Error::new(ErrorKind::Unexpected, "a part of the operator has ended")
                    .context("part", task))
            }
        }
    }
}

/// Waits until a task or the election ends, and returns the name of that part, or the error with which it ended.
async fn first_end(tasks: &mut JoinSet<String>, election: &mut JoinHandle<()>) -> String {
    tokio::select! {
        Some(task) = tasks.join_next() => task.unwrap_or_else(|error| error.to_string()),
        result = election => result.map_or_else(|error| error.to_string(), |()| "the election".to_owned()),
    }
}

/// The tasks of a replica. None of them ends by itself.
struct Tasks {
    set: JoinSet<String>,
    connection: Connection,
    changed: watch::Sender<()>,
    health: Health,
}

impl Tasks {
    /// Follows the objects that belong to no namespace.
    fn watch_shared(&mut self) -> Shared {
        let shared = Shared { policies: Mirror::new(), nodes: Mirror::new() };
        let client = self.connection.client().clone();
        let policies = Api::all_with(client.clone(), &ApiResource::erase::<KeyPolicy>(&()));
        self.follow("keypolicies".to_owned(), &shared.policies, objects(policies, ""), |object| {
            Some(copies::policy(object))
        });
        let nodes = metadata(Api::<PartialObjectMeta<Node>>::all(client), "");
        self.follow("nodes".to_owned(), &shared.nodes, nodes, |node| {
            Some(node.metadata.labels.unwrap_or_default())
        });
        shared
    }

    /// Follows the objects of a namespace.
    fn watch_namespace(&mut self, kube_namespace: &str) -> Copies {
        let copies = Copies::new();
        let client = self.connection.client().clone();
        let named = |resource: &str| format!("{resource} of {kube_namespace}");
        let of = |resource: &ApiResource| Api::namespaced_with(client.clone(), kube_namespace, resource);
        let clusters = GroupVersionKind::gvk("ceph.rook.io", "v1", "CephCluster");
        let clusters = of(&ApiResource::from_gvk_with_plural(&clusters, "cephclusters"));
        self.follow(named("cephclusters"), &copies.clusters, objects(clusters, ""), |object| {
            Some(ClusterCopy::of(object))
        });
        let deployments = of(&ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&()));
        let osds = encrypted_osds();
        self.follow(named("deployments"), &copies.deployments, objects(deployments, &osds), Deployed::of);
        let pods = of(&ApiResource::erase::<Pod>(&()));
        self.follow(named("pods"), &copies.pods, objects(pods, &osds), copies::pod);
        let jobs = of(&ApiResource::erase::<Job>(&()));
        self.follow(named("jobs"), &copies.jobs, objects(jobs, ROTATION_LABEL), copies::job);
        let of_jobs = format!("app in ({},{ESCROW_APP})", Naming::BesideRook.app());
        let reports = of(&ApiResource::erase::<Pod>(&()));
        self.follow(named("pods of Jobs"), &copies.reports, objects(reports, &of_jobs), |pod| {
            Report::of(&pod)
        });
        let escrows = of(&ApiResource::erase::<Job>(&()));
        self.follow(named("escrows"), &copies.escrows, objects(escrows, ESCROW_LABEL), copies::escrow);
        let claims =
            Api::<PartialObjectMeta<PersistentVolumeClaim>>::namespaced(client.clone(), kube_namespace);
        self.follow(named("persistentvolumeclaims"), &copies.claims, metadata(claims, ""), |claim| {
            Some(claim.metadata.deletion_timestamp.is_some())
        });
        let keys = of(&ApiResource::erase::<OsdKey>(&()));
        self.follow(named("osdkeys"), &copies.keys, objects(keys, ""), |object| Some(KeyCopy::of(object)));
        let namings = [Naming::Rook, Naming::BesideRook];
        let selector = format!("app in ({})", namings.map(Naming::app).join(","));
        let cron_jobs = metadata(
            Api::<PartialObjectMeta<CronJob>>::namespaced(client.clone(), kube_namespace),
            &selector,
        );
        self.follow(named("cronjobs"), &copies.cron_jobs, cron_jobs, move |job| {
            let app = job.labels().get("app")?;
            namings.into_iter().find(|naming| naming.app() == app)
        });
        copies
    }

    fn follow<K, T>(
        &mut self,
        name: String,
        mirror: &Mirror<T>,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
        read: impl Fn(K) -> Option<T> + Send + Sync + 'static,
    ) where
        K: kube::ResourceExt + std::fmt::Debug + Send + 'static,
        T: Clone + PartialEq + Send + 'static,
    {
        self.health.expect_store(&name);
        let reports =
            Reports { name: name.clone(), health: self.health.clone(), changed: self.changed.clone() };
        let mirror = mirror.clone();
        self.set.spawn(async move {
            mirror.follow(events, read, reports).await;
            format!("the watch of {name}")
        });
    }
}

fn config(selector: &str) -> watcher::Config {
    let config = watcher::Config::default().page_size(PAGE);
    if selector.is_empty() { config } else { config.labels(selector) }
}

/// Events of whole objects, which need not be valid: one that is not does not block the others.
fn objects(
    api: Api<DynamicObject>,
    selector: &str,
) -> impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send + 'static + use<> {
    watcher(api, config(selector)).default_backoff().boxed()
}

/// Events of the metadata of objects.
fn metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    selector: &str,
) -> impl Stream<Item = watcher::Result<watcher::Event<PartialObjectMeta<K>>>> + Send + 'static + use<K>
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    watcher(api, config(selector)).default_backoff().boxed()
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_or_panics_is_named() {
        let first = async |ends: bool, panics: bool, election: bool| {
            let mut tasks = JoinSet::new();
            tasks.spawn(pending());
            tasks.spawn(async move {
                assert!(!panics, "a bug");
                if !ends {
                    pending::<()>().await;
                }
                "the watch of nodes".to_owned()
            });
            let mut election = tokio::spawn(async move {
                if !election {
                    pending::<()>().await;
                }
            });
            first_end(&mut tasks, &mut election).await
        };
        assert_eq!(first(true, false, false).await, "the watch of nodes");
        assert_eq!(first(false, false, true).await, "the election");
        let panicked = first(false, true, false).await;
        assert!(panicked.contains("panicked"), "{panicked}");
    }
}
