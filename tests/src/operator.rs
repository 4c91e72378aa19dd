//! A CephCluster that the operator has taken over, on a real API server, with replicas of the operator and what stands in for the
//! rest of a cluster: nodes, pods, and a kubelet that ends Jobs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use kms_kube::{ConnectOptions, connect};
use kms_operator::{
    Clock, Health, LeaseTimes, Operator, Pace, Role, Settings,
    api::{KeyPolicy, OsdKey},
    rights,
};
use kms_testkit::servers::{Kube, wait};
use kube::CustomResourceExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::rook::{ADMIN, Cluster, fixture, move_to, rename};

/// The longest wait for anything that the operator does, on a machine that compiles at the same time.
const LONG: Duration = Duration::from_secs(60);

/// The account of the operator.
const ACCOUNT: &str = "kms-operator";

/// A time before every due time of the tests.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// The cluster.
#[derive(Debug)]
pub struct Scene {
    /// The Rook cluster.
    pub cluster: Cluster,
    /// A token of the operator's account.
    pub token: String,
}

/// A replica in this process.
#[derive(Debug)]
pub struct Replica {
    /// Its health.
    pub health: Health,
    /// Its clock.
    pub clock: Clock,
    stop: tokio::sync::watch::Sender<bool>,
    task: JoinHandle<kms_core::Result<()>>,
}

/// What a kubelet does with a Job.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Run {
    /// The rotation succeeds, and is recorded at the Deployment.
    Succeeds,
    /// It succeeds, and has recorded itself, or has nothing to record.
    Ends,
    /// It fails.
    Fails,
    /// It goes on.
    Hangs,
}

impl Scene {
    /// Creates a cluster that the operator is to take over, with OSDs on these nodes. Each node is in the zone of its second
    /// name. All keys are due.
    pub async fn new(osds: &[(usize, &str, &str)]) -> Self {
        Self::on(Kube::for_tests().await.expect("an API server"), osds).await
    }

    /// Creates the same, on this server.
    pub async fn on(kube: Kube, osds: &[(usize, &str, &str)]) -> Self {
        // Two days ago, so that no period ends during a test.
        let day = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).weekday().wrapping_sub(2);
        let schedule = format!("0 0 * * {}", day.to_sunday_zero_offset());
        let security = json!({"keyRotation": {"enabled": false, "schedule": schedule}});
        Self::of(Cluster::with_image(Cluster::on(kube, security).await).await, osds).await
    }

    /// Hands a cluster over to the operator, with further OSDs.
    pub async fn of(cluster: Cluster, osds: &[(usize, &str, &str)]) -> Self {
        let scene = Self::prepare(cluster).await;
        for (id, node, zone) in osds {
            scene.add_osd(*id, node, zone).await;
        }
        scene.annotate("cephclusters/rook-ceph", "kms.ceph.rook.io/operator", json!("true")).await;
        scene
    }

    /// Installs the custom resources and the account of the operator, and hands nothing over.
    pub async fn prepare(cluster: Cluster) -> Self {
        define(&cluster, serde_json::to_value(OsdKey::crd()).expect("JSON")).await;
        define(&cluster, serde_json::to_value(KeyPolicy::crd()).expect("JSON")).await;
        let token = operator_account(&cluster).await;
        Self { cluster, token }
    }

    fn kube_namespace(&self) -> &str {
        self.cluster.place.name()
    }

    /// The name of the key of an OSD.
    pub fn key(id: usize) -> String {
        format!("set1-data-{id}")
    }

    /// Creates an OSD on a node, with its pod.
    pub async fn add_osd(&self, id: usize, node: &str, zone: &str) {
        let node = format!("{}-{node}", self.kube_namespace());
        let object = json!({"metadata": {"name": node, "labels": {"topology.kubernetes.io/zone": zone}}});
        let created = self.cluster.kube.request("POST", "/api/v1/nodes", object).await.expect("an answer");
        assert!(matches!(created.status, 201 | 409), "{created:?}");
        let mut osd = fixture("vault-token", "osd-deployment.json");
        move_to(&mut osd, self.kube_namespace());
        rename(&mut osd, id, &Self::key(id));
        osd["metadata"]["annotations"]["kms.ceph.rook.io/key-rotated-at"] = json!(LONG_AGO);
        let labels = osd["metadata"]["labels"].clone();
        let claim = json!({
            "metadata": {"name": Self::key(id)},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        let place = &self.cluster.place;
        place.call("POST", &place.path("persistentvolumeclaims"), claim).await.expect("a PVC");
        self.cluster.call("POST", "apps/v1", "deployments", osd).await;
        let name = format!("rook-ceph-osd-{id}-pod");
        let pod = json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "osd", "image": "ceph:0"}]},
        });
        place.call("POST", &place.path("pods"), pod).await.expect("a pod");
        let status = json!({"status": {"phase": "Running"}});
        self.patch(&place.path(&format!("pods/{name}/status")), &status).await;
    }

    /// Sends a merge patch as the administrator.
    async fn patch(&self, path: &str, change: &Value) {
        let patch = Some(("application/merge-patch+json", change.to_string()));
        self.cluster
            .kube
            .http()
            .send_as("PATCH", path, patch)
            .await
            .expect("an answer")
            .ok()
            .expect("a change");
    }

    /// Sets an annotation of a CephCluster, an `OsdKey` (`osdkeys/NAME`) or a Deployment; `null` removes it.
    pub async fn annotate(&self, resource: &str, name: &str, value: Value) {
        let group = match resource.split('/').next() {
            Some("cephclusters") => "ceph.rook.io/v1",
            Some("osdkeys") => "kms.ceph.rook.io/v1alpha1",
            _ => "apps/v1",
        };
        self.cluster.patch(group, resource, &json!({"metadata": {"annotations": {name: value}}})).await;
    }

    /// Creates or replaces the `KeyPolicy` for this cluster alone.
    pub async fn policy(&self, mut spec: Value) {
        spec["namespaces"] = json!([self.kube_namespace()]);
        let path = format!(
            "/apis/kms.ceph.rook.io/v1alpha1/keypolicies/{}?fieldManager=test&force=true",
            self.kube_namespace()
        );
        let policy = json!({
            "apiVersion": "kms.ceph.rook.io/v1alpha1", "kind": "KeyPolicy",
            "metadata": {"name": self.kube_namespace()}, "spec": spec,
        });
        let patch = Some(("application/apply-patch+yaml", policy.to_string()));
        self.cluster
            .kube
            .http()
            .send_as("PATCH", &path, patch)
            .await
            .expect("an answer")
            .ok()
            .expect("a policy");
    }

    /// Starts a replica in this process, which reaches the API server by this kubeconfig.
    pub async fn replica_by(&self, kubeconfig: &str, identity: &str) -> Replica {
        self.replica(kubeconfig, identity, self.kube_namespace(), &[]).await
    }

    /// Starts a replica that watches another cluster too, and waits until it leads. It has the rights of an administrator.
    pub async fn leader_of_both(&self, other: &Self) -> Replica {
        let kubeconfig = self.cluster.kubeconfig(ADMIN);
        let replica =
            self.replica(&kubeconfig, "both", self.kube_namespace(), &[other.kube_namespace()]).await;
        self.until_leading(replica).await
    }

    /// Starts a replica whose Lease is in another namespace, so that it leads beside the others.
    pub async fn second_leader(&self, lease_namespace: &str) -> Replica {
        self.replica(&self.cluster.kubeconfig(ADMIN), "other", lease_namespace, &[]).await
    }

    async fn replica(
        &self,
        kubeconfig: &str,
        identity: &str,
        lease_namespace: &str,
        others: &[&str],
    ) -> Replica {
        let options = ConnectOptions::new().with_kubeconfig(kubeconfig).with_watches();
        let connection = connect(options).await.expect("a connection");
        let mut settings = Settings::new(self.kube_namespace(), identity);
        lease_namespace.clone_into(&mut settings.lease_namespace);
        settings.namespaces.extend(others.iter().map(ToString::to_string));
        settings.lease = LeaseTimes::new(Duration::from_millis(1500), Duration::from_millis(300));
        settings.pace =
            Pace::new(Duration::from_millis(20), Duration::from_millis(500), Duration::from_secs(5));
        let operator = Operator::new(connection, settings);
        let (health, clock) = (operator.health(), operator.clock());
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(operator.run(async move {
            let _ended = stopped.wait_for(|stop| *stop).await;
        }));
        Replica { health, clock, stop, task }
    }

    /// Starts a replica in this process, and waits until it leads.
    pub async fn leader(&self) -> Replica {
        let replica = self.replica_by(&self.cluster.kubeconfig(&self.token), "one").await;
        self.until_leading(replica).await
    }

    async fn until_leading(&self, replica: Replica) -> Replica {
        self.until("a leader", async || Ok((replica.health.role() == Role::Leading).then_some(()))).await;
        replica
    }

    /// Waits for something that the operator does.
    pub async fn until<T>(&self, what: &str, look: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> T {
        match wait::until(what, LONG, look).await {
            Ok(found) => found,
            Err(error) => {
                let jobs = self.jobs().await;
                panic!("{error:#}\nkeys: {}\njobs: {:?}", self.keys().await, jobs.keys())
            }
        }
    }

    /// The `OsdKey`s, as the API server lists them.
    pub async fn keys(&self) -> Value {
        self.cluster.call("GET", "kms.ceph.rook.io/v1alpha1", "osdkeys", Value::Null).await["items"].clone()
    }

    /// The `OsdKey` of an OSD; `Value::Null` if there is none.
    pub async fn osd_key(&self, id: usize) -> Value {
        let name = Self::key(id);
        let keys = self.keys().await;
        keys.as_array()
            .expect("keys")
            .iter()
            .find(|key| key["metadata"]["name"] == json!(name))
            .cloned()
            .unwrap_or_default()
    }

    /// The reasons of the Events about Deployments that `kms` and the operator have created, in order of the alphabet.
    pub async fn events(&self) -> Vec<String> {
        let list = self.cluster.call("GET", "events.k8s.io/v1", "events", Value::Null).await;
        let events = list["items"].as_array().expect("text").iter();
        let ours = events.filter(|event| event["reportingController"] == "rook-kms");
        let mut reasons: Vec<_> =
            ours.map(|event| event["reason"].as_str().expect("text").to_owned()).collect();
        reasons.sort();
        reasons
    }

    /// Waits until the condition `Ready` of an OSD's key has this reason, and returns the key.
    pub async fn until_ready_is(&self, id: usize, reason: &str) -> Value {
        self.until(&format!("Ready of OSD {id} to have the reason {reason}"), async || {
            let key = self.osd_key(id).await;
            Ok((condition(&key, "Ready")["reason"] == json!(reason)).then_some(key))
        })
        .await
    }

    /// The replica that holds the Lease.
    ///
    /// # Errors
    ///
    /// An error of the connection.
    pub async fn holder(&self) -> anyhow::Result<Option<String>> {
        let place = self.kube_namespace();
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{place}/leases/kms-operator");
        let lease = self.cluster.kube.request("GET", &path, Value::Null).await?.ok().ok();
        Ok(lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned)))
    }

    /// The Jobs of the operator, by name.
    pub async fn jobs(&self) -> BTreeMap<String, Value> {
        let jobs = "jobs?labelSelector=kms.ceph.rook.io/rotation";
        let list = self.cluster.call("GET", "batch/v1", jobs, Value::Null).await;
        let jobs = list["items"].as_array().expect("jobs").iter();
        jobs.map(|job| (text(&job["metadata"]["name"]), job.clone())).collect()
    }

    /// The Jobs of the operator that have not ended.
    pub async fn active_jobs(&self) -> BTreeMap<String, Value> {
        let mut jobs = self.jobs().await;
        jobs.retain(|_, job| !has_ended(job));
        jobs
    }

    /// The OSDs whose Job runs.
    pub async fn running(&self) -> Vec<usize> {
        self.active_jobs().await.values().map(osd_of).collect()
    }

    /// Ends the Jobs that run, as a kubelet and the controller of Jobs would; `run` says how. Returns their names and OSDs.
    pub async fn end_jobs(&self, clock: &Clock, run: impl Fn(usize) -> Run) -> Vec<(String, usize)> {
        let mut ended = Vec::new();
        for (name, job) in self.active_jobs().await {
            let osd = osd_of(&job);
            if run(osd) == Run::Hangs {
                continue;
            }
            let now = clock.now().expect("a response");
            if run(osd) == Run::Succeeds && !is_verification(&job) {
                let deployment = format!("deployments/rook-ceph-osd-{osd}");
                self.annotate(&deployment, "kms.ceph.rook.io/key-rotated-at", json!(seconds(now))).await;
            }
            self.end_job(&name, now, run(osd) != Run::Fails).await;
            ended.push((name, osd));
        }
        ended
    }

    /// Creates the pod of a Job, whose container has ended at this time with this message.
    pub async fn add_job_pod(&self, name: &str, job: &Value, now: Timestamp, message: &str) {
        let ended = json!({"exitCode": 1, "finishedAt": seconds(now), "message": message});
        let place = &self.cluster.place;
        let owner =
            json!({"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]});
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        let pod = json!({
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "kms", "image": "kms:0"}]},
        });
        place.call("POST", &place.path("pods"), pod).await.expect("a pod");
        let container = json!({"name": "kms", "image": "kms:0", "imageID": "", "ready": false, "restartCount": 0,
                               "state": {"terminated": ended}});
        let status = json!({"status": {"phase": "Failed", "containerStatuses": [container]}});
        self.patch(&place.path(&format!("pods/{name}/status")), &status).await;
    }

    /// Ends a Job at this time.
    pub async fn end_job(&self, name: &str, now: Timestamp, succeeds: bool) {
        let now = seconds(now);
        let condition = |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now, "reason": "Test"});
        let status = if succeeds {
            json!({"startTime": now, "completionTime": now, "succeeded": 1,
                   "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]})
        } else {
            json!({"startTime": now, "failed": 1, "conditions": [condition("FailureTarget"), condition("Failed")]})
        };
        let path = format!("/apis/batch/v1/namespaces/{}/jobs/{name}/status", self.kube_namespace());
        self.patch(&path, &json!({"status": status})).await;
    }

    /// Ends every Job with success until each of these OSDs has had one, and returns the names of all that ran, by OSD.
    pub async fn rotate_all(&self, clock: &Clock, osds: &[usize]) -> BTreeMap<usize, Vec<String>> {
        let ran = Arc::new(Mutex::new(BTreeMap::<usize, Vec<String>>::new()));
        self.until("every OSD to be rotated", async || {
            let ended = self.end_jobs(clock, |_| Run::Succeeds).await;
            let mut ran = ran.lock().expect("no panic");
            for (name, osd) in ended {
                ran.entry(osd).or_default().push(name);
            }
            Ok(osds.iter().all(|osd| ran.contains_key(osd)).then_some(()))
        })
        .await;
        Arc::into_inner(ran).expect("one user").into_inner().expect("no panic")
    }
}

impl Replica {
    /// Ends it without a release of the Lease, as SIGKILL does.
    pub async fn kill(self) {
        self.task.abort();
        let _ended = self.task.await;
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.expect("no panic").expect("an orderly end");
    }
}

/// A time in RFC 3339 without fractions of a second, as objects of Kubernetes have it.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).expect("a time").to_string()
}

/// A condition of an `OsdKey`.
pub fn condition<'a>(key: &'a Value, type_: &str) -> &'a Value {
    let conditions = key["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == json!(type_)));
    found.unwrap_or(&Value::Null)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The number of the OSD of a Job.
pub fn osd_of(job: &Value) -> usize {
    text(&job["metadata"]["labels"]["kms.ceph.rook.io/rotation"]).parse().expect("a number")
}

/// Whether a Job tries the KEK, and rotates nothing.
pub fn is_verification(job: &Value) -> bool {
    job["metadata"]["annotations"]["kms.ceph.rook.io/verify-due"].is_string()
}

fn has_ended(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Complete" || one["type"] == "Failed"))
}

/// Installs a definition, which other tests on the same server need too, and waits until it is served.
async fn define(cluster: &Cluster, definition: Value) {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let created = cluster.kube.request("POST", path, definition.clone()).await.expect("an answer");
    assert!(matches!(created.status, 201 | 409), "{created:?}");
    let served = format!("/apis/kms.ceph.rook.io/v1alpha1/{}", text(&definition["spec"]["names"]["plural"]));
    wait::until(&served, wait::START, async || {
        Ok((cluster.kube.request("GET", &served, Value::Null).await?.status == 200).then_some(()))
    })
    .await
    .expect("a resource");
}

/// Creates the account of the operator with its rights, and returns a token once the rights count.
async fn operator_account(cluster: &Cluster) -> String {
    let place = cluster.place.name();
    let rights = rights(ACCOUNT, place, &[place]);
    cluster.place.create_service_account(ACCOUNT).await.expect("an account");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let create = async |path: String, object: Value| {
        cluster.kube.call("POST", &path, object).await.expect("a right");
    };
    create(format!("{rbac}/clusterroles"), json!(rights.cluster_role)).await;
    create(format!("{rbac}/clusterrolebindings"), json!(rights.cluster_binding)).await;
    let watched = rights.watched.iter().map(|(role, binding)| (role, binding));
    for (role, binding) in watched.chain([(&rights.lease_role, &rights.lease_binding)]) {
        create(format!("{rbac}/namespaces/{place}/roles"), json!(role)).await;
        create(format!("{rbac}/namespaces/{place}/rolebindings"), json!(binding)).await;
    }
    let token = cluster.place.create_token(ACCOUNT, &[]).await.expect("a token");
    let client = cluster.kube.client(&token).expect("a client");
    let keys = format!("/apis/kms.ceph.rook.io/v1alpha1/namespaces/{place}/osdkeys");
    wait::until("the rights of the operator", wait::START, async || {
        let of_place = client.send("GET", &keys, &Value::Null).await?.status;
        let of_all = client.send("GET", "/api/v1/nodes?limit=1", &Value::Null).await?.status;
        Ok((of_place == 200 && of_all == 200).then_some(()))
    })
    .await
    .expect("rights");
    token
}
