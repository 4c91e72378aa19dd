//! The OSDs in the Deployments that Rook's operator has printed.

use crate::common::{CASES, changed, deployment};
use k8s_openapi::api::apps::v1::Deployment;
use kms_core::{ErrorKind, KeyName};
use kms_rook::discover;
use serde_json::{Value, json};

#[test]
fn every_osd_is_found_with_its_devices() {
    let all: Vec<Deployment> = CASES.iter().rev().map(|case| deployment(case)).collect();
    let found = discover(&all);
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    let osds: Vec<_> = found
        .osds
        .iter()
        .map(|osd| (osd.id, osd.name.as_str(), osd.metadata_pvc.as_deref(), osd.wal_pvc.as_deref()))
        .collect();
    let (metadata, wal) = (Some("set1-metadata-0m"), Some("set1-wal-0w"));
    assert_eq!(
        osds,
        [
            (0, "set1-data-0a7dwll", None, None),
            (1, "set1-data-0b7dwll", None, None),
            (2, "set1-data-0c7dwll", metadata, None),
            (3, "set1-data-0d7dwll", metadata, wal),
            (4, "set1-data-0e7dwll", None, None),
            (5, "set1-data-0f7dwll", None, None),
            (6, "set1-data-0g7dwll", None, None),
        ]
    );
    for osd in found.osds {
        assert_eq!(osd.kube_namespace, "rook-ceph");
        assert_eq!(osd.deployment, format!("rook-ceph-osd-{}", osd.id));
        assert_eq!(osd.bridge, format!("/var/lib/rook/rook-ceph/{}/ceph-{}", osd.name, osd.id));
    }
}

fn without(list: &mut Value, name: &str) {
    list.as_array_mut().unwrap().retain(|entry| entry["name"] != name);
}

type Change = fn(&mut Value);

#[test]
fn an_unparsable_deployment_is_reported_and_does_not_block_the_others() {
    let cases: [(&str, Change); 12] = [
        ("its label ceph.rook.io/pvc is empty or missing", |it| {
            it["metadata"]["labels"]["ceph.rook.io/pvc"] = json!("")
        }),
        ("its label ceph-osd-id is not a number", |it| it["metadata"]["labels"]["ceph-osd-id"] = json!("x")),
        ("its label ceph-osd-id says 9, but it runs the OSD 3", |it| {
            it["metadata"]["labels"]["ceph-osd-id"] = json!("9");
        }),
        ("its label ceph.rook.io/pvc says other, but its data is on the PVC set1-data-0d7dwll", |it| {
            it["metadata"]["labels"]["ceph.rook.io/pvc"] = json!("other");
        }),
        ("it has no init container blkdevmapper", |it| {
            let init = &mut it["spec"]["template"]["spec"]["initContainers"];
            without(init, "blkdevmapper");
            without(init, "encryption-open");
        }),
        ("it is encrypted and has an init container blkdevmapper, but no encryption-open", |it| {
            without(&mut it["spec"]["template"]["spec"]["initContainers"], "encryption-open");
        }),
        ("it has an init container encryption-open-wal, but no blkdevmapper-wal", |it| {
            without(&mut it["spec"]["template"]["spec"]["initContainers"], "blkdevmapper-wal");
        }),
        ("the device of its init container blkdevmapper-metadata is not on a PVC", |it| {
            without(&mut it["spec"]["template"]["spec"]["volumes"], "set1-metadata-0m");
        }),
        ("its volume set1-data-0d7dwll-bridge is not a folder of the host", |it| {
            without(&mut it["spec"]["template"]["spec"]["volumes"], "set1-data-0d7dwll-bridge");
        }),
        ("its selector has no ceph-osd-id", |it| {
            it["spec"]["selector"] = json!({"matchLabels": {"app": "rook-ceph-osd"}})
        }),
        ("it has no pod template", |it| drop(it["spec"]["template"].as_object_mut().unwrap().remove("spec"))),
        ("its init container blkdevmapper-wal has not exactly one device", |it| {
            let init = it["spec"]["template"]["spec"]["initContainers"].as_array_mut().unwrap();
            init.iter_mut().find(|it| it["name"] == "blkdevmapper-wal").unwrap()["volumeDevices"] = json!([]);
        }),
    ];
    for (message, change) in cases {
        let found = discover(&[deployment("default"), changed("vault-tls", change), deployment("azure")]);
        assert_eq!(found.osds.iter().map(|osd| osd.id).collect::<Vec<_>>(), [0, 6], "{message}");
        let [fault] = found.faults.as_slice() else { panic!("{message}: {:?}", found.faults) };
        assert_eq!(fault.deployment, "rook-ceph-osd-3");
        assert!(fault.osd_id.is_some(), "{message}");
        let text = fault.error.to_string();
        assert!(text.contains(message) && text.contains("deployment: rook-ceph-osd-3"), "{text}");
    }
}

#[test]
fn two_deployments_of_one_osd_are_a_fault_of_both() {
    let twin = changed("default", |it| it["metadata"]["name"] = json!("copy"));
    let found = discover(&[deployment("default"), twin, deployment("azure")]);
    assert_eq!(found.osds.len(), 1);
    let names: Vec<_> = found.faults.iter().map(|fault| (fault.deployment.as_str(), fault.osd_id)).collect();
    assert_eq!(names, [("rook-ceph-osd-0", Some(0)), ("copy", Some(0))]);
    assert!(found.faults[0].error.to_string().contains("several Deployments belong to the OSD 0"));
}

#[test]
fn an_osd_is_encrypted_if_anything_says_so() {
    let plain: Change = |it| {
        it["metadata"]["labels"]["encrypted"] = json!("false");
        let init = &mut it["spec"]["template"]["spec"]["initContainers"];
        without(init, "encryption-open");
    };
    let found = discover(&[changed("default", plain)]);
    assert_eq!((found.osds.len(), found.plain, found.faults.len()), (0, 1, 0));
    // Its label is lost or wrong (field-reports UP-100).
    let lost: Change = |it| drop(it["metadata"]["labels"].as_object_mut().unwrap().remove("encrypted"));
    let wrong: Change = |it| it["metadata"]["labels"]["encrypted"] = json!("false");
    for change in [lost, wrong] {
        assert_eq!(discover(&[changed("default", change)]).osds.len(), 1);
    }
}

#[test]
fn deployments_that_are_not_of_an_osd_on_a_pvc_are_skipped() {
    let on_host: Change =
        |it| drop(it["metadata"]["labels"].as_object_mut().unwrap().remove("ceph.rook.io/pvc"));
    let other: Change = |it| it["metadata"]["labels"]["app"] = json!("rook-ceph-mon");
    for change in [on_host, other] {
        let found = discover(&[changed("default", change)]);
        assert_eq!((found.osds.len(), found.plain, found.faults.len()), (0, 0, 0));
    }
}

#[test]
fn a_list_of_devices_is_compared_with_the_deployment() {
    let name = |text: &str| KeyName::new(text).unwrap();
    let all: Vec<Deployment> = CASES.iter().map(|case| deployment(case)).collect();
    let found = discover(&all);
    for (key, devices) in [("set1-data-0a7dwll", 1), ("set1-data-0c7dwll", 2), ("set1-data-0d7dwll", 3)] {
        let osd = found.osd_of(&name(key), None).unwrap().unwrap();
        for named in 1..=3 {
            let checked = osd.check_devices(named);
            assert_eq!(checked.is_ok(), named == devices, "{key} {named}");
        }
    }
    let osd = found.osd_of(&name("set1-data-0d7dwll"), Some(3)).unwrap().unwrap();
    let text = osd.check_devices(1).unwrap_err().to_string();
    assert!(text.contains("has 3 devices") && text.contains("and 1 are named"), "{text}");
    assert!(
        text.contains("metadata on the PVC set1-metadata-0m, write-ahead log on the PVC set1-wal-0w"),
        "{text}"
    );
    assert!(found.osd_of(&name("unknown"), None).unwrap().is_none());
}

#[test]
fn an_osd_whose_deployment_cannot_be_understood_has_no_known_devices() {
    let name = KeyName::new("set1-data-0d7dwll").unwrap();
    let broken = changed("vault-tls", |it| {
        without(&mut it["spec"]["template"]["spec"]["initContainers"], "encryption-open-wal");
    });
    let found = discover(&[deployment("default"), broken]);
    for id in [None, Some(3)] {
        let error = found.osd_of(&name, id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains("but no encryption-open-wal; repair the Deployment"), "{error}");
    }
    // A fault of one OSD says nothing of another OSD.
    assert!(found.osd_of(&name, Some(4)).unwrap().is_none());
    assert!(found.osd_of(&KeyName::new("set1-data-0a7dwll").unwrap(), None).unwrap().is_some());
    // Two Deployments with one key.
    let twin = changed("vault-tls", |it| {
        it["metadata"]["name"] = json!("rook-ceph-osd-9");
        let text = it.to_string().replace("\"3\"", "\"9\"").replace("ceph-3", "ceph-9");
        *it = serde_json::from_str(&text).unwrap();
    });
    let found = discover(&[deployment("vault-tls"), twin]);
    assert_eq!(found.osds.len(), 2, "{:?}", found.faults);
    let text = found.osd_of(&name, None).unwrap_err().to_string();
    assert!(text.contains("rook-ceph-osd-3, rook-ceph-osd-9"), "{text}");
}
