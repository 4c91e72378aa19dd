//! Tests of requests, stored keys, owners of keys, and deleted keys.

use std::{collections::BTreeSet, time::Duration};

use crate::common::{Setup, kek, key, names, quick};
use kms_core::{
    DeleteMode, ErrorKind, Existing, Freshness, Kek, KeyState, KeyVersion, KmsProvider, KmsProviderExt,
    PutMode,
};
use kms_testkit::{
    fake::ibmkp::{API_KEY, Action, Destroyed, Host, INSTANCE, IbmKp, Key, RequestFault},
    warnings::warnings,
};

const ROOKS: &str = "a-KEK-of-rook+/==";

/// A KEK of Rook's form.
fn rooks() -> String {
    Kek::generate().unwrap().expose_secret_text().unwrap().to_owned()
}

#[tokio::test]
async fn a_delete_by_a_fresh_client_looks_for_the_key_and_for_older_ones_first() {
    let double = IbmKp::start().await.unwrap();
    let name = key("a");
    Setup::on(&double).build().await.put(&name, &kek(&rooks()), PutMode::Create).await.unwrap();
    double.forget();
    let provider = Setup::on(&double).build().await;
    provider.delete(&name, DeleteMode::Destroy).await.unwrap();
    // The look, the search and its end, the alias, and the key.
    assert_eq!(double.counts().keys.requests, 5);
}

#[tokio::test]
async fn requests_are_those_of_rook_byte_for_byte() {
    let double = IbmKp::start().await.unwrap();
    let provider = Setup::on(&double).set("IBM_KP_KEY_RING", "default").build().await;
    let text = rooks();
    let version = provider.put(&key("set1-data-0x7dwl"), &kek(&text), PutMode::Create).await.unwrap();
    provider.get(&key("set1-data-0x7dwl"), Freshness::Any).await.unwrap();
    provider.delete(&key("set1-data-0x7dwl"), DeleteMode::Destroy).await.unwrap();
    let requests = double.requests();

    let tokens = double.requests_to(Host::Tokens);
    let iam = tokens.first().unwrap();
    assert_eq!(iam.line(), "POST /identity/token");
    assert_eq!(
        iam.text(),
        format!("grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey={API_KEY}")
    );
    assert_eq!(iam.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(iam.header("accept"), Some("application/json"));

    let post = requests.iter().find(|request| request.line() == "POST /api/v2/keys").unwrap();
    assert_eq!(
        post.text(),
        format!(
            r#"{{"metadata":{{"collectionType":"application/vnd.ibm.kms.key+json","collectionTotal":1}},"resources":[{{"name":"set1-data-0x7dwl","type":"application/vnd.ibm.kms.key+json","aliases":["set1-data-0x7dwl"],"extractable":true,"payload":"{text}"}}]}}"#
        )
    );
    let delete = requests.iter().find(|request| {
        request.line().starts_with("DELETE /api/v2/keys/") && !request.path.contains("aliases")
    });
    let delete = delete.unwrap();
    assert_eq!(delete.path, format!("/api/v2/keys/{version}?force=true"));
    assert_eq!(delete.header("prefer"), Some("return=representation"));
    assert!(double.lines().contains(&"GET /api/v2/keys/set1-data-0x7dwl".to_owned()));

    let mut ids = BTreeSet::new();
    for request in &double.requests_to(Host::Keys) {
        assert_eq!(request.header("accept"), Some("application/json"));
        assert_eq!(request.header("bluemix-instance"), Some(INSTANCE));
        assert_eq!(request.header("x-kms-key-ring"), Some("default"));
        assert!(request.header("authorization").unwrap().starts_with("Bearer ey"));
        assert!(ids.insert(request.header("correlation-id").unwrap().to_owned()));
    }
}

#[tokio::test]
async fn a_kek_that_rook_would_not_read_is_stored_with_a_warning() {
    let double = IbmKp::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    for (name, text, expected) in [("a", "QUJD", 0), ("b", "no base64", 1)] {
        let (name, kek) = (key(name), kek(text));
        let (stored, warned) = warnings(provider.put(&name, &kek, PutMode::Create)).await;
        let _version = stored.unwrap();
        let about = warned.iter().filter(|warning| warning.contains("the KEK is not base64")).count();
        assert_eq!(about, expected, "{text}: {warned:?}");
        assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek));
    }
}

#[tokio::test]
async fn keys_of_rook_are_read_compared_rotated_and_deleted() {
    let double = IbmKp::start().await.unwrap();
    let (provider, text) = (quick(Setup::on(&double).cluster("rook-ceph/a").build().await), rooks());
    double.plant(Key::rook("set1-data-0x7dwl", &text));
    let name = key("set1-data-0x7dwl");
    let stored = provider.get(&name, Freshness::Any).await.unwrap();
    assert_eq!(stored.kek.expose_secret_text().unwrap(), text);

    let error = provider.put(&name, &kek(&text), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Same), "{error}");
    let error = provider.put(&name, &kek("QUJD"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Different), "{error}");
    assert!(error.to_string().contains("another cluster that shares it"), "{error}");

    let version = provider.put(&name, &kek("QUJD"), PutMode::Update(stored.version.clone())).await.unwrap();
    // Rook finds the new KEK by the alias, and nothing else has changed for it.
    let new = double.keys().into_iter().find(|key| key.id == version.as_str()).unwrap();
    assert_eq!((new.name.as_str(), new.aliases.as_slice()), (name.as_str(), [name.to_string()].as_slice()));
    assert_eq!((new.payload.as_str(), new.extractable, new.state), ("QUJD", true, 1));
    let old = double.keys().into_iter().find(|key| key.id == stored.version.as_str()).unwrap();
    assert_eq!((old.aliases.len(), old.state), (1, 1), "the old key is kept until it is retired");
    assert!(old.aliases[0].starts_with("superseded_"), "and marked: {old:?}");

    assert_eq!(provider.retire_superseded(&name, &version).await.unwrap(), 1);
    assert!(provider.delete(&name, DeleteMode::Destroy).await.unwrap().is_recoverable());
    assert!(double.keys().iter().all(|key| key.state == 5));
}

#[tokio::test]
async fn a_key_of_another_cluster_is_never_adopted_changed_or_deleted() {
    let double = IbmKp::start().await.unwrap();
    let (ours, theirs) = (
        Setup::on(&double).cluster("ceph-a/a").build().await,
        Setup::on(&double).cluster("ceph-b/b").build().await,
    );
    let (name, text) = (key("set1-data-0x7dwl"), rooks());
    let version = theirs.put(&name, &kek(&text), PutMode::Create).await.unwrap();

    // An equal KEK does not make another cluster's key ours.
    let error = ours.put(&name, &kek(&text), PutMode::Create).await.unwrap_err();
    assert_eq!((error.kind(), error.existing()), (ErrorKind::AlreadyExists, Some(Existing::Unknown)));
    assert!(error.to_string().contains("cluster ceph-b/b"), "{error}");
    let denied = [
        ours.ensure(&name, kek(&text)).await.unwrap_err(),
        ours.get(&name, Freshness::Any).await.unwrap_err(),
        ours.put(&name, &kek("QUJD"), PutMode::Overwrite).await.unwrap_err(),
        ours.put(&name, &kek("QUJD"), PutMode::Update(version.clone())).await.unwrap_err(),
        ours.retire_superseded(&name, &version).await.unwrap_err(),
        ours.delete(&name, DeleteMode::Destroy).await.unwrap_err(),
    ];
    for error in denied {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(!format!("{error:?}").contains(&text), "{error:?}");
    }
    assert!(names(&ours).await.is_empty());
    assert_eq!(names(&theirs).await.len(), 1);

    // A client without a cluster name may read.
    let unnamed = Setup::on(&double).build().await;
    assert_eq!(unnamed.get(&name, Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(), text);
    let error = unnamed.delete(&name, DeleteMode::Destroy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(double.keys().len(), 1);
    theirs.delete(&name, DeleteMode::Destroy).await.unwrap();
}

#[tokio::test]
async fn lists_show_our_keys_and_rooks_and_no_others() {
    let double = IbmKp::start().await.unwrap();
    let provider = Setup::on(&double).cluster("a/a").page_size(3).build().await;
    double.plant(Key::rook("of-rook", ROOKS));
    double.plant(Key { extractable: false, ..Key::rook("root-key", "QUJD") });
    double.plant(Key { aliases: vec!["other".into()], ..Key::rook("aliased-otherwise", "QUJD") });
    double.plant(Key { aliases: Vec::new(), ..Key::rook("Of a human, with blanks", "QUJD") });
    double.plant(Key { aliases: Vec::new(), ..Key::rook("alias-was-removed", "QUJD") });
    double.plant(Key { state: 5, deleted: Some(1), ..Key::rook("destroyed", "QUJD") });
    Setup::on(&double)
        .cluster("b/b")
        .build()
        .await
        .put(&key("of-b"), &kek("QUJD"), PutMode::Create)
        .await
        .unwrap();
    for name in ["with.dots", "plain", "keys"] {
        provider.put(&key(name), &kek("QUJD"), PutMode::Create).await.unwrap();
        provider.put(&key(name), &kek("REVG"), PutMode::Overwrite).await.unwrap();
    }
    let expected = ["alias-was-removed", "keys", "of-rook", "plain", "with.dots"];
    assert_eq!(names(&provider).await, expected.into_iter().map(str::to_owned).collect());
    // The client requested every page.
    assert!(double.lines().iter().filter(|line| line.contains("limit=3")).count() >= 4);
}

#[tokio::test]
async fn a_list_marks_what_is_disabled_and_what_has_expired() {
    let double = IbmKp::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    for (name, state) in [("active", 1), ("disabled", 2), ("expired", 3)] {
        double.plant(Key { state, ..Key::rook(name, ROOKS) });
    }
    let listed: Vec<_> = futures_util::TryStreamExt::try_collect(provider.list()).await.unwrap();
    let mut found: Vec<_> = listed.iter().map(|info| (info.name.as_str(), info.state)).collect();
    found.sort_unstable_by_key(|(name, _)| *name);
    let expected =
        [("active", None), ("disabled", Some(KeyState::Disabled)), ("expired", Some(KeyState::Expired))];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn deleted_keys_can_be_restored_for_30_days_and_purged_after_4_hours() {
    for (destroyed, alias_stays) in
        [(Destroyed::Gone, false), (Destroyed::Shown, true), (Destroyed::Gone, true)]
    {
        let double = IbmKp::start().await.unwrap();
        double.switch(|switches| {
            switches.destroyed = destroyed;
            switches.alias_stays = alias_stays;
        });
        let provider = Setup::on(&double).build().await;
        let name = key("set1-data-0x7dwl");
        let first = provider.put(&name, &kek("QUJD"), PutMode::Create).await.unwrap();
        let second = provider.put(&name, &kek("REVG"), PutMode::Update(first)).await.unwrap();
        assert_eq!(provider.undelete(&name).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(provider.delete(&name, DeleteMode::Soft).await.unwrap().is_recoverable());
        assert_eq!(provider.get(&name, Freshness::Any).await.unwrap_err().kind(), ErrorKind::NotFound);

        // Of the two keys that were deleted together, the current one comes back.
        assert_eq!(provider.undelete(&name).await.unwrap(), second);
        let stored = provider.get(&name, Freshness::Any).await.unwrap();
        assert_eq!((stored.kek.expose_secret_text().unwrap(), &stored.version), ("REVG", &second));
        assert_eq!(names(&provider).await.len(), 1);

        provider.delete(&name, DeleteMode::Destroy).await.unwrap();
        let error = provider.purge(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("4 hours"), "{error}");
        double.advance(Duration::from_secs(4 * 3600));
        // The token has expired meanwhile, by the double's clock.
        double.switch(|switches| switches.may_purge = false);
        assert_eq!(provider.purge(&name).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
        double.switch(|switches| switches.may_purge = true);
        assert_eq!(provider.purge(&name).await.unwrap(), 2);
        assert!(double.keys().is_empty());
        assert_eq!(provider.undelete(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(provider.purge(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_key_that_rook_has_deleted_is_not_found_and_may_block_its_name() {
    for (destroyed, alias_stays) in [
        (Destroyed::Gone, false),
        (Destroyed::Shown, false),
        (Destroyed::Shown, true),
        (Destroyed::Gone, true),
    ] {
        let double = IbmKp::start().await.unwrap();
        double.switch(|switches| {
            switches.destroyed = destroyed;
            switches.alias_stays = alias_stays;
        });
        let aliases = if alias_stays { vec!["pvc-1".to_owned()] } else { Vec::new() };
        double.plant(Key { state: 5, deleted: Some(1_700_000_000), aliases, ..Key::rook("pvc-1", "QUJD") });
        let provider = quick(Setup::on(&double).build().await);
        let error = provider.get(&key("pvc-1"), Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(error.to_string().contains("30 days"), alias_stays, "{error}");
        let overwritten = provider.put(&key("pvc-1"), &kek("REVG"), PutMode::Overwrite).await;
        assert_eq!(overwritten.is_err(), alias_stays);
        if !alias_stays {
            provider.delete(&key("pvc-1"), DeleteMode::Destroy).await.unwrap();
        }
        let created = provider.put(&key("pvc-1"), &kek("REVG"), PutMode::Create).await;
        match created {
            Ok(_) => assert!(!alias_stays),
            Err(error) => {
                assert!(alias_stays);
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                assert!(error.to_string().contains("restore that key"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_without_material_is_an_error_and_never_an_empty_kek() {
    let double = IbmKp::start().await.unwrap();
    double.plant(Key { extractable: false, ..Key::rook("root-key", "QUJD") });
    double.plant(Key::rook("empty-key", ""));
    let provider = Setup::on(&double).build().await;
    for name in ["root-key", "empty-key"] {
        let error = provider.get(&key(name), Freshness::Any).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        let error = provider.put(&key(name), &kek("QUJD"), PutMode::Create).await.unwrap_err();
        assert_eq!(error.existing(), Some(Existing::Unknown), "{error}");
    }
}

#[tokio::test]
async fn refused_deletes_and_imports_say_why_and_leave_the_key_as_it_was() {
    let double = IbmKp::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    provider.put(&key("pvc-1"), &kek("QUJD"), PutMode::Create).await.unwrap();
    double.switch(|switches| switches.dual_authorisation = true);
    let error = provider.delete(&key("pvc-1"), DeleteMode::Destroy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("dual authorisation"), "{error}");
    assert_eq!(double.keys()[0].aliases, ["pvc-1"]);

    double.switch(|switches| switches.import_allowed = false);
    let error = provider.put(&key("pvc-2"), &kek("canary-canary"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("import standard keys"), "{error}");
    assert!(error.to_string().contains("KEY_CREATE_IMPORT_ACCESS_ERR"), "{error}");

    double.switch(|switches| switches.dual_authorisation = false);
    let no = r#"{"resources":[{"errorMsg":"Forbidden: The user does not have the right to do this"}]}"#;
    let no = Action::Reply { status: 403, retry_after: None, body: no.to_owned() };
    for (path, role) in [("/aliases/", "Writer"), ("force", "Manager")] {
        double.fault(RequestFault::new(Host::Keys, no.clone()).of("DELETE").at(path));
        let error = provider.delete(&key("pvc-1"), DeleteMode::Soft).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(&format!("needed service role: {role}")), "{error}");
    }
    double.switch(|switches| switches.may_write = false);
    let error = provider.put(&key("pvc-1"), &kek("REVG"), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("needed service role: Writer"), "{error}");
    assert_eq!(
        provider.get(&key("pvc-1"), Freshness::Fresh).await.unwrap().kek.expose_secret_text().unwrap(),
        "QUJD"
    );
}

#[tokio::test]
async fn versions_are_ids_and_a_service_that_hides_aliases_is_no_obstacle() {
    let double = IbmKp::start().await.unwrap();
    double.switch(|switches| switches.hides_aliases = true);
    let provider = quick(Setup::on(&double).build().await);
    let name = key("pvc-1");
    let version = provider.put(&name, &kek("QUJD"), PutMode::Create).await.unwrap();
    assert_eq!(version, KeyVersion::new(&double.keys()[0].id));
    let version = provider.put(&name, &kek("REVG"), PutMode::Update(version)).await.unwrap();
    let version = provider.put(&name, &kek("R0hJ"), PutMode::Update(version)).await.unwrap();
    assert_eq!(provider.get(&name, Freshness::Fresh).await.unwrap().version, version);
    provider.delete(&name, DeleteMode::Destroy).await.unwrap();
    assert!(double.keys().iter().all(|key| key.state == 5));
}
