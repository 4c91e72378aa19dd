//! Whether Rook rotates the keys of a cluster too, from CronJobs that Rook's operator printed.

use crate::common::{deployment, fixture, security};
use k8s_openapi::api::batch::v1::CronJob;
use kms_core::{ErrorKind, KeyName, Result, Retry};
use kms_kube::CephClusterSpec;
use kms_rook::{JobMaker, JobOptions, Naming, Osd, RookRotation};
use serde_json::{Value, json};

const CASE: &str = "vault-tls";
/// The key of the OSD of that case.
const KEY: &str = "set1-data-0d7dwll";

fn rooks() -> Value {
    fixture(CASE, "cronjob.json")
}

fn ours(naming: Naming) -> Value {
    let (cluster, options) =
        (CephClusterSpec::new(security(CASE)), JobOptions::new("mine").with_naming(naming));
    let osd = Osd::of(&deployment(CASE)).unwrap().unwrap();
    serde_json::to_value(JobMaker::new(&cluster, &options).unwrap().cron_job(&osd)).unwrap()
}

/// The Job that Kubernetes makes of a CronJob, as the controller writes it: with the template of the CronJob and no label.
fn job(cron_job: &Value, status: &Value) -> Value {
    json!({
        "metadata": {"name": "rook-ceph-osd-key-rotation-3-29000000"},
        "spec": cron_job["spec"]["jobTemplate"]["spec"],
        "status": status,
    })
}

/// The pod that Kubernetes makes of such a Job.
fn pod(cron_job: &Value, phase: &str) -> Value {
    let template = &cron_job["spec"]["jobTemplate"]["spec"]["template"];
    json!({
        "metadata": {"name": "rook-ceph-osd-key-rotation-3-29000000-abcde", "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
        "status": {"phase": phase},
    })
}

fn of(enabled: bool, cron_jobs: Vec<Value>, jobs: Vec<Value>, pods: Vec<Value>) -> RookRotation {
    let cron_jobs: Vec<CronJob> =
        cron_jobs.into_iter().map(|job| serde_json::from_value(job).unwrap()).collect();
    let jobs: Vec<_> = jobs.into_iter().map(|job| serde_json::from_value(job).unwrap()).collect();
    let pods: Vec<_> = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
    RookRotation::of(enabled, &cron_jobs, &jobs, &pods)
}

fn check(rotation: &RookRotation, key: &str) -> Result<()> {
    rotation.check(&[&KeyName::new(key).unwrap()])
}

#[test]
fn a_key_is_ours_to_rotate_if_rook_does_not_or_if_our_cron_job_stands_in_place_of_rooks() {
    let none = || of(false, Vec::new(), Vec::new(), Vec::new());
    check(&none(), KEY).unwrap();
    check(&of(true, vec![ours(Naming::Rook)], Vec::new(), Vec::new()), KEY).unwrap();
    // Rook keeps a CronJob for the key, or will make one.
    for (cron_jobs, named) in [
        (vec![rooks()], "CronJob: rook-ceph-osd-key-rotation-3"),
        (vec![ours(Naming::Rook), rooks()], "CronJob: rook-ceph-osd-key-rotation-3"),
        (Vec::new(), "CronJob: not made yet"),
    ] {
        let error = check(&of(true, cron_jobs, Vec::new(), Vec::new()), KEY).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(text.contains("keyRotation.enabled is true, so Rook rotates these keys too"), "{text}");
        assert!(text.contains(named) && text.contains("override: --even-if-rook-rotates"), "{text}");
        assert!(text.contains(KEY), "{text}");
    }
    // Our CronJob for one OSD says nothing about another OSD.
    let one = of(true, vec![ours(Naming::Rook)], Vec::new(), Vec::new());
    assert!(check(&one, "set1-data-1").is_err());
}

#[test]
fn a_cron_job_that_rook_has_left_counts_although_rotation_is_off() {
    let error = check(&of(false, vec![rooks()], Vec::new(), Vec::new()), KEY).unwrap_err();
    assert!(error.to_string().contains("although keyRotation.enabled is not true"), "{error}");
    let mut suspended = rooks();
    suspended["spec"]["suspend"] = json!(true);
    check(&of(false, vec![suspended.clone()], Vec::new(), Vec::new()), KEY).unwrap();
    // Rook undoes the suspension at its next reconcile.
    assert!(check(&of(true, vec![suspended], Vec::new(), Vec::new()), KEY).is_err());
}

#[test]
fn a_job_of_rook_that_has_not_ended_keeps_every_rotation_of_ours_off() {
    let ended = |condition: &str| json!({"conditions": [{"type": condition, "status": "True"}]});
    for status in [Value::Null, json!({"active": 1}), json!({"failed": 1}), ended("Suspended")] {
        let running = of(false, Vec::new(), vec![job(&rooks(), &status)], Vec::new());
        for key in [KEY, "another"] {
            let error = check(&running, key).unwrap_err();
            assert_eq!((error.kind(), error.retryable()), (ErrorKind::Conflict, Retry::Always));
            assert!(
                error.to_string().contains("running: Job rook-ceph-osd-key-rotation-3-29000000"),
                "{error}"
            );
        }
    }
    for condition in ["Complete", "Failed"] {
        check(&of(false, Vec::new(), vec![job(&rooks(), &ended(condition))], Vec::new()), KEY).unwrap();
    }
    // A pod outlives the Job that was deleted.
    let left = of(false, Vec::new(), Vec::new(), vec![pod(&rooks(), "Running")]);
    assert!(
        check(&left, KEY).unwrap_err().to_string().contains("running: pod rook-ceph-osd-key-rotation-3-")
    );
    check(&of(false, Vec::new(), Vec::new(), vec![pod(&rooks(), "Succeeded")]), KEY).unwrap();
    // A job of ours does not keep itself off.
    for naming in [Naming::Rook, Naming::BesideRook] {
        let own = ours(naming);
        let enabled = naming == Naming::Rook;
        let found = of(
            enabled,
            vec![own.clone()],
            vec![job(&own, &json!({"active": 1}))],
            vec![pod(&own, "Running")],
        );
        check(&found, KEY).unwrap();
    }
}

#[test]
fn names_that_do_not_fit_the_setting_are_the_unwanted_ones() {
    assert_eq!([true, false].map(Naming::wanted), [Naming::Rook, Naming::BesideRook]);
    assert_eq!(
        [true, false].map(|enabled| Naming::wanted(enabled).other()),
        [Naming::BesideRook, Naming::Rook]
    );
}
