//! What is stored, found, deleted and asked: on the double.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Setup, kek, key, quick, secret};
use futures_util::TryStreamExt;
use kms_core::{
    DeleteMode, ErrorKind, Existing, Freshness, Kek, KmsProvider, KmsProviderExt, PutMode, provider::Deleted,
};
use kms_testkit::fake::azure::{Action, Azure, Fault, Host};
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
    assert_eq!((counts.tokens, counts.challenges), (1, 1));
    assert_eq!((counts.entra.handshakes, counts.vault.handshakes), (1, 1));
    assert_eq!((counts.entra.requests, counts.vault.requests), (1, 1_001));
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
    assert_eq!((counts.tokens, counts.challenges), (1, 1));
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
        format!(r#"{{"rook-ceph-osd-encryption-key-set1-data-0x7dwl":"{}"}}"#, new.expose_secret())
    );
    double.plant(&secret("raw"), "YWJjZA==");
    assert!(provider.get(&key("raw"), Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJjZA==")));
    double.plant("somebody-elses", "x");
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
        // Everybody finds the name free before the first one writes.
        let look = Fault::new(Host::Vault, Action::DelayAnswer(Duration::from_millis(400)));
        double.fault(look.of("GET").at(secret(name.as_str())).after(100).times(50));
        let mut tasks = Vec::new();
        for _ in 0..50 {
            let (provider, name, start) =
                (Setup::on(&double).build().await, name.clone(), Arc::clone(&start));
            tasks.push(tokio::spawn(async move {
                // A login of its own first, so that the writes meet.
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
        assert!(current.contains(stored.kek.expose_secret()));
    }
}

#[tokio::test]
async fn a_creation_that_was_interrupted_is_completed_by_a_reader() {
    let double = Azure::start().await.unwrap();
    let (one, other) = (Setup::on(&double).build().await, Setup::on(&double).build().await);
    // The mark after the write is lost.
    double.fault(Fault::new(Host::Vault, Action::LoseRequest).of("PATCH"));
    one.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap_err();
    let stored = other.get(&key("a"), Freshness::Fresh).await.unwrap();
    assert!(stored.kek.ct_eq(&kek("YWJj")));
    assert_eq!(double.versions(&secret("a"))[0].tags["rook-kms-state"], "kept");
}

#[tokio::test]
async fn a_soft_deleted_key_comes_back_if_it_is_the_same_and_is_in_the_way_if_not() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let name = key("a");
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    assert_eq!(provider.delete(&name, DeleteMode::Soft).await.unwrap(), Deleted::Recoverable);
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJj")));
    provider.delete(&name, DeleteMode::Soft).await.unwrap();
    let error = provider.put(&name, &kek("ZGVm"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Different));
    assert!(error.to_string().contains("AZURE_SOFT_DELETED"), "{error}");
    // Nothing is lost.
    assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJj")));
    // What may not be recovered is told with the permission.
    provider.delete(&name, DeleteMode::Soft).await.unwrap();
    double.switch(|switches| switches.denied = ["recover"].into());
    let error = provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("\"recover\" is needed"), "{error}");
}

#[tokio::test]
async fn a_deletion_that_takes_ten_seconds_is_waited_for() {
    let double = Azure::start().await.unwrap();
    double.switch(|switches| switches.delay = Duration::from_secs(10));
    let purging = Setup::on(&double).set("AZURE_SOFT_DELETED", "purge").build().await;
    let name = key("a");
    purging.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    purging.delete(&name, DeleteMode::Soft).await.unwrap();
    let impatient = Setup::on(&double).set("AZURE_SOFT_DELETE_WAIT", "1s").build().await;
    let error = impatient.put(&name, &kek("ZGVm"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("AZURE_SOFT_DELETE_WAIT"), "{error}");
    // Ten seconds pass for the deletion, and ten for the purge.
    let put = purging.put(&name, &PUT, PutMode::Create);
    let clock = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            double.advance(Duration::from_secs(10));
        }
    };
    let (version, ()) = tokio::join!(put, clock);
    version.unwrap();
    assert!(purging.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&PUT));
}

static PUT: std::sync::LazyLock<Kek> = std::sync::LazyLock::new(|| kek("ZGVm"));

#[tokio::test(flavor = "multi_thread")]
async fn two_who_recover_one_key_both_succeed() {
    let double = Azure::start().await.unwrap();
    double.switch(|switches| switches.delay = Duration::from_millis(300));
    let (one, other) = (Setup::on(&double).build().await, Setup::on(&double).build().await);
    let name = key("a");
    one.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    one.delete(&name, DeleteMode::Soft).await.unwrap();
    let same = kek("YWJj");
    let (a, b) =
        tokio::join!(one.put(&name, &same, PutMode::Create), other.put(&name, &same, PutMode::Create));
    for result in [a, b] {
        if let Err(error) = result {
            assert_eq!(error.existing(), Some(Existing::Same), "{error}");
        }
    }
    assert!(other.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&same));
    assert_eq!(double.versions(&secret("a")).len(), 1);
}

#[tokio::test]
async fn what_may_not_be_purged_stays_recoverable_and_is_said_to() {
    for protected in [true, false] {
        let double = Azure::start().await.unwrap();
        double.switch(|switches| {
            switches.purge_protection = protected;
            if !protected {
                switches.denied.insert("purge");
            }
        });
        let provider = quick(Setup::on(&double).build().await);
        let name = key("a");
        provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
        assert_eq!(provider.delete(&name, DeleteMode::Destroy).await.unwrap(), Deleted::Recoverable);
        assert_eq!(double.is_deleted(&secret("a")), Some(true));
        let purges = double.lines().iter().filter(|line| line.starts_with("DELETE /deletedsecrets")).count();
        assert_eq!(purges, usize::from(!protected), "purge protection is not argued with");
    }
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

#[tokio::test]
async fn a_server_that_takes_no_marks_still_keeps_keys() {
    let double = Azure::start().await.unwrap();
    let refusal =
        Action::Reply { status: 405, retry_after: None, body: r#"{"error":{"code":"no"}}"#.to_owned() };
    double.fault(Fault::new(Host::Vault, refusal).of("PATCH").times(100));
    let provider = Setup::on(&double).build().await;
    provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
    assert!(provider.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJj")));
    let error = provider.put(&key("a"), &kek("ZGVm"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Different));
}
