//! CronJobs, annotations and Events on a real API server, with the rights that `deploy/` grants and no others.

use std::{collections::BTreeSet, time::SystemTime};

use crate::common::{CASES, deployment_in, fixture, move_to};
use kms_core::{ErrorKind, KeyName};
use kms_kube::{CephClusterSpec, ConnectOptions, Connection, ceph_cluster, connect};
use kms_rook::{
    JobMaker, JobOptions, Naming,
    client::{ApplyOptions, Change, Reason, Report, RookNamespace, RotationStatus, apply, prune, record},
    rbac,
};
use kms_testkit::servers::{Kube, KubeNamespace};
use serde_json::{Value, json};
use tempfile::TempDir;

const ADMIN: &str = "admintoken";
const IMAGE: &str = "registry.example.com/kms:test";
const MANAGER: &str = include_str!("../../../../deploy/cronjob-manager.yaml");
const STATUS: &str = include_str!("../../../../deploy/rotation-status.yaml");

/// A namespace with a CephCluster, the OSDs of all cases, and the account that keeps CronJobs.
struct Place {
    kube: Kube,
    namespace: KubeNamespace,
    folder: TempDir,
}

impl Place {
    async fn new() -> Self {
        let kube = Kube::for_tests().await.unwrap();
        let namespace = kube.create_namespace("rook").await.unwrap();
        let place = Self { kube, namespace, folder: tempfile::tempdir().unwrap() };
        place
            .namespace
            .create_ceph_cluster("rook-ceph", fixture("vault-tls", "security.json"))
            .await
            .unwrap();
        place
    }

    /// A place with the seven OSDs.
    async fn with_osds() -> Self {
        let place = Self::new().await;
        for case in CASES {
            place.create("apps/v1", "deployments", deployment_in(case, place.namespace.name())).await;
        }
        place
    }

    fn path(&self, group: &str, resource: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{resource}", self.namespace.name())
    }

    async fn create(&self, group: &str, resource: &str, object: Value) -> Value {
        self.kube.call("POST", &self.path(group, resource), object).await.unwrap()
    }

    async fn cron_job(&self, name: &str) -> Value {
        self.kube.call("GET", &self.path("batch/v1", &format!("cronjobs/{name}")), Value::Null).await.unwrap()
    }

    async fn cron_jobs(&self) -> Vec<String> {
        let list = self.kube.call("GET", &self.path("batch/v1", "cronjobs"), Value::Null).await.unwrap();
        let names = list["items"].as_array().unwrap().iter();
        names.map(|job| job["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn connection(&self, token: &str) -> Connection {
        let path = self.folder.path().join("kubeconfig");
        self.kube.write_kubeconfig(&path, self.namespace.name(), token).unwrap();
        connect(ConnectOptions::new().with_kubeconfig(path)).await.unwrap()
    }

    /// Creates `account` with the rights that a file of `deploy/` gives it; returns a token of the account.
    async fn deploy(&self, yaml: &str, account: &str) -> String {
        let mut rules = Value::Null;
        for mut object in serde_saphyr::from_multiple::<Value>(yaml).unwrap() {
            move_to(&mut object, self.namespace.name());
            let name = object["metadata"]["name"].clone();
            match object["kind"].as_str().unwrap() {
                "Role" => rules = object["rules"].clone(),
                // The binding is for `account`, and has the name of the Role.
                "RoleBinding" => {
                    assert_eq!(object["subjects"][0]["name"], account);
                    assert_eq!(object["roleRef"]["name"], name);
                }
                _ => {}
            }
        }
        self.account(account, &rules).await
    }

    /// Makes an account with these rights; returns a token.
    async fn account(&self, name: &str, rules: &Value) -> String {
        self.namespace.create_service_account(name).await.unwrap();
        self.namespace.grant(name, rules).await.unwrap();
        self.namespace.create_token(name, &[]).await.unwrap()
    }

    /// The account of `deploy/cronjob-manager.yaml`.
    async fn manager(&self) -> RookNamespace {
        let token = self.deploy(MANAGER, "rook-kms-cronjobs").await;
        RookNamespace::new(self.connection(&token).await, self.namespace.name())
    }

    async fn admin(&self) -> RookNamespace {
        RookNamespace::new(self.connection(ADMIN).await, self.namespace.name())
    }
}

async fn cluster(place: &RookNamespace, connection: Connection) -> CephClusterSpec {
    ceph_cluster(connection, place.name(), "rook-ceph").await.unwrap().spec
}

async fn applied(place: &RookNamespace, options: &JobOptions, write: ApplyOptions) -> Report {
    let cluster = CephClusterSpec::new(crate::common::security("vault-tls"));
    let maker = JobMaker::new(&cluster, options).unwrap();
    apply(place, &maker, options.naming, write, &|_, _| ()).await.unwrap()
}

/// The change of each CronJob, by OSD.
fn changes(report: &Report) -> Vec<(u32, &'static str)> {
    let word = |change: &Change| match change {
        Change::Created => "created",
        Change::Changed => "changed",
        Change::Unchanged => "unchanged",
        Change::Deleted => "deleted",
        Change::Failed(_) => "failed",
        other => panic!("{other:?}"),
    };
    report.outcomes.iter().map(|outcome| (outcome.osd_id, word(&outcome.change))).collect()
}

fn all(word: &'static str) -> Vec<(u32, &'static str)> {
    (0..7).map(|id| (id, word)).collect()
}

/// Finds the paths at which `stored` has a field that `ours` lacks. `stored` must have every field of `ours`.
fn added(ours: &Value, stored: &Value, path: &str, found: &mut BTreeSet<String>) {
    match (ours, stored) {
        (Value::Object(ours), Value::Object(stored)) => {
            for (name, value) in ours {
                let other = stored.get(name).unwrap_or_else(|| panic!("{path}.{name} is not stored"));
                added(value, other, &format!("{path}.{name}"), found);
            }
            found.extend(
                stored.keys().filter(|name| !ours.contains_key(*name)).map(|name| format!("{path}.{name}")),
            );
        }
        (Value::Array(ours), Value::Array(stored)) => {
            assert_eq!(ours.len(), stored.len(), "{path}");
            ours.iter()
                .zip(stored)
                .for_each(|(ours, stored)| added(ours, stored, &format!("{path}[]"), found));
        }
        (ours, stored) => assert_eq!(ours, stored, "{path}"),
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn what_is_stored_is_what_was_made_and_a_second_time_changes_nothing() {
    let place = Place::with_osds().await;
    let manager = place.manager().await;
    let connection = place.connection(ADMIN).await;
    let cluster = cluster(&manager, connection).await;
    let options = JobOptions::new(IMAGE);
    let maker = JobMaker::new(&cluster, &options).unwrap();

    // A dry run.
    let dry = ApplyOptions::new().with_dry_run(true);
    assert_eq!(
        changes(&apply(&manager, &maker, Naming::Rook, dry, &|_, _| ()).await.unwrap()),
        all("created")
    );
    assert!(place.cron_jobs().await.is_empty());

    let report = apply(&manager, &maker, Naming::Rook, ApplyOptions::new(), &|_, _| ()).await.unwrap();
    assert_eq!(changes(&report), all("created"));
    assert!(report.first_error().is_none());
    let mut defaults = BTreeSet::new();
    let mut versions = Vec::new();
    for osd in manager.osds().await.unwrap().osds {
        let stored = place.cron_job(&Naming::Rook.cron_job(osd.id)).await;
        let ours = serde_json::to_value(maker.cron_job(&osd)).unwrap();
        assert_eq!(ours["metadata"]["ownerReferences"][0]["uid"], json!(osd.uid.clone().unwrap()));
        added(&ours, &stored, "", &mut defaults);
        versions.push(stored["metadata"]["resourceVersion"].clone());
    }
    // Only the fields that the API server adds to every CronJob.
    let pod = ".spec.jobTemplate.spec.template.spec";
    let expected = [
        ".metadata.creationTimestamp".to_owned(),
        ".metadata.generation".to_owned(),
        ".metadata.managedFields".to_owned(),
        ".metadata.resourceVersion".to_owned(),
        ".metadata.uid".to_owned(),
        ".spec.failedJobsHistoryLimit".to_owned(),
        format!("{pod}.containers[].terminationMessagePath"),
        format!("{pod}.containers[].terminationMessagePolicy"),
        format!("{pod}.serviceAccount"),
        format!("{pod}.terminationGracePeriodSeconds"),
        format!("{pod}.volumes[].hostPath.type"),
        format!("{pod}.volumes[].projected.defaultMode"),
        ".spec.successfulJobsHistoryLimit".to_owned(),
        ".spec.suspend".to_owned(),
        ".status".to_owned(),
    ];
    let found: Vec<_> = defaults.into_iter().collect();
    assert_eq!(found, expected);

    assert_eq!(
        changes(&apply(&manager, &maker, Naming::Rook, dry, &|_, _| ()).await.unwrap()),
        all("unchanged")
    );
    let again = apply(&manager, &maker, Naming::Rook, ApplyOptions::new(), &|_, _| ()).await.unwrap();
    assert_eq!(changes(&again), all("unchanged"));
    for (id, version) in (0..).zip(versions) {
        let stored = place.cron_job(&Naming::Rook.cron_job(id)).await;
        assert_eq!(stored["metadata"]["resourceVersion"], version);
    }

    // A new image changes each CronJob. A dry run reports the change too, and the change is written once.
    let newer = JobOptions::new("registry.example.com/kms:newer");
    assert_eq!(changes(&applied(&manager, &newer, dry).await), all("changed"));
    assert_eq!(changes(&applied(&manager, &newer, ApplyOptions::new()).await), all("changed"));
    assert_eq!(changes(&applied(&manager, &newer, ApplyOptions::new()).await), all("unchanged"));
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn objects_that_rook_made_are_left_alone_unless_forced() {
    let place = Place::with_osds().await;
    let manager = place.manager().await;
    let options = JobOptions::new(IMAGE);
    // A CronJob as Rook's operator makes it.
    let mut rooks = fixture("vault-tls", "cronjob.json");
    move_to(&mut rooks, place.namespace.name());
    let path = format!("{}?fieldManager=rook", place.path("batch/v1", "cronjobs"));
    let before = place.kube.call("POST", &path, rooks).await.unwrap();

    let report = applied(&manager, &options, ApplyOptions::new()).await;
    let mut expected = all("created");
    expected[3].1 = "failed";
    assert_eq!(changes(&report), expected);
    let error = report.first_error().unwrap();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(text.contains("another manager has set fields to other values: ."), "{text}");
    assert!(text.contains("conflict with \"rook\""), "{text}");
    assert!(text.contains("rook-ceph-osd-key-rotation-3"), "{text}");
    let stored = place.cron_job("rook-ceph-osd-key-rotation-3").await;
    assert_eq!(stored["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);

    let force = ApplyOptions::new().with_force_conflicts(true);
    let mut expected = all("unchanged");
    expected[3].1 = "changed";
    assert_eq!(changes(&applied(&manager, &options, force).await), expected);
    let stored = place.cron_job("rook-ceph-osd-key-rotation-3").await;
    assert_eq!(stored["metadata"]["uid"], before["metadata"]["uid"]);
    let container = &stored["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["command"]), (&json!(IMAGE), &json!(["kms"])));
    assert_eq!(changes(&applied(&manager, &options, ApplyOptions::new()).await), all("unchanged"));
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn stale_cron_jobs_are_deleted_and_those_of_others_stay() {
    let place = Place::with_osds().await;
    let manager = place.manager().await;
    let (rooks, ours) = (JobOptions::new(IMAGE), JobOptions::new(IMAGE).with_naming(Naming::BesideRook));
    applied(&manager, &rooks, ApplyOptions::new()).await;
    assert_eq!(changes(&applied(&manager, &ours, ApplyOptions::new()).await), all("created"));
    // It has Rook's label, but Rook did not make it.
    let mut other = fixture("default", "cronjob.json");
    move_to(&mut other, place.namespace.name());
    other["metadata"]["name"] = json!("of-a-user");
    place.create("batch/v1", "cronjobs", other).await;
    assert_eq!(place.cron_jobs().await.len(), 15);

    place
        .kube
        .call("DELETE", &place.path("apps/v1", "deployments/rook-ceph-osd-6"), Value::Null)
        .await
        .unwrap();
    let dry = ApplyOptions::new().with_dry_run(true);
    let pruned = |report: Report| {
        changes(&report).into_iter().map(|(id, word)| format!("{id} {word}")).collect::<Vec<_>>()
    };
    assert_eq!(pruned(prune(&manager, Naming::Rook, Reason::OsdGone, dry).await.unwrap()), ["6 deleted"]);
    assert_eq!(place.cron_jobs().await.len(), 15);
    let report = applied(&manager, &rooks, ApplyOptions::new()).await;
    assert_eq!(changes(&report).last(), Some(&(6, "deleted")));
    assert_eq!(place.cron_jobs().await.len(), 14);
    assert_eq!(
        pruned(prune(&manager, Naming::BesideRook, Reason::OsdGone, ApplyOptions::new()).await.unwrap()),
        ["6 deleted"]
    );

    // Rotation is switched off: Rook's CronJobs go, ours stay.
    assert_eq!(
        prune(&manager, Naming::Rook, Reason::RotationOff, ApplyOptions::new()).await.unwrap().outcomes.len(),
        6
    );
    let left = place.cron_jobs().await;
    assert_eq!(left.len(), 7, "{left:?}");
    assert!(
        left.iter().all(|name| name == "of-a-user" || name.starts_with("rook-kms-key-rotation-")),
        "{left:?}"
    );
    prune(&manager, Naming::BesideRook, Reason::Requested, ApplyOptions::new()).await.unwrap();
    assert_eq!(place.cron_jobs().await, ["of-a-user"]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn one_faulty_osd_stops_no_other_and_keeps_its_cron_job() {
    let place = Place::with_osds().await;
    let manager = place.manager().await;
    let options = JobOptions::new(IMAGE);
    applied(&manager, &options, ApplyOptions::new()).await;
    // One Deployment has lost the name of its PVC, and another Deployment is gone.
    let label = json!({"metadata": {"labels": {"ceph.rook.io/pvc": ""}}});
    let patch = Some(("application/merge-patch+json", label.to_string()));
    let path = place.path("apps/v1", "deployments/rook-ceph-osd-2");
    place.kube.http().send_as("PATCH", &path, patch).await.unwrap().ok().unwrap();
    place
        .kube
        .call("DELETE", &place.path("apps/v1", "deployments/rook-ceph-osd-6"), Value::Null)
        .await
        .unwrap();

    let newer = JobOptions::new("registry.example.com/kms:newer");
    let report = applied(&manager, &newer, ApplyOptions::new()).await;
    let words: Vec<_> = changes(&report);
    assert_eq!(
        words,
        [(0, "changed"), (1, "changed"), (3, "changed"), (4, "changed"), (5, "changed"), (6, "deleted")]
    );
    let [fault] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    assert_eq!((fault.deployment.as_str(), fault.osd_id), ("rook-ceph-osd-2", Some(2)));
    assert_eq!(report.first_error().unwrap().kind(), ErrorKind::ConfigInvalid);
    assert!(place.cron_jobs().await.contains(&"rook-ceph-osd-key-rotation-2".to_owned()));

    // A Deployment without the number of its OSD may belong to any CronJob, so no CronJob is deleted.
    let mut nameless = deployment_in("azure", place.namespace.name());
    nameless["metadata"]["name"] = json!("nameless");
    nameless["metadata"]["labels"]["ceph-osd-id"] = json!("six");
    place.create("apps/v1", "deployments", nameless).await;
    place
        .kube
        .call("DELETE", &place.path("apps/v1", "deployments/rook-ceph-osd-5"), Value::Null)
        .await
        .unwrap();
    let report = applied(&manager, &newer, ApplyOptions::new()).await;
    assert!(report.prune_held_back && report.faults.len() == 2, "{report:?}");
    assert!(place.cron_jobs().await.contains(&"rook-ceph-osd-key-rotation-5".to_owned()));
    let report = prune(&manager, Naming::Rook, Reason::OsdGone, ApplyOptions::new()).await.unwrap();
    assert!(report.prune_held_back && report.outcomes.is_empty(), "{report:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn an_account_without_rights_learns_which_one_is_missing() {
    let place = Place::with_osds().await;
    let lists = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["list", "patch"]},
    ]);
    let token = place.account("may-not-create", &lists).await;
    let limited = RookNamespace::new(place.connection(&token).await, place.namespace.name());
    let report = applied(&limited, &JobOptions::new(IMAGE), ApplyOptions::new()).await;
    assert_eq!(changes(&report), all("failed"));
    let error = report.first_error().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = error.to_string();
    assert!(text.contains("may-not-create may not create cronjobs in namespace"), "{text}");
    assert!(text.contains(r#"{apiGroups: ["batch"], resources: ["cronjobs"], verbs: ["create"]}"#), "{text}");

    let token = place.account("may-nothing", &json!([])).await;
    let limited = RookNamespace::new(place.connection(&token).await, place.namespace.name());
    let error = limited.osds().await.unwrap_err();
    assert!(error.to_string().contains(r#"resources: ["deployments"], verbs: ["list"]"#), "{error}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn a_rotation_is_noted_at_its_osd_which_does_not_restart() {
    let place = Place::with_osds().await;
    let token = place.deploy(STATUS, "rook-ceph-osd").await;
    let job = RookNamespace::new(place.connection(&token).await, place.namespace.name());
    let path = place.path("apps/v1", "deployments/rook-ceph-osd-3");
    let before = place.kube.call("GET", &path, Value::Null).await.unwrap();

    let name = KeyName::new("set1-data-0d7dwll").unwrap();
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
    let status =
        RotationStatus::new("rotated", "the KEK of 3 devices was replaced").with_rotation(time, Some(4));
    record(&job, &name, &status).await.unwrap();
    let failed = RotationStatus::new("failed", "the KMS is sealed").with_failure();
    record(&job, &name, &failed).await.unwrap();

    let after = place.kube.call("GET", &path, Value::Null).await.unwrap();
    // Kubernetes replaces a pod when its template changes. The generation of a Deployment counts annotations too.
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(
        after["metadata"]["annotations"],
        json!({
            "kms.ceph.rook.io/key-generation": "4",
            "kms.ceph.rook.io/key-rotated-at": "2027-01-15T08:00:00Z",
            "kms.ceph.rook.io/key-rotation-outcome": "failed",
        })
    );
    // `kubectl describe` looks for Events here.
    let events = place.kube.call("GET", &place.namespace.path("events"), Value::Null).await.unwrap();
    let mut told: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            assert_eq!(event["involvedObject"]["uid"], before["metadata"]["uid"]);
            assert_eq!(event["involvedObject"]["kind"], "Deployment");
            format!("{} {}: {}", event["type"], event["reason"], event["message"]).replace('"', "")
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "Normal KeyRotation: the KEK of 3 devices was replaced",
            "Warning KeyRotationFailed: the KMS is sealed"
        ]
    );

    // The report of an apply shows the recorded rotation.
    let report = applied(&place.admin().await, &JobOptions::new(IMAGE), ApplyOptions::new()).await;
    let last = report.outcomes[3].last_rotation.clone().unwrap();
    assert_eq!((last.generation, last.outcome.as_deref()), (Some(4), Some("failed")));
    assert_eq!(last.rotated_at.as_deref(), Some("2027-01-15T08:00:00Z"));

    let unknown = record(&job, &KeyName::new("unknown").unwrap(), &status).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn a_rotation_that_may_not_be_noted_says_which_right_is_missing_and_notes_the_rest() {
    let place = Place::with_osds().await;
    let rules = json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    let token = place.account("limited", &rules).await;
    let job = RookNamespace::new(place.connection(&token).await, place.namespace.name());
    let name = KeyName::new("set1-data-0a7dwll").unwrap();
    let error = record(&job, &name, &RotationStatus::new("rotated", "done")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let right = r#"resources: ["deployments"], resourceNames: ["rook-ceph-osd-0"], verbs: ["patch"]"#;
    assert!(error.to_string().contains(right), "{error}");
    let events = place.kube.call("GET", &place.namespace.path("events"), Value::Null).await.unwrap();
    assert_eq!(events["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn a_job_with_an_account_of_its_own_reads_what_it_needs_and_no_other_secret() {
    let place = Place::with_osds().await;
    let osds = place.admin().await.osds().await.unwrap().osds;
    let (security, kube_namespace) = (crate::common::security("kmip"), place.namespace.name());
    let key_secret = |name: &KeyName| format!("rook-ceph-osd-encryption-key-{name}");
    let rights =
        rbac(&security, kube_namespace, "rook-ceph", "rook-kms-rotation", &osds, key_secret).unwrap();
    let rules = serde_json::to_value(&rights.role.rules).unwrap();
    let token = place.account("rook-kms-rotation", &rules).await;
    // The API server accepts the printed objects unchanged.
    let mut binding = serde_json::to_value(&rights.binding).unwrap();
    binding["metadata"]["name"] = json!("as-printed");
    place.create("rbac.authorization.k8s.io/v1", "rolebindings", binding).await;

    let key = format!("rook-ceph-osd-encryption-key-{}", osds[0].name);
    for secret in ["kmip-credentials", &key, "of-another-app"] {
        place.namespace.create_secret(secret, &[("a", "b")]).await.unwrap();
    }
    let client = place.kube.client(&token).unwrap();
    let ask = async |method: &str, resource: &str, body: Value| {
        client.send(method, &place.namespace.path(resource), &body).await.unwrap().status
    };
    assert_eq!(ask("GET", "secrets/kmip-credentials", Value::Null).await, 200);
    assert_eq!(ask("GET", &format!("secrets/{key}"), Value::Null).await, 200);
    let body = json!({"metadata": {"name": key}, "stringData": {"a": "c"}});
    assert_eq!(ask("PUT", &format!("secrets/{key}"), body).await, 200);
    let body = json!({"metadata": {"name": "kmip-credentials"}, "stringData": {"a": "c"}});
    assert_eq!(ask("PUT", "secrets/kmip-credentials", body).await, 403);
    assert_eq!(ask("GET", "secrets/of-another-app", Value::Null).await, 403);
    assert_eq!(ask("GET", "secrets", Value::Null).await, 403);
    let job = RookNamespace::new(place.connection(&token).await, kube_namespace);
    record(&job, &osds[0].name, &RotationStatus::new("rotated", "done")).await.unwrap();
    let found = job.osds_with_key(&osds[3].name).await.unwrap();
    found.osd_of(&osds[3].name, Some(3)).unwrap().unwrap().check_devices(3).unwrap();
    job.rook_rotation(false).await.unwrap().check(&[&osds[3].name]).unwrap();
    ceph_cluster(place.connection(&token).await, kube_namespace, "rook-ceph").await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn the_api_server_takes_the_schedules_that_we_take() {
    let place = Place::new().await;
    let path = format!("{}?dryRun=All", place.path("batch/v1", "cronjobs"));
    for (schedules, status) in
        [(crate::schedules::SCHEDULES_TAKEN, 201), (crate::schedules::SCHEDULES_REFUSED, 422)]
    {
        for schedule in schedules {
            let mut job = fixture("default", "cronjob.json");
            move_to(&mut job, place.namespace.name());
            job["spec"]["schedule"] = json!(schedule);
            let reply = place.kube.request("POST", &path, job).await.unwrap();
            assert_eq!(reply.status, status, "{schedule}: {}", reply.body);
        }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn what_is_in_deploy_is_taken_by_the_api_server() {
    let place = Place::new().await;
    for object in
        [MANAGER, STATUS].into_iter().flat_map(|yaml| serde_saphyr::from_multiple::<Value>(yaml).unwrap())
    {
        let mut object = object;
        move_to(&mut object, place.namespace.name());
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let resource = format!("{}s", kind.to_lowercase());
        let path = match version {
            "v1" => place.namespace.path(&resource),
            group => place.path(group, &resource),
        };
        place.kube.call("POST", &format!("{path}?fieldValidation=Strict"), object).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it rook"]
async fn the_rotation_of_rook_is_seen_with_the_rights_of_a_job() {
    let place = Place::with_osds().await;
    let token = place.deploy(STATUS, "rook-ceph-osd").await;
    let job = RookNamespace::new(place.connection(&token).await, place.namespace.name());
    let key = KeyName::new("set1-data-0d7dwll").unwrap();
    let check = async |enabled: bool| job.rook_rotation(enabled).await.unwrap().check(&[&key]);
    check(false).await.unwrap();
    assert!(check(true).await.unwrap_err().to_string().contains("not made yet"));
    let mut rooks = fixture("vault-tls", "cronjob.json");
    move_to(&mut rooks, place.namespace.name());
    let path = format!("{}?fieldManager=rook", place.path("batch/v1", "cronjobs"));
    place.kube.call("POST", &path, rooks.clone()).await.unwrap();
    for enabled in [true, false] {
        assert!(check(enabled).await.unwrap_err().to_string().contains("rook-ceph-osd-key-rotation-3"));
    }
    let force = ApplyOptions::new().with_force_conflicts(true);
    applied(&place.manager().await, &JobOptions::new(IMAGE), force).await;
    check(true).await.unwrap();
    // A Job of ours does not keep ours off; a Job of Rook does.
    let ours = place.cron_job("rook-ceph-osd-key-rotation-3").await;
    let own = json!({"metadata": {"name": "own"}, "spec": ours["spec"]["jobTemplate"]["spec"]});
    place.create("batch/v1", "jobs", own).await;
    check(true).await.unwrap();
    let theirs = json!({"metadata": {"name": "theirs"}, "spec": rooks["spec"]["jobTemplate"]["spec"]});
    place.create("batch/v1", "jobs", theirs).await;
    assert!(check(true).await.unwrap_err().to_string().contains("running: Job theirs"));
    // Without the rights, the missing one is named.
    let token = place.account("may-nothing", &json!([])).await;
    let limited = RookNamespace::new(place.connection(&token).await, place.namespace.name());
    let error = limited.rook_rotation(true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains(r#"resources: ["cronjobs"], verbs: ["list"]"#), "{error}");
}
