//! Tests on the double: storing, reading, listing and deleting keys.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use crate::common::{Setup, kek, key, quick, secret};
use futures_util::TryStreamExt;
use kms_core::{
    DeleteMode, ErrorKind, Existing, Freshness, HistoryMode, Kek, KekState, KeyState, KmsProvider,
    KmsProviderExt, PutMode, WriteOutcome, provider::Deleted,
};
use kms_testkit::fake::azure::{Action, Azure, Host, RequestFault};
use tokio::sync::Barrier;

#[tokio::test]
async fn a_thousand_reads_cost_one_token_one_challenge_and_one_handshake_per_host() {
    let double = Azure::start().await.unwrap();
    double.plant(&secret("a"), r#"{"rook-ceph-osd-encryption-key-a":"YWJj"}"#);
    let provider = Setup::on(&double).build().await;
    for _ in 0..1_000 {
        assert!(provider.get(&key("a"), Freshness::Any).await.unwrap().kek.ct_eq(&kek("YWJj")));
    }
    let counts = double.counts();
    assert_eq!((counts.issued, counts.challenges), (1, 1));
    assert_eq!((counts.tokens.handshakes, counts.keys.handshakes), (1, 1));
    assert_eq!((counts.tokens.requests, counts.keys.requests), (1, 1_001));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_start_together_share_token_and_challenge() {
    let double = Azure::start().await.unwrap();
    double.plant(&secret("a"), "YWJj");
    let provider = Arc::new(Setup::on(&double).build().await);
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.get(&key("a"), Freshness::Any).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let counts = double.counts();
    assert_eq!((counts.issued, counts.challenges), (1, 1));
}

#[tokio::test]
async fn a_key_is_stored_byte_for_byte_as_rook_does_and_a_raw_value_is_read() {
    let double = Azure::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    let new = Kek::generate().unwrap();
    provider.put(&key("set1-data-0x7dwl"), &new, PutMode::Create).await.unwrap();
    let versions = double.versions(&secret("set1-data-0x7dwl"));
    assert_eq!(versions.len(), 1);
    assert_eq!(
        versions[0].value,
        format!(
            r#"{{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"{}"}}"#,
            new.expose_secret_text().unwrap()
        )
    );
    double.plant(&secret("raw"), "YWJjZA==");
    assert!(provider.get(&key("raw"), Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJjZA==")));
    double.plant("another-secret", "x");
    let mut names: Vec<_> = provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap();
    names.sort();
    assert_eq!(names, ["raw", "set1-data-0x7dwl"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_who_create_one_key_from_fifty_processes_agree_on_one_kek() {
    let double = Azure::start().await.unwrap();
    for round in 0..2 {
        let name = key(&format!("race-{round}"));
        let start = Arc::new(Barrier::new(50));
        // All creators find the name free, twice, before the first creator writes.
        for _ in 0..2 {
            let look = RequestFault::new(Host::Keys, Action::Meet(Arc::new(Barrier::new(50))));
            double.fault(look.of("GET").at(secret(name.as_str())).after(100).times(50));
        }
        let mut tasks = Vec::new();
        for _ in 0..50 {
            let (provider, name, start) =
                (Setup::on(&double).build().await, name.clone(), Arc::clone(&start));
            tasks.push(tokio::spawn(async move {
                // Log in first, so that the writes coincide.
                provider.get(&name, Freshness::Any).await.unwrap_err();
                start.wait().await;
                provider.ensure(&name, Kek::generate().unwrap()).await.unwrap()
            }));
        }
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        let versions = double.versions(&secret(name.as_str())).len();
        assert!(versions > 1, "the writes have not met");
        let stored = Setup::on(&double).build().await.get(&name, Freshness::Fresh).await.unwrap();
        let different = results.iter().filter(|one| !one.stored.kek.ct_eq(&stored.kek)).count();
        assert_eq!(different, 0, "of 50 got another KEK, {versions} versions");
        assert_eq!(results.iter().filter(|one| one.created).count(), 1);
        // What Rook reads is the current version.
        let current = double.versions(&secret(name.as_str())).pop().unwrap().value;
        assert!(current.contains(stored.kek.expose_secret_text().unwrap()));
    }
}

#[tokio::test]
async fn a_creation_that_was_interrupted_is_completed_by_a_reader() {
    let double = Azure::start().await.unwrap();
    let _time = double.pass_time();
    let (one, other) = (Setup::on(&double).build().await, Setup::on(&double).build().await);
    // The mark after the write is lost.
    double.fault(RequestFault::new(Host::Keys, Action::LoseRequest).of("PATCH"));
    one.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap_err();
    let stored = other.get(&key("a"), Freshness::Fresh).await.unwrap();
    assert!(stored.kek.ct_eq(&kek("YWJj")));
    assert_eq!(double.versions(&secret("a"))[0].tags["rook-kms-state"], "kept");
}

#[tokio::test]
async fn a_destroyed_key_is_gone_and_superseded_versions_are_disabled() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let name = key("my.set_Data");
    let first = provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    let second = provider.put(&name, &kek("ZGVm"), PutMode::Update(first.clone())).await.unwrap();
    assert_eq!(
        provider.put(&name, &kek("Z2hp"), PutMode::Update(first.clone())).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(provider.retire_superseded(&name, &first).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(provider.retire_superseded(&name, &second).await.unwrap(), 1);
    assert_eq!(provider.retire_superseded(&name, &second).await.unwrap(), 0);
    let names: Vec<_> = provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap();
    assert_eq!(names, ["my.set_Data"]);
    assert_eq!(provider.delete(&name, DeleteMode::Destroy).await.unwrap(), Deleted::Destroyed);
    assert!(double.lines().iter().any(|line| line.starts_with("DELETE /deletedsecrets/")));
    assert_eq!(provider.delete(&name, DeleteMode::Destroy).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_list_the_last_writer_has_created_the_key() {
    let double = Azure::start().await.unwrap();
    double.switch(|switches| switches.denied = ["list"].into());
    let name = key("a");
    let look = RequestFault::new(Host::Keys, Action::Meet(Arc::new(Barrier::new(8))));
    double.fault(look.of("GET").at("/secrets/").after(16).times(8));
    let start = Arc::new(Barrier::new(8));
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (provider, name, start) = (Setup::on(&double).build().await, name.clone(), Arc::clone(&start));
        tasks.push(tokio::spawn(async move {
            let new = kek(&format!("new-{number}"));
            provider.get(&name, Freshness::Any).await.unwrap_err();
            start.wait().await;
            (provider.put(&name, &new, PutMode::Create).await, new)
        }));
    }
    let mut stored = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (Ok(_), new) => stored.push(new),
            (Err(error), _) => assert_eq!(error.existing(), Some(Existing::Different), "{error}"),
        }
    }
    assert_eq!(stored.len(), 1);
    let found = Setup::on(&double).build().await.get(&name, Freshness::Fresh).await.unwrap();
    assert!(found.kek.ct_eq(&stored[0]));
}

#[tokio::test]
async fn a_device_opens_even_if_the_list_of_versions_is_unavailable() {
    let double = Azure::start().await.unwrap();
    let _time = double.pass_time();
    let provider = Setup::on(&double).build().await;
    double.fault(RequestFault::new(Host::Keys, Action::LoseRequest).of("PATCH"));
    provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap_err();
    let lost = || RequestFault::new(Host::Keys, Action::LoseRequest).at("/versions").times(100);
    double.fault(lost());
    // The creator may still be in flight.
    provider.get(&key("a"), Freshness::Any).await.unwrap_err();
    double.heal();
    double.back(Duration::from_secs(60));
    let value = r#"{"rook-ceph-osd-encryption-key-b":"YWJj"}"#;
    double.plant_tagged(&secret("b"), value, &[("rook-kms-state", "new")]);
    double.advance(Duration::from_secs(60));
    double.fault(lost());
    assert!(provider.get(&key("b"), Freshness::Any).await.unwrap().kek.ct_eq(&kek("YWJj")));
    // A fresh read decides for a writer, so it must not guess.
    provider.get(&key("b"), Freshness::Fresh).await.unwrap_err();
}

#[tokio::test]
async fn a_server_that_takes_no_marks_still_keeps_keys() {
    let double = Azure::start().await.unwrap();
    let _time = double.pass_time();
    let refusal =
        Action::Reply { status: 405, retry_after: None, body: r#"{"error":{"code":"no"}}"#.to_owned() };
    double.fault(RequestFault::new(Host::Keys, refusal).of("PATCH").times(100));
    let provider = Setup::on(&double).build().await;
    provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
    assert!(provider.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJj")));
    let error = provider.put(&key("a"), &kek("ZGVm"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Different));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_create_a_key_over_an_empty_value_agree_on_one_kek() {
    let double = Azure::start().await.unwrap();
    let name = key("a");
    // After a key was blanked its old KEK does not come back.
    double.plant(&secret("a"), r#"{"rook-ceph-osd-encryption-key-a":"b2xk"}"#);
    double.advance(Duration::from_secs(5));
    double.plant(&secret("a"), "");
    // All creators find the empty value before the first creator writes.
    let look = RequestFault::new(Host::Keys, Action::Meet(Arc::new(Barrier::new(10))));
    double.fault(look.of("GET").at("/secrets/").after(20).times(10));
    let start = Arc::new(Barrier::new(10));
    let mut tasks = Vec::new();
    for number in 0..10 {
        let (provider, name, start) = (Setup::on(&double).build().await, name.clone(), Arc::clone(&start));
        tasks.push(tokio::spawn(async move {
            let (new, mode) = (kek(&format!("new-{number}")), PutMode::Create);
            provider.get(&name, Freshness::Any).await.unwrap_err();
            start.wait().await;
            (provider.put(&name, &new, mode).await, new)
        }));
    }
    let mut stored = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (Ok(_), new) => stored.push(new),
            (Err(error), _) => assert_eq!(error.existing(), Some(Existing::Different), "{error}"),
        }
    }
    assert_eq!(stored.len(), 1, "one of them has stored its KEK");
    let found = Setup::on(&double).build().await.get(&name, Freshness::Fresh).await.unwrap();
    assert!(found.kek.ct_eq(&stored[0]));
}

#[tokio::test]
async fn a_create_overwrites_the_empty_string_alone_as_rook_does() {
    let double = Azure::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    let field = |value: &str| format!(r#"{{"rook-ceph-osd-encryption-key-a":{value}}}"#);
    for value in [String::new(), field("\"\"")] {
        double.plant(&secret("a"), &value);
        assert_eq!(provider.get(&key("a"), Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::Protocol);
        let new = Kek::generate().unwrap();
        provider.put(&key("a"), &new, PutMode::Create).await.unwrap();
        assert!(provider.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&new), "over {value:?}");
    }
    for value in [field("null"), field("7"), "{}".to_owned(), r#"{"another":""}"#.to_owned()] {
        double.plant(&secret("a"), &value);
        let error = provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap_err();
        assert_eq!(error.existing(), Some(Existing::Unknown), "over {value:?}: {error}");
        assert_eq!(double.versions(&secret("a")).pop().unwrap().value, value);
    }
}

#[tokio::test]
async fn a_value_that_is_no_kek_is_a_version_in_the_history_and_can_be_updated() {
    let double = Azure::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    let (name, good) = (key("a"), kek("YWJj"));
    let first = provider.put(&name, &good, PutMode::Create).await.unwrap();
    double.plant(&secret("a"), r#"{"rook-ceph-osd-encryption-key-a":7}"#);
    assert_eq!(provider.get(&name, Freshness::Fresh).await.unwrap_err().kind(), ErrorKind::Protocol);
    let past = provider.history(&name, HistoryMode::ReadOnly).await.unwrap();
    assert!(past[0].state == KekState::Current && past[0].kek.is_none(), "{past:?}");
    assert!(past[1].version == first && past[1].kek.as_ref().is_some_and(|kek| kek.ct_eq(&good)), "{past:?}");
    let error = provider.put(&name, &good, PutMode::Update(first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    provider.put(&name, &good, PutMode::Update(past[0].version.clone())).await.unwrap();
    assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&good));
}

#[tokio::test]
async fn a_line_break_at_the_end_of_a_stored_kek_is_part_of_the_passphrase() {
    let double = Azure::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    for value in ["YWJj\n", r#"{"rook-ceph-osd-encryption-key-a":"YWJj\n"}"#] {
        double.plant(&secret("a"), value);
        let stored = provider.get(&key("a"), Freshness::Fresh).await.unwrap();
        assert_eq!(stored.kek.expose_secret_text().unwrap(), "YWJj\n");
        // A rotation stores it once more before it begins.
        let update = PutMode::Update(stored.version);
        provider.put(&key("a"), &stored.kek, update).await.unwrap();
        assert_eq!(
            provider.get(&key("a"), Freshness::Fresh).await.unwrap().kek.expose_secret_text().unwrap(),
            "YWJj\n"
        );
    }
}

#[tokio::test]
async fn throttling_after_a_write_is_no_change_by_another_writer() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let mut version = provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
    for (status, new) in [(429, "ZGVm"), (503, "Z2hp")] {
        let page = Action::Reply { status, retry_after: None, body: "<html>".to_owned() };
        // The first read is that of the update, the second one reads back.
        double.fault(RequestFault::new(Host::Keys, page).of("GET").at("/secrets/").after(1));
        version = provider.put(&key("a"), &kek(new), PutMode::Update(version)).await.unwrap();
        assert!(provider.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&kek(new)));
    }
    assert_eq!(double.versions(&secret("a")).len(), 3, "each KEK is stored once");
    // If the error is final, it says that the write may have been applied.
    let page = Action::Reply { status: 403, retry_after: None, body: "<html>".to_owned() };
    double.fault(RequestFault::new(Host::Keys, page).of("GET").at("/secrets/").after(1));
    let error = provider.put(&key("a"), &kek("amts"), PutMode::Update(version)).await.unwrap_err();
    assert_eq!(error.write_outcome(), WriteOutcome::Unknown, "{error}");
}

#[tokio::test]
async fn what_operators_have_noted_at_a_secret_survives_every_write() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let tags = [("owner", "storage \"team\""), ("cost-centre", "4711")];
    let name = key("my.set");
    let hashed = {
        provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
        let line = double.lines().into_iter().find(|line| line.starts_with("PUT ")).unwrap();
        line.rsplit('/').next().unwrap().to_owned()
    };
    let labelled = |secret: &str| {
        let version = double.versions(secret).pop().unwrap();
        let found: Vec<_> = tags
            .iter()
            .map(|(tag, value)| version.tags.get(*tag).map(String::as_str) == Some(*value))
            .collect();
        assert_eq!((found, version.content_type.as_deref()), (vec![true; 2], Some("text/plain")), "{secret}");
        version
    };
    double.label(&hashed, &tags, "text/plain");
    let version = provider.get(&name, Freshness::Fresh).await.unwrap().version;
    provider.put(&name, &kek("ZGVm"), PutMode::Update(version)).await.unwrap();
    assert_eq!(labelled(&hashed).tags["rook-kms-name"], "my.set");
    provider.put(&name, &kek("Z2hp"), PutMode::Overwrite).await.unwrap();
    assert!(!labelled(&hashed).tags.contains_key("rook-kms-state"));

    // A create over an empty value, and the mark after it.
    double.plant(&secret("b"), "");
    double.label(&secret("b"), &tags, "text/plain");
    provider.put(&key("b"), &kek("YWJj"), PutMode::Create).await.unwrap();
    labelled(&secret("b"));
    let listed: Vec<_> = provider.list().map_ok(|info| info.name.to_string()).try_collect().await.unwrap();
    assert!(listed.contains(&"my.set".to_owned()), "{listed:?}");
}

#[tokio::test]
async fn a_version_that_comes_while_others_are_retired_stays_enabled() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let name = key("a");
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    let current = provider.put(&name, &kek("ZGVm"), PutMode::Overwrite).await.unwrap();
    // Another client updates the key between the look at it and the look at its versions.
    let slow = RequestFault::new(Host::Keys, Action::DelayAnswer(Duration::from_millis(300)));
    double.fault(slow.of("GET").times(1));
    let retire = provider.retire_superseded(&name, &current);
    let update = async {
        while double.requests().last().is_none_or(|request| request.method != "GET") {
            tokio::task::yield_now().await;
        }
        double.plant(&secret("a"), r#"{"rook-ceph-osd-encryption-key-a":"bmV3"}"#);
    };
    let (retired, ()) = tokio::join!(retire, update);
    assert_eq!(retired.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(double.versions(&secret("a")).iter().all(|version| version.enabled));
    assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("bmV3")));
}

#[tokio::test]
async fn a_list_shows_versions_and_marks_what_is_disabled_and_what_has_expired() {
    let double = Azure::start().await.unwrap();
    let provider = Setup::on(&double).build().await;
    let first = provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
    for name in ["disabled", "expired", "valid"] {
        double.plant(&secret(name), "YWJj");
    }
    double.edit(&secret("disabled"), |version| version.enabled = false);
    double.edit(&secret("expired"), |version| version.expires = Some(version.created - 1));
    double.edit(&secret("valid"), |version| version.expires = Some(version.created + 3_600));
    let list = || async {
        let mut found: Vec<_> = provider.list().try_collect().await.unwrap();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    };
    let found = list().await;
    let shown: Vec<_> =
        found.iter().map(|info| (info.name.as_str(), info.state, info.version.is_some())).collect();
    let expected = [
        ("a", None, true),
        ("disabled", Some(KeyState::Disabled), true),
        ("expired", Some(KeyState::Expired), true),
        ("valid", None, true),
    ];
    assert_eq!(shown, expected);
    assert_eq!(found[0].version.as_ref(), Some(&first));
    assert_eq!(
        provider.get(&key("expired"), Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
        "YWJj"
    );
    // Of two versions of the same second, the list does not say which is the newer one.
    double.plant(&secret("a"), "ZGVm");
    let stored = provider.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(list().await[0].version.as_ref().is_none_or(|version| *version == stored.version));
    // Without the right to list versions, the list shows none.
    double.fault(
        RequestFault::new(Host::Keys, Action::Reply { status: 403, retry_after: None, body: "{}".into() })
            .at("/versions")
            .times(usize::MAX),
    );
    let found = list().await;
    assert!(found.len() == 4 && found.iter().all(|info| info.version.is_none()), "{found:?}");
}
