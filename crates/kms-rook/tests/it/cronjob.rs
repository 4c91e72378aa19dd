//! Compares the CronJobs with the CronJobs of Rook's operator, field by field.

use std::{collections::BTreeMap, time::Duration};

use crate::common::{CASES, changed, deployment, fixture, security};
use kms_core::{Capability, ConnectionDetails, ErrorKind, Guarantee, KmsSpec, SecuritySpec};
use kms_dispatch::Provider;
use kms_kube::CephClusterSpec;
use kms_rook::{JobMaker, JobOptions, Naming, Osd, Schedule};
use serde_json::{Value, json};

const IMAGE: &str = "registry.example.com/kms:test";
const POD: &str = "/spec/jobTemplate/spec/template/spec";

fn osd(case: &str) -> Osd {
    Osd::of(&deployment(case)).unwrap().unwrap()
}

fn made(case: &str, options: &JobOptions) -> Value {
    let cluster = CephClusterSpec::new(security(case));
    let maker = JobMaker::with_capability(&cluster, options, Capability::full()).unwrap();
    serde_json::to_value(maker.cron_job(&osd(case))).unwrap()
}

fn at<'a>(job: &'a mut Value, path: &str) -> &'a mut Value {
    job.pointer_mut(&path.replace("POD", POD)).unwrap_or_else(|| panic!("{path} is not there"))
}

fn list<'a>(job: &'a mut Value, path: &str) -> &'a mut Vec<Value> {
    at(job, path).as_array_mut().unwrap()
}

/// Applies one difference to Rook's CronJob, if the difference concerns the case.
type Change = fn(&str, &mut Value);

/// Every difference from Rook, with its reason.
const DIFFERENCES: [(&str, Change); 11] = [
    ("the image is ours", |_, job| *at(job, "POD/containers/0/image") = json!(IMAGE)),
    ("the program is named, so that Rook's image cannot run its own rotate-key", |_, job| {
        at(job, "POD/containers/0")["command"] = json!(["kms"]);
    }),
    (
        "the job finds its OSD by labels that never change, so that it cannot wait for ever (rook-behaviour W19)",
        |case, job| {
            let selector = fixture(case, "osd-deployment.json").pointer("/spec/selector").unwrap().clone();
            let term =
                "POD/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector";
            let rooks = at(job, term)["matchLabels"].as_object().unwrap().clone();
            // Our labels are a subset of the labels that Rook asks for.
            for (name, value) in selector["matchLabels"].as_object().unwrap() {
                assert_eq!(rooks.get(name), Some(value), "{case}");
            }
            *at(job, term) = selector;
        },
    ),
    (
        "a run that waits for its node ends as failed after an hour, and does not keep others off (rook-behaviour W19)",
        |_, job| {
            at(job, "/spec/jobTemplate/spec")["activeDeadlineSeconds"] = json!(3600);
        },
    ),
    ("there is no volume without sources (rook-behaviour W37)", |_, job| {
        list(job, "POD/volumes").retain(|volume| volume.pointer("/projected/sources") != Some(&json!([])));
        let volumes = list(job, "POD/volumes").clone();
        let there = |name: &Value| volumes.iter().any(|volume| volume["name"] == *name);
        list(job, "POD/containers/0/volumeMounts").retain(|mount| there(&mount["name"]));
    }),
    (
        "the files of KMIP are there, so that the environment of the pod is enough where the API is not",
        |case, job| {
            if case == "kmip" {
                let deployed = fixture(case, "osd-deployment.json");
                let volumes = deployed.pointer("/spec/template/spec/volumes").unwrap().as_array().unwrap();
                let volume = volumes.iter().find(|volume| volume["name"] == "kmip").unwrap();
                list(job, "POD/volumes").push(volume.clone());
                let mount = json!({"name": "kmip", "mountPath": "/etc/kmip", "readOnly": true});
                list(job, "POD/containers/0/volumeMounts").push(mount);
            }
        },
    ),
    (
        "no log level and no release name of Ceph: kms reads neither, and logs no settings at any level (rook-behaviour W27)",
        |_, job| {
            let unread = ["ROOK_LOG_LEVEL", "ROOK_CEPH_VERSION"];
            list(job, "POD/containers/0/env").retain(|var| !unread.contains(&var["name"].as_str().unwrap()));
        },
    ),
    ("where each KEK is an object of its own, the job destroys the superseded ones", |case, job| {
        if matches!(case, "ibm" | "kmip") {
            list(job, "POD/containers/0/args").push(json!("--destroy-superseded"));
        }
    }),
    ("the jobs of a cluster do not all begin at midnight", |case, job| {
        let schedule = at(job, "/spec/schedule");
        if *schedule == json!("@weekly") {
            let parsed = Schedule::parse("@weekly").unwrap();
            *schedule = json!(parsed.of_osd(&osd(case).name));
        }
    }),
    ("a node is chosen and kept with the little that a job needs", |_, job| {
        at(job, "POD/containers/0")["resources"] = json!({"requests": {"cpu": "20m", "memory": "64Mi"}});
    }),
    ("the status is the controller's", |_, job| drop(job.as_object_mut().unwrap().remove("status"))),
];

#[test]
fn the_cron_job_is_rooks_but_for_what_is_meant() {
    for case in CASES {
        let mut rooks = fixture(case, "cronjob.json");
        let mut made_a_difference = BTreeMap::new();
        for (reason, change) in DIFFERENCES {
            let before = rooks.clone();
            change(case, &mut rooks);
            made_a_difference.insert(reason, before != rooks);
        }
        let ours = made(case, &JobOptions::new(IMAGE));
        assert_eq!(
            serde_json::to_string_pretty(&ours).unwrap(),
            serde_json::to_string_pretty(&rooks).unwrap(),
            "{case}"
        );
        let without = made_a_difference.into_iter().filter(|(_, made)| !made).map(|(reason, _)| reason);
        let wanted = match case {
            "kmip" => 1,
            "ibm" | "vault-token" | "vault-kubernetes" => 2,
            "vault-tls" => 4,
            _ => 3,
        };
        assert_eq!(without.count(), wanted, "{case}");
    }
}

#[test]
fn the_osd_is_the_owner_but_does_not_control_it() {
    let job = made_with("default", |deployment| deployment["metadata"]["uid"] = json!("u-1"));
    assert_eq!(
        job["metadata"]["ownerReferences"],
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "rook-ceph-osd-0", "uid": "u-1"}])
    );
    assert_eq!(made("default", &JobOptions::new(IMAGE))["metadata"].get("ownerReferences"), None);
}

fn made_with(case: &str, change: impl FnOnce(&mut Value)) -> Value {
    let cluster = CephClusterSpec::new(security(case));
    let options = JobOptions::new(IMAGE);
    let osd = Osd::of(&changed(case, change)).unwrap().unwrap();
    serde_json::to_value(JobMaker::new(&cluster, &options).unwrap().cron_job(&osd)).unwrap()
}

#[test]
fn beside_rook_nothing_has_a_name_or_label_of_rooks_jobs() {
    for case in CASES {
        let options = JobOptions::new(IMAGE).with_naming(Naming::BesideRook);
        let ours = serde_json::to_string(&made(case, &options)).unwrap();
        assert!(!ours.contains("rook-ceph-osd-key-rotation"), "{ours}");
        // Nothing else differs but the argument that says so.
        let renamed = ours.replace("rook-kms-key-rotation", "rook-ceph-osd-key-rotation");
        let mut renamed: Value = serde_json::from_str(&renamed).unwrap();
        assert_eq!(list(&mut renamed, "POD/containers/0/args").pop(), Some(json!("--beside-rook")));
        assert_eq!(renamed, made(case, &JobOptions::new(IMAGE)), "{case}");
    }
}

#[test]
fn labels_annotations_networks_and_pull_policy_are_those_of_rook() {
    let mut cluster: CephClusterSpec = serde_json::from_value(json!({
        "cephVersion": {"image": "x", "imagePullPolicy": "Always"},
        "labels": {"all": {"team": "a", "app": "x"}, "keyrotation": {"team": "b", "more": "c"}, "mon": {"team": "d"}},
        "annotations": {"all": {"note": "a", "bad": 1}, "keyrotation": {"note": "b"}, "osd": {"note": "c"}},
        "network": {"provider": "multus", "selectors": {"public": "public-net", "cluster": "other/cluster-net"}},
    }))
    .unwrap();
    cluster.security = security("default");
    let options = JobOptions::new(IMAGE);
    // What Rook writes at the Deployment of an OSD, which is on both networks.
    let osd = Osd::of(&changed("default", |deployment| {
        deployment["spec"]["template"]["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/networks":
            r#"[{"name":"public-net","namespace":"rook-ceph"},{"name":"cluster-net","namespace":"other"}]"#});
    }))
    .unwrap()
    .unwrap();
    let job = serde_json::to_value(JobMaker::new(&cluster, &options).unwrap().cron_job(&osd)).unwrap();
    let labels = json!({
        "app": "rook-ceph-osd-key-rotation", "rook_cluster": "rook-ceph", "team": "a", "more": "c",
    });
    let annotations = json!({
        "note": "a", "k8s.v1.cni.cncf.io/networks": r#"[{"name":"public-net","namespace":"rook-ceph"}]"#,
    });
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["metadata"];
    assert_eq!((&job["metadata"]["labels"], &pod["labels"]), (&labels, &labels));
    assert_eq!((&job["metadata"]["annotations"], &pod["annotations"]), (&annotations, &annotations));
    assert_eq!(job.pointer(&format!("{POD}/containers/0/imagePullPolicy")), Some(&json!("Always")));
}

#[test]
fn an_account_of_its_own_can_be_given() {
    let job = made("default", &JobOptions::new(IMAGE).with_service_account("rook-kms"));
    assert_eq!(job.pointer(&format!("{POD}/serviceAccountName")), Some(&json!("rook-kms")));
}

#[test]
fn superseded_keks_are_destroyed_where_each_is_an_object_or_as_the_options_say() {
    let has = |case, options: &JobOptions| {
        let job = made(case, options);
        let args = job.pointer(&format!("{POD}/containers/0/args")).unwrap().as_array().unwrap();
        args.contains(&json!("--destroy-superseded"))
    };
    for case in CASES {
        let by_default = matches!(case, "ibm" | "kmip");
        assert_eq!(has(case, &JobOptions::new(IMAGE)), by_default, "{case}");
        for destroy in [true, false] {
            let options = JobOptions::new(IMAGE).with_destroy_superseded(destroy);
            assert_eq!(has(case, &options), destroy, "{case}");
        }
    }
}

#[test]
fn a_grace_time_of_its_own_can_be_given_and_the_run_may_last_longer_then() {
    let job = made("vault-kubernetes", &JobOptions::new(IMAGE).with_grace(Duration::from_secs(90)));
    let args = job.pointer(&format!("{POD}/containers/0/args")).unwrap();
    let devices = ["/var/lib/ceph/osd/block-tmp", "/var/lib/ceph/osd/block.db-tmp"];
    let expected = json!([
        "key-management",
        "rotate-key",
        "set1-data-0c7dwll",
        devices[0],
        devices[1],
        "--grace",
        "90s"
    ]);
    assert_eq!(args, &expected);
    assert_eq!(job.pointer("/spec/jobTemplate/spec/activeDeadlineSeconds"), Some(&json!(3690)));
}

#[test]
fn a_verification_is_the_pod_of_a_rotation_with_another_command() {
    for case in CASES {
        let cluster = CephClusterSpec::new(security(case));
        let options =
            JobOptions::new(IMAGE).with_grace(Duration::from_secs(90)).with_destroy_superseded(true);
        let options = options.with_naming(Naming::BesideRook);
        let maker = JobMaker::with_capability(&cluster, &options, Capability::full()).unwrap();
        let [mut rotation, mut verification] = [maker.job(&osd(case)), maker.verification(&osd(case))];
        let args = |job: &mut k8s_openapi::api::batch::v1::Job| {
            let pod = job.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
            pod.containers[0].args.take().unwrap()
        };
        let (mut wanted, found) = (args(&mut rotation), args(&mut verification));
        assert_eq!(rotation, verification, "{case}");
        wanted[1] = "verify-key".to_owned();
        let options = wanted.iter().position(|arg| arg.starts_with("--")).unwrap();
        wanted.truncate(options);
        assert_eq!(found, wanted, "{case}");
    }
}

#[test]
fn nothing_of_the_osds_placement_can_keep_the_job_from_its_node() {
    let job = made_with("default", |deployment| {
        let pod = deployment.pointer_mut("/spec/template/spec").unwrap();
        pod["nodeSelector"] = json!({"a": "b"});
        pod["affinity"] = json!({
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}},
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}]},
        });
        pod["schedulerName"] = json!("mine");
    });
    let pod = job.pointer(POD).unwrap();
    assert_eq!(pod["affinity"].as_object().unwrap().keys().collect::<Vec<_>>(), ["podAffinity"]);
    assert_eq!((pod.get("nodeSelector"), pod.get("topologySpreadConstraints")), (None, None));
    assert_eq!(pod["schedulerName"], "mine");
}

#[test]
fn a_cluster_whose_keys_cannot_be_rotated_gets_no_job() {
    let refused = |change: fn(&mut Value)| {
        let mut block = fixture("vault-token", "security.json");
        change(&mut block);
        let cluster = CephClusterSpec::new(serde_json::from_value(block).unwrap());
        let error = JobMaker::new(&cluster, &JobOptions::new(IMAGE)).err().unwrap();
        (error.kind(), error.to_string())
    };
    let (kind, text) = refused(|block| block["keyRotation"]["schedule"] = json!("every week"));
    assert!(
        kind == ErrorKind::ConfigInvalid && text.contains("keyRotation.schedule is not a cron schedule"),
        "{text}"
    );
    let (kind, text) = refused(|block| {
        let details = block["kms"]["connectionDetails"].as_object_mut().unwrap();
        let address = details.remove("VAULT_ADDR").unwrap();
        details.insert("VAULT_ADRR".to_owned(), address);
    });
    assert!(kind == ErrorKind::ConfigInvalid && text.contains("did you mean VAULT_ADDR"), "{text}");
}

#[test]
fn a_provider_that_cannot_replace_a_key_gets_no_job() {
    let cluster = CephClusterSpec::new(security("vault-token"));
    let options = JobOptions::new(IMAGE);
    let capability = Capability::full().with_update(Guarantee::Unsupported);
    let error = JobMaker::with_capability(&cluster, &options, capability).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("it cannot replace a key; set keyRotation.enabled to false"),
        "{error}"
    );
    // Without a connection the best case of the provider's capability counts.
    for case in CASES {
        let cluster = CephClusterSpec::new(security(case));
        let known = Provider::of(&cluster.security).unwrap().capability();
        let can = known.is_some_and(|capability| capability.update != Guarantee::Unsupported);
        assert_eq!(JobMaker::new(&cluster, &options).is_ok(), can, "{case}");
    }
}

#[test]
fn no_credential_that_stands_in_the_block_is_in_the_job() {
    let details = [
        ("KMS_PROVIDER", "vault"),
        ("VAULT_ADDR", "https://vault.example:8200"),
        ("VAULT_AUTH_METHOD", "approle"),
        ("VAULT_APPROLE_ROLE_ID", "role"),
        ("VAULT_APPROLE_SECRET_ID", "s3cr3t"),
    ];
    let cluster =
        CephClusterSpec::new(SecuritySpec::new(KmsSpec::new(ConnectionDetails::from_iter(details), "")));
    let options = JobOptions::new(IMAGE);
    let maker = JobMaker::new(&cluster, &options).unwrap();
    assert_eq!(maker.withheld(), ["VAULT_APPROLE_SECRET_ID"]);
    let job = serde_json::to_string(&maker.cron_job(&osd("vault-token"))).unwrap();
    assert!(job.contains("VAULT_APPROLE_ROLE_ID") && !job.contains("s3cr3t"), "{job}");
    assert!(!format!("{maker:?}").contains("s3cr3t"));
}

#[test]
fn the_annotations_of_the_cluster_record_the_options() {
    let text = |entries: &[(&str, &str)]| {
        entries
            .iter()
            .map(|(name, value)| (format!("kms.ceph.rook.io/{name}"), (*value).to_owned()))
            .collect()
    };
    let all = text(&[
        ("rotation-image", "registry.example.com/kms:v1"),
        ("rotation-service-account", "rook-kms-rotation"),
        ("rotation-grace", "90s"),
        ("rotation-keep-superseded", "true"),
        ("rotation-beside-rook", "true"),
    ]);
    let options = JobOptions::new("registry.example.com/kms:v1")
        .with_service_account("rook-kms-rotation")
        .with_grace(Duration::from_secs(90))
        .with_destroy_superseded(false)
        .with_naming(Naming::BesideRook);
    assert_eq!(JobOptions::of_annotations(&all).unwrap(), options);
    assert_eq!(options.annotations(), all);
    // What is empty, or of another program, sets nothing.
    let none = text(&[("rotation-image", " "), ("rotation-beside-rook", "false"), ("key-generation", "3")]);
    assert_eq!(JobOptions::of_annotations(&none).unwrap(), JobOptions::default());
    for (name, value, message) in [
        ("rotation-imgae", "x", "rotation-imgae is not known; did you mean kms.ceph.rook.io/rotation-image?"),
        ("rotation-grace", "soon", "rotation-grace is not a duration"),
        ("rotation-beside-rook", "yes", "rotation-beside-rook is "),
    ] {
        let error = JobOptions::of_annotations(&text(&[(name, value)])).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_options_of_a_cron_job_are_read_back_and_what_is_set_goes_first() {
    let read = |case: &str, options: &JobOptions| {
        let job = serde_json::from_value(made(case, options)).unwrap();
        JobOptions::of_cron_job(&job).unwrap()
    };
    let given = JobOptions::new(IMAGE).with_service_account("own").with_grace(Duration::from_secs(90));
    for case in CASES {
        assert_eq!(read(case, &JobOptions::new(IMAGE)), JobOptions::new(IMAGE), "{case}");
        assert_eq!(read(case, &given), given, "{case}");
        let destroys = matches!(case, "ibm" | "kmip");
        let other = given.clone().with_destroy_superseded(!destroys);
        assert_eq!(read(case, &other), other, "{case}");
        // A CronJob of Rook says nothing.
        let rooks = serde_json::from_value(fixture(case, "cronjob.json")).unwrap();
        assert_eq!(JobOptions::of_cron_job(&rooks), None, "{case}");
    }
    let newer = JobOptions::new("newer");
    let merged = newer.or(given.with_naming(Naming::BesideRook));
    let expected = JobOptions::new("newer").with_service_account("own").with_grace(Duration::from_secs(90));
    assert_eq!(merged, expected.with_naming(Naming::BesideRook));
}

#[test]
fn without_an_image_there_is_no_job_and_the_message_says_where_to_set_it() {
    let cluster = CephClusterSpec::new(security("default"));
    for options in [JobOptions::default(), JobOptions::new("")] {
        let error = JobMaker::new(&cluster, &options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        let text = error.to_string();
        assert!(text.contains("kms.ceph.rook.io/rotation-image=") && text.contains("--image"), "{text}");
    }
}
