//! The requests of this crate on a real API server, and how the crate handles the responses.

use std::{collections::BTreeSet, time::SystemTime};

use crate::common::{ADMIN_TOKEN, Place, kek, key, rook_secret};
use futures_util::TryStreamExt;
use kms_conformance::leak::{self, Canary};
use kms_core::{
    DeleteMode, ErrorKind, Existing, ExposeSecret, Freshness, Kek, KeyIndex, KeyVersion, KmsProvider,
    KmsProviderExt, PutMode, Retry, SecretSource, UpdateRight, provider::Deleted,
};
use kms_k8s_secret::{IdentifierStore, KMIP_ANNOTATION, KubernetesSecretBuilder, secret_name};
use kms_kube::{ConnectOptions, KubernetesSecretSource, Owner, ceph_cluster, connect};
use kms_testkit::servers::wait;
use serde_json::{Value, json};

async fn names(provider: &dyn KmsProvider) -> BTreeSet<String> {
    let listed: Vec<_> = provider.list().try_collect().await.unwrap();
    listed.into_iter().map(|info| info.name.to_string()).collect()
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_secret_that_rook_wrote_is_read_updated_listed_and_deleted() {
    let place = Place::new().await;
    let provider = place.admin().await;
    place.create(rook_secret("set1-data-0x7dwl", "cm9vaw==")).await;

    let name = key("set1-data-0x7dwl");
    let stored = provider.get(&name, Freshness::Any).await.unwrap();
    assert_eq!(stored.kek.expose_secret_text().unwrap(), "cm9vaw==");
    assert!(stored.created.unwrap() <= stored.updated.unwrap());
    let raw = place.secret("rook-ceph-osd-encryption-key-set1-data-0x7dwl").await;
    assert_eq!(raw["metadata"]["resourceVersion"], stored.version.as_str());

    let listed: Vec<_> = provider.list().try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].name, listed[0].version.as_ref()), (&name, Some(&stored.version)));
    assert_eq!(listed[0].created, stored.created);

    let version = provider.put(&name, &kek("bmV3"), PutMode::Update(stored.version.clone())).await.unwrap();
    let mut after = place.secret("rook-ceph-osd-encryption-key-set1-data-0x7dwl").await;
    assert_eq!(after["metadata"]["resourceVersion"], version.as_str());
    assert_eq!(after["data"], json!({"dmcrypt-key": "Ym1WMw=="}));
    // Only the value, the version and the writer have changed.
    let mut before = raw;
    for secret in [&mut before, &mut after] {
        secret["metadata"]
            .as_object_mut()
            .unwrap()
            .retain(|key, _| key != "resourceVersion" && key != "managedFields");
        secret.as_object_mut().unwrap().remove("data");
    }
    assert_eq!(before, after);

    assert_eq!(provider.delete(&name, DeleteMode::Destroy).await.unwrap(), Deleted::Destroyed);
    assert_eq!(provider.get(&name, Freshness::Any).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_hundred_reads_and_writes_are_one_connection_which_is_closed_when_idle() {
    let place = Place::new().await;
    let (relay, connection) = place.through_a_relay().await;
    let provider = KubernetesSecretBuilder::new().with_client(connection).build().await.unwrap();
    for number in 0..50 {
        let name = key(&format!("set1-data-{number}"));
        provider.put(&name, &kek("QUJD"), PutMode::Create).await.unwrap();
        provider.get(&name, Freshness::Fresh).await.unwrap();
    }
    assert_eq!(relay.accepted(), 1);
    let closed = "the end of the idle connection";
    wait::until(closed, wait::START, async || Ok((relay.open() == 0).then_some(()))).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn what_is_created_is_what_rook_writes_field_by_field() {
    let place = Place::new().await;
    let uid = place.namespace.create_ceph_cluster("rook-ceph", json!({})).await.unwrap();
    let mut rooks = rook_secret("by-rook", "cm9vaw==");
    rooks["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "ceph.rook.io/v1",
        "kind": "CephCluster",
        "name": "rook-ceph",
        "uid": uid,
        "controller": true,
        "blockOwnerDeletion": true,
    }]);
    place.create(rooks).await;

    let connection = place.connection(ADMIN_TOKEN).await;
    let info = ceph_cluster(connection.clone(), place.namespace.name(), "rook-ceph").await.unwrap();
    let owner = info.reference.unwrap().owner().unwrap();
    assert_eq!(owner, Owner::new("rook-ceph", &uid));
    let provider =
        KubernetesSecretBuilder::new().with_client(connection).with_owner(owner).build().await.unwrap();
    let version = provider.put(&key("by-us"), &kek("cm9vaw=="), PutMode::Create).await.unwrap();

    let mut rooks = place.secret("rook-ceph-osd-encryption-key-by-rook").await;
    let mut ours = place.secret("rook-ceph-osd-encryption-key-by-us").await;
    assert_eq!(ours["metadata"]["resourceVersion"], version.as_str());
    for secret in [&mut rooks, &mut ours] {
        let metadata = secret["metadata"].as_object_mut().unwrap();
        for own in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            assert!(metadata.remove(own).is_some(), "{own}");
        }
    }
    let renamed: Value = serde_json::from_str(&ours.to_string().replace("by-us", "by-rook")).unwrap();
    assert_eq!(renamed, rooks);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn the_account_of_an_osd_reads_and_rotates_and_learns_what_it_may_not() {
    let place = Place::new().await;
    let token = place.namespace.create_osd_account().await.unwrap();
    let osd = place.provider(&token).await;
    place.create(rook_secret("set1", "cm9vaw==")).await;

    let stored = osd.get(&key("set1"), Freshness::Fresh).await.unwrap();
    osd.put(&key("set1"), &kek("bmV3"), PutMode::Update(stored.version)).await.unwrap();
    osd.put(&key("set1"), &kek("bmV3ZXI="), PutMode::Overwrite).await.unwrap();

    let account = format!("system:serviceaccount:{}:rook-ceph-osd", place.namespace.name());
    let refusals = [
        ("create", osd.put(&key("other"), &kek("eA=="), PutMode::Create).await.map(drop).unwrap_err()),
        ("create", osd.put(&key("other"), &kek("eA=="), PutMode::Overwrite).await.map(drop).unwrap_err()),
        ("delete", osd.delete(&key("set1"), DeleteMode::Destroy).await.map(drop).unwrap_err()),
        ("list", osd.list().try_next().await.map(drop).unwrap_err()),
    ];
    for (verb, error) in refusals {
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::PermissionDenied, Retry::Never), "{error}");
        let text = error.to_string();
        let what = format!("{account} may not {verb} secrets in namespace {}", place.namespace.name());
        assert!(text.contains(&what), "{text}");
        // A rule for one name is enough for a delete.
        let names = if verb == "delete" { "resourceNames: [\"" } else { "verbs: [\"" };
        let rule = format!("{{apiGroups: [\"\"], resources: [\"secrets\"], {names}");
        assert!(text.contains(&rule) && text.contains(&format!("verbs: [\"{verb}\"]}}")), "{text}");
    }
    // field-reports UP-83: the probe passes with `get` alone, and reports each missing right.
    let probe = osd.probed().await;
    assert!(probe.failed.is_none() && probe.cannot_destroy, "{probe:?}");
    let said = format!("{probe:?}");
    for what in [
        &format!("as {account}"),
        "Kubernetes v1",
        "get secrets: yes",
        "update secrets: yes",
        "may not create secrets in namespace",
        "so no key can be created: add the verb to its Role",
        "may not list secrets in namespace",
    ] {
        assert!(said.contains(what), "{what}: {said}");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_role_for_secrets_of_given_names_is_enough() {
    let place = Place::new().await;
    place.namespace.create_service_account("narrow").await.unwrap();
    // The helper waits for the first rule only; both come into effect together.
    let names = [secret_name(&key("set1")), secret_name(&key("set2"))];
    let rules = json!([
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": names},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["update"], "resourceNames": [names[0]]},
    ]);
    place.namespace.grant("narrow", &rules).await.unwrap();
    let provider = place.provider(&place.namespace.create_token("narrow", &[]).await.unwrap()).await;
    place.create(rook_secret("set1", "cm9vaw==")).await;
    provider.get(&key("set1"), Freshness::Any).await.unwrap();
    let probe = provider.probed().await;
    assert!(probe.failed.is_none(), "{probe:?}");
    assert!(format!("{probe:?}").contains("get secrets: only those of 2 given names"), "{probe:?}");

    let rights = provider.may_update(&[key("set1"), key("set2")]).await.unwrap();
    assert_eq!(rights, [UpdateRight::Granted, UpdateRight::Denied]);

    place.namespace.create_service_account("no-rights").await.unwrap();
    let denied = place.provider(&place.namespace.create_token("no-rights", &[]).await.unwrap()).await;
    let probe = denied.probed().await;
    let (step, error) = probe.failed.unwrap();
    assert_eq!((step, error.kind()), ("permissions", ErrorKind::PermissionDenied));
    assert!(error.to_string().contains("verbs: [\"get\"]"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn of_two_writers_with_one_version_one_wins() {
    let place = Place::new().await;
    let writers = [place.admin().await, place.admin().await];
    let name = key("contested");
    let mut version = writers[0].put(&name, &kek("Zmlyc3Q="), PutMode::Create).await.unwrap();
    for _ in 0..20 {
        let keks = [Kek::generate().unwrap(), Kek::generate().unwrap()];
        let put = |who: usize| writers[who].put(&name, &keks[who], PutMode::Update(version.clone()));
        let (one, other) = tokio::join!(put(0), put(1));
        let (winner, won, lost) = match (one, other) {
            (Ok(won), Err(lost)) => (0, won, lost),
            (Err(lost), Ok(won)) => (1, won, lost),
            both => panic!("{both:?}"),
        };
        assert_eq!((lost.kind(), lost.retryable()), (ErrorKind::Conflict, Retry::Never), "{lost}");
        let stored = writers[0].get(&name, Freshness::Fresh).await.unwrap();
        assert!(stored.kek.ct_eq(&keks[winner]));
        assert_eq!(stored.version, won);
        version = won;
    }
    // Every overwrite succeeds, and the server still refuses a stale version.
    let last = kek("b3ZlcndyaXR0ZW4=");
    let overwrites = (0..8).map(|at| writers[at % 2].put(&name, &last, PutMode::Overwrite));
    futures_util::future::try_join_all(overwrites).await.unwrap();
    let error = writers[0].put(&name, &kek("eA=="), PutMode::Update(version)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let gone = writers[0].put(&key("gone"), &kek("eA=="), PutMode::Update(KeyVersion::new("1"))).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn what_others_keep_in_the_secret_survives() {
    let place = Place::new().await;
    let provider = place.admin().await;
    let mut secret = rook_secret("shared", "cm9vaw==");
    secret["stringData"]["other"] = json!("kept");
    secret["metadata"]["labels"]["team"] = json!("storage");
    secret["metadata"]["annotations"] = json!({"note": "kept", "kms.example.com/x": "y"});
    secret["metadata"]["finalizers"] = json!(["example.com/hold"]);
    place.create(secret).await;
    let before = place.secret("rook-ceph-osd-encryption-key-shared").await;

    let version = provider.get(&key("shared"), Freshness::Any).await.unwrap().version;
    provider.put(&key("shared"), &kek("bmV3"), PutMode::Update(version)).await.unwrap();
    provider.put(&key("shared"), &kek("bmV3ZXI="), PutMode::Overwrite).await.unwrap();
    let after = place.secret("rook-ceph-osd-encryption-key-shared").await;
    assert_eq!(after["data"], json!({"dmcrypt-key": "Ym1WM1pYST0=", "other": "a2VwdA=="}));
    for part in ["labels", "annotations", "finalizers", "uid"] {
        assert_eq!(after["metadata"][part], before["metadata"][part], "{part}");
    }

    // A finalizer holds the Secret back, so the delete must not report that the Secret is gone.
    let error = provider.delete(&key("shared"), DeleteMode::Destroy).await.unwrap_err();
    assert!(error.to_string().contains("finalizers: example.com/hold"), "{error}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn names_of_every_length_and_kind_work_and_are_listed() {
    let place = Place::new().await;
    let provider = place.admin().await;
    let lengths = [1, 63, 64, 65, 223, 224, 225, 252, 253].map(|length| "n".repeat(length));
    let others = ["Upper", "upper", "under_score", "a..b", "a-.b", "dots.in.it", "x-0123456789abcdef"];
    let all: BTreeSet<String> = lengths.into_iter().chain(others.map(str::to_owned)).collect();
    for name in &all {
        provider.put(&key(name), &kek(name), PutMode::Create).await.unwrap();
    }
    for name in &all {
        let stored = provider.get(&key(name), Freshness::Any).await.unwrap();
        assert_eq!(stored.kek.expose_secret_text().unwrap(), name.as_str());
        let version = provider.put(&key(name), &kek("bmV3"), PutMode::Update(stored.version)).await.unwrap();
        assert_eq!(provider.get(&key(name), Freshness::Any).await.unwrap().version, version);
    }
    assert_eq!(names(&*provider).await, all);
    for name in &all {
        provider.delete(&key(name), DeleteMode::Destroy).await.unwrap();
    }
    assert!(names(&*provider).await.is_empty());

    // Two names with the same hash would share one Secret; the annotation tells them apart.
    let secret = secret_name(&key("Upper"));
    let mut taken = rook_secret("other", "cm9vaw==");
    taken["metadata"]["name"] = json!(secret);
    taken["metadata"]["annotations"] = json!({"kms.ceph.rook.io/pvc-name": "Other"});
    place.create(taken).await;
    let name = key("Upper");
    let error = provider.get(&name, Freshness::Any).await.unwrap_err();
    assert!(error.to_string().contains("its annotation names another key"), "{error}");
    let error = provider.put(&name, &kek("eA=="), PutMode::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(Existing::Unknown)));
    assert!(provider.put(&name, &kek("eA=="), PutMode::Overwrite).await.is_err());
    assert!(provider.delete(&name, DeleteMode::Destroy).await.is_err());
    assert!(names(&*provider).await.is_empty());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_secret_of_another_type_or_meaning_is_left_alone() {
    let place = Place::new().await;
    let provider = place.admin().await;
    let mut opaque = rook_secret("opaque", "cm9vaw==");
    opaque["type"] = json!("Opaque");
    place.create(opaque).await;
    let mut kmip = rook_secret("kmip", "42");
    kmip["metadata"]["annotations"] = json!({KMIP_ANNOTATION: "42"});
    place.create(kmip).await;

    for name in ["opaque", "kmip"] {
        let raw = place.secret(&secret_name(&key(name))).await;
        let version = KeyVersion::new(raw["metadata"]["resourceVersion"].as_str().unwrap());
        let refusals = [
            provider.put(&key(name), &kek("eA=="), PutMode::Overwrite).await.map(drop),
            provider.put(&key(name), &kek("eA=="), PutMode::Update(version)).await.map(drop),
            provider.delete(&key(name), DeleteMode::Destroy).await.map(drop),
        ];
        for refusal in refusals {
            assert_eq!(refusal.unwrap_err().kind(), ErrorKind::Protocol);
        }
        let error = provider.put(&key(name), &kek("cm9vaw=="), PutMode::Create).await.unwrap_err();
        let existing = if name == "opaque" { Existing::Same } else { Existing::Unknown };
        assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(existing)));
        assert_eq!(place.secret(&secret_name(&key(name))).await, raw);
    }
    // A Secret that was restored by hand opens its device; an identifier on a KMIP server opens no device.
    let stored = provider.get(&key("opaque"), Freshness::Any).await.unwrap();
    assert_eq!(stored.kek.expose_secret_text().unwrap(), "cm9vaw==");
    let error = provider.get(&key("kmip"), Freshness::Any).await.unwrap_err();
    assert!(error.to_string().contains("KMIP"), "{error}");
    assert!(names(&*provider).await.is_empty());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn broken_and_immutable_secrets_are_explained() {
    let place = Place::new().await;
    let provider = place.admin().await;
    place.create(rook_secret("empty", "")).await;
    let error = provider.get(&key("empty"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("secret: rook-ceph-osd-encryption-key-empty"), "{error}");
    // A line break at the end is part of the passphrase of the device that was formatted with it.
    place.create(rook_secret("line", "cm9vaw==\n")).await;
    let stored = provider.get(&key("line"), Freshness::Any).await.unwrap();
    assert_eq!(stored.kek.expose_secret_text().unwrap(), "cm9vaw==\n");
    let mut frozen = rook_secret("frozen", "cm9vaw==");
    frozen["immutable"] = json!(true);
    place.create(frozen).await;
    let stored = provider.get(&key("frozen"), Freshness::Any).await.unwrap();
    // A rotation hears of it before it writes to a device; so does a dry run.
    let mut foreign = rook_secret("foreign", "cm9vaw==");
    foreign["type"] = json!("Opaque");
    place.create(foreign).await;
    let rights = provider.may_update(&["frozen", "foreign", "line", "absent"].map(key)).await.unwrap();
    let (denied, granted) = (UpdateRight::Denied, UpdateRight::Granted);
    assert_eq!(rights, [denied, denied, granted, granted]);
    let error =
        provider.put(&key("frozen"), &kek("eA=="), PutMode::Update(stored.version)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.to_string().contains("without immutable: true"), "{error}");
    provider.delete(&key("frozen"), DeleteMode::Destroy).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_missing_and_a_dying_namespace_are_told_apart() {
    let place = Place::new().await;
    let connection = place.connection(ADMIN_TOKEN).await;
    let missing = KubernetesSecretBuilder::new()
        .with_client(connection)
        .with_kube_namespace("no-such-namespace")
        .build()
        .await
        .unwrap();
    let error = missing.put(&key("a"), &kek("eA=="), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("the namespace does not exist (namespace: no-such-namespace"),
        "{error}"
    );

    let provider = place.admin().await;
    let path = format!("/api/v1/namespaces/{}", place.namespace.name());
    place.namespace.call("DELETE", &path, Value::Null).await.unwrap();
    let error = provider.put(&key("a"), &kek("eA=="), PutMode::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::Never));
    assert!(error.to_string().contains("the namespace is being deleted"), "{error}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn secrets_of_the_settings_are_read() {
    let place = Place::new().await;
    let source =
        KubernetesSecretSource::new(place.connection(ADMIN_TOKEN).await, place.namespace.name()).unwrap();
    place.namespace.create_secret("vault-token", &[("token", "s.abc\n"), ("empty", "")]).await.unwrap();
    let secret = source.secret("vault-token").await.unwrap();
    assert_eq!(secret.text("token").unwrap().expose_secret(), "s.abc");
    assert_eq!(secret.bytes("token").unwrap(), b"s.abc\n");
    assert!(secret.bytes("empty").unwrap_err().to_string().contains("is empty"));

    let error = source.secret("nosuch").await.unwrap_err();
    let text = format!("Secret \"nosuch\" was not found in namespace {:?}", place.namespace.name());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&text), "{error}");
    assert_eq!(source.secret("../nosuch").await.unwrap_err().kind(), ErrorKind::ConfigInvalid);

    place.namespace.create_service_account("no-rights").await.unwrap();
    let token = place.namespace.create_token("no-rights", &[]).await.unwrap();
    let denied = KubernetesSecretSource::new(place.connection(&token).await, place.namespace.name()).unwrap();
    let error = denied.secret("vault-token").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("may not get secrets"), "{error}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_ceph_cluster_is_read() {
    let place = Place::new().await;
    let namespace = place.namespace.name();
    let connection = place.connection(ADMIN_TOKEN).await;
    let security = json!({
        "kms": {"connectionDetails": {"KMS_PROVIDER": "vault", "VAULT_ADDR": "https://v"}, "tokenSecretName": "t"},
        "keyRotation": {"enabled": true, "schedule": "@daily"},
    });
    let uid = place.namespace.create_ceph_cluster("one", security).await.unwrap();
    let info = ceph_cluster(connection.clone(), namespace, "one").await.unwrap();
    let reference = info.reference.unwrap();
    assert_eq!(
        (reference.owner(), reference.kube_namespace.as_str()),
        (Some(Owner::new("one", uid)), namespace)
    );
    assert_eq!(info.spec.security.kms.connection_details.get("KMS_PROVIDER"), Some("vault"));
    assert_eq!(info.spec.security.kms.token_secret_name, "t");
    assert!(info.spec.security.key_rotation.enabled);

    for (name, security) in [("two", Value::Null), ("three", json!({"kms": null, "keyRotation": null}))] {
        place.namespace.create_ceph_cluster(name, security).await.unwrap();
        let info = ceph_cluster(connection.clone(), namespace, name).await.unwrap();
        assert!(info.spec.security.kms.connection_details.is_empty());
    }

    let error = ceph_cluster(connection.clone(), namespace, "nosuch").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("CephCluster \"nosuch\" was not found in namespace"), "{error}");
    let token = place.namespace.create_osd_account().await.unwrap();
    let error = ceph_cluster(place.connection(&token).await, namespace, "one").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(
        error.to_string().contains("apiGroups: [\"ceph.rook.io\"], resources: [\"cephclusters\"]"),
        "{error}"
    );
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_new_token_in_the_file_is_used_at_once() {
    let place = Place::new().await;
    let token = place.namespace.create_osd_account().await.unwrap();
    let (path, file) = (place.folder.path().join("kubeconfig"), place.folder.path().join("token"));
    place.kube.write_kubeconfig(&path, place.namespace.name(), "unused-since-a-file-wins").unwrap();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["users"][0]["user"]["tokenFile"] = json!("token");
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::write(&file, format!("{token}\n")).unwrap();
    place.create(rook_secret("set1", "cm9vaw==")).await;

    let provider = KubernetesSecretBuilder::new().with_kubeconfig(path).build().await.unwrap();
    provider.get(&key("set1"), Freshness::Any).await.unwrap();
    std::fs::write(&file, "expired").unwrap();
    let error = provider.get(&key("set1"), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unauthenticated, Retry::Never), "{error}");
    std::fs::write(&file, place.namespace.create_token("rook-ceph-osd", &[]).await.unwrap()).unwrap();
    provider.get(&key("set1"), Freshness::Any).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_server_of_another_ca_and_a_stranger_are_refused() {
    let place = Place::new().await;
    let path = place.folder.path().join("kubeconfig");
    place.kube.write_kubeconfig(&path, place.namespace.name(), ADMIN_TOKEN).unwrap();
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();

    let other_ca = kms_testkit::servers::Pki::new().unwrap().bad_ca.cert;
    let ca = place.folder.path().join("other-ca.crt");
    std::fs::write(&ca, other_ca).unwrap();
    let mut wrong = config.clone();
    wrong["clusters"][0]["cluster"]["certificate-authority"] = json!(ca);
    std::fs::write(&path, wrong.to_string()).unwrap();
    let provider = KubernetesSecretBuilder::new().with_kubeconfig(&path).build().await.unwrap();
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::ConfigInvalid, Retry::Never), "{error}");
    assert!(error.to_string().contains("certificate-authority"), "{error}");
    let probe = provider.probed().await;
    assert_eq!(probe.failed.unwrap().0, "tls");
    assert_eq!(probe.not_run, ["connect", "login", "permissions"]);

    let mut stranger = config;
    stranger["users"][0]["user"] = json!({});
    std::fs::write(&path, stranger.to_string()).unwrap();
    let connection = connect(ConnectOptions::new().with_kubeconfig(&path)).await.unwrap();
    let provider = KubernetesSecretBuilder::new().with_client(connection).build().await.unwrap();
    let error = provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.to_string().contains("no credentials were presented"), "{error}");
    assert_eq!(provider.probed().await.failed.unwrap().0, "login");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn times_are_those_of_the_server() {
    let place = Place::new().await;
    let provider = place.admin().await;
    let before = SystemTime::now() - std::time::Duration::from_secs(2);
    provider.put(&key("a"), &kek("eA=="), PutMode::Create).await.unwrap();
    let stored = provider.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(stored.created.unwrap() >= before && stored.created == stored.updated, "{stored:?}");
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn a_policy_is_quoted_unless_it_quotes_the_kek() {
    let place = Place::new().await;
    let provider = place.admin().await;
    let (name, admission) = (place.namespace.name(), "/apis/admissionregistration.k8s.io/v1");
    let policy = json!({
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["secrets"], "operations": ["CREATE", "UPDATE"],
            }]},
            "validations": [
                {"expression": "!object.metadata.name.endsWith('-owner')", "message": "it needs an owner"},
                {
                    "expression": "!object.metadata.name.endsWith('-quoted')",
                    "messageExpression": "'not this one: ' + string(object.data['dmcrypt-key'])",
                },
            ],
        },
    });
    let binding = json!({
        "metadata": {"name": name},
        "spec": {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}},
        },
    });
    for (resource, object) in
        [("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding)]
    {
        place.namespace.call("POST", &format!("{admission}/{resource}"), object).await.unwrap();
    }
    // A policy comes into effect a moment after it was made.
    let error = wait::until("the policy", wait::START, async || {
        match provider.put(&key("an-owner"), &kek("eA=="), PutMode::Create).await {
            Err(error) if error.kind() == ErrorKind::ConfigInvalid => Ok(Some(error)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Ok(_) => {
                provider.delete(&key("an-owner"), DeleteMode::Destroy).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
    .unwrap();
    assert!(error.to_string().contains("denied request: it needs an owner"), "{error}");

    let secret = Kek::generate().unwrap();
    let error = provider.put(&key("a-quoted"), &secret, PutMode::Create).await.unwrap_err();
    assert!(error.to_string().contains("the API server finds the object invalid (namespace"), "{error}");
    let canary = Canary::new("the KEK", secret.expose_secret_text().unwrap());
    assert_eq!(canary.found_in(&leak::shown_error(&error)), None);
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn identifiers_are_kept_beside_keks_and_never_taken_for_them() {
    let place = Place::new().await;
    let provider = place.admin().await;
    let connection = place.connection(ADMIN_TOKEN).await;
    let store = IdentifierStore::new(connection, provider.kube_namespace()).unwrap();
    let (name, long) = (key("a"), key(&"L".repeat(200)));
    assert!(store.get(&name).await.unwrap().is_none());
    let first = store.create(&name, "42").await.unwrap();
    assert_eq!(store.create(&name, "43").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let second = store.swap(&name, &first, "42").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.swap(&name, &first, "43").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.delete(&name, &first).await.unwrap_err().kind(), ErrorKind::Conflict);
    store.create(&long, "44").await.unwrap();
    place.create(rook_secret("rooks", "45")).await;
    provider.put(&key("kek"), &kek("eA=="), PutMode::Create).await.unwrap();

    // The store reads Rook's Secrets, but lists only the Secrets that are marked.
    assert_eq!(store.get(&key("rooks")).await.unwrap().unwrap().uid.as_str(), "45");
    let listed: Vec<_> = store.list().await.unwrap();
    let mut listed: Vec<_> = listed.iter().map(|(name, entry)| (name.clone(), entry.uid.as_str())).collect();
    listed.sort();
    assert_eq!(listed, [(long.clone(), "44"), (name.clone(), "42")]);
    assert_eq!(names(&*provider).await, BTreeSet::from(["kek".to_owned(), "rooks".to_owned()]));
    assert!(provider.get(&name, Freshness::Any).await.is_err());

    store.delete(&name, &second).await.unwrap();
    assert_eq!(store.delete(&name, &second).await.unwrap_err().kind(), ErrorKind::NotFound);
}
