//! Tests that keep, recover and purge deleted keys, at once or later. Time passes while nothing happens, so no test waits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::{Setup, kek, key, quick, secret};
use kms_core::{DeleteMode, ErrorKind, Existing, Freshness, KmsProvider, PutMode, provider::Deleted};
use kms_testkit::fake::azure::{Action, Azure, Host, RequestFault};

/// A deletion takes ten seconds, and every request three.
fn slow(double: &Azure) {
    double.switch(|switches| {
        switches.delay = Duration::from_secs(10);
        switches.haste = Duration::from_secs(3);
    });
}

#[tokio::test]
async fn a_soft_deleted_key_comes_back_if_it_is_the_same_and_is_in_the_way_if_not() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let name = key("a");
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    assert!(provider.delete(&name, DeleteMode::Soft).await.unwrap().is_recoverable());
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJj")));
    provider.delete(&name, DeleteMode::Soft).await.unwrap();
    let error = provider.put(&name, &kek("ZGVm"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(Existing::Different));
    assert!(error.to_string().contains("AZURE_SOFT_DELETED"), "{error}");
    // Nothing is lost.
    assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek("YWJj")));
    // The error for a denied recovery names the permission.
    provider.delete(&name, DeleteMode::Soft).await.unwrap();
    double.switch(|switches| switches.denied = ["recover"].into());
    let error = provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("\"recover\" is needed"), "{error}");
}

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
        assert!(provider.delete(&name, DeleteMode::Destroy).await.unwrap().is_recoverable());
        assert_eq!(double.is_deleted(&secret("a")), Some(true));
        let purges = double.lines().iter().filter(|line| line.starts_with("DELETE /deletedsecrets")).count();
        assert_eq!(purges, usize::from(!protected), "purge protection is not argued with");
    }
}

#[tokio::test]
async fn a_deletion_that_takes_ten_seconds_is_waited_for() {
    for sparse in [false, true] {
        let double = Azure::start().await.unwrap();
        let _time = double.pass_time();
        double.switch(|switches| switches.sparse = sparse);
        let purging = Setup::on(&double).set("AZURE_SOFT_DELETED", "purge").build().await;
        let recovering = Setup::on(&double).build().await;
        let (name, old, new) = (key("a"), kek("YWJj"), kek("ZGVm"));
        purging.put(&name, &old, PutMode::Create).await.unwrap();
        slow(&double);
        purging.delete(&name, DeleteMode::Soft).await.unwrap();
        purging.put(&name, &new, PutMode::Create).await.unwrap();
        assert!(purging.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&new));
        recovering.delete(&name, DeleteMode::Soft).await.unwrap();
        recovering.put(&name, &new, PutMode::Create).await.unwrap();
        assert!(recovering.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&new));
        // An overwrite stores the new KEK over any other (field-reports UP-51).
        recovering.delete(&name, DeleteMode::Soft).await.unwrap();
        recovering.put(&name, &old, PutMode::Overwrite).await.unwrap();
        assert!(recovering.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&old));
        // A destroy purges the key, however late the vault lists the deleted secret.
        assert_eq!(recovering.delete(&name, DeleteMode::Destroy).await.unwrap(), Deleted::Destroyed);
        double.advance(Duration::from_secs(10));
        assert_eq!(double.is_deleted(&secret("a")), None);
        assert!(double.lines().iter().any(|line| line.starts_with("DELETE /deletedsecrets/")));
    }
}

#[tokio::test]
async fn a_wait_for_a_deletion_in_vain_ends_with_an_error() {
    let double = Azure::start().await.unwrap();
    let _time = double.pass_time();
    let provider = Setup::on(&double).set("AZURE_SOFT_DELETE_WAIT", "500ms").build().await;
    provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
    double.switch(|switches| switches.delay = Duration::from_secs(10));
    provider.delete(&key("a"), DeleteMode::Soft).await.unwrap();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        let error = provider.put(&key("a"), &kek("ZGVm"), mode).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("AZURE_SOFT_DELETE_WAIT"), "{error}");
    }
}

#[tokio::test]
async fn a_deletion_that_is_never_complete_is_not_called_a_destruction() {
    for sparse in [false, true] {
        let double = Azure::start().await.unwrap();
        let _time = double.pass_time();
        double.switch(|switches| {
            switches.delay = Duration::from_secs(10);
            switches.sparse = sparse;
        });
        let impatient = Setup::on(&double).set("AZURE_SOFT_DELETE_WAIT", "500ms").build().await;
        double.plant(&secret("a"), "YWJj");
        let left = impatient.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert!(left.is_recoverable(), "sparse: {sparse}");
    }
}

#[tokio::test]
async fn a_vault_without_soft_delete_destroys_at_once() {
    for (sparse, mode) in
        [(false, DeleteMode::Destroy), (false, DeleteMode::Soft), (true, DeleteMode::Destroy)]
    {
        let double = Azure::start().await.unwrap();
        let _time = double.pass_time();
        double.switch(|switches| {
            switches.soft_delete = false;
            switches.sparse = sparse;
        });
        let provider = quick(Setup::on(&double).build().await);
        let name = key("a");
        for text in ["YWJj", "ZGVm"] {
            provider.put(&name, &kek(text), PutMode::Create).await.unwrap();
            assert!(provider.get(&name, Freshness::Fresh).await.unwrap().kek.ct_eq(&kek(text)));
            assert_eq!(provider.delete(&name, mode).await.unwrap(), Deleted::Destroyed);
        }
        assert_eq!(provider.delete(&name, mode).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!double.lines().iter().any(|line| line.starts_with("DELETE /deletedsecrets/")));
    }
}

#[tokio::test]
async fn a_delete_whose_response_is_lost_is_called_a_destruction_only_if_nothing_is_left() {
    for (protected, delay, sparse) in [
        (true, 0, false),
        (true, 10, false),
        (true, 10, true),
        (false, 0, false),
        (false, 10, false),
        (false, 10, true),
    ] {
        for mode in [DeleteMode::Destroy, DeleteMode::Soft] {
            let double = Azure::start().await.unwrap();
            let _time = double.pass_time();
            let provider = quick(Setup::on(&double).build().await);
            provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
            double.switch(|switches| {
                switches.purge_protection = protected;
                switches.delay = Duration::from_secs(delay);
                switches.sparse = sparse;
            });
            double.fault(RequestFault::new(Host::Keys, Action::LoseAnswer).of("DELETE").at("/secrets/"));
            let left = provider.delete(&key("a"), mode).await.unwrap();
            let destroyed = !protected && mode == DeleteMode::Destroy;
            let setting = format!("protected: {protected}, delay: {delay} s, sparse: {sparse}, {mode:?}");
            assert_eq!(left.is_recoverable(), !destroyed, "{setting}");
            double.advance(Duration::from_secs(delay));
            assert_eq!(
                double.is_deleted(&secret("a")),
                if destroyed { None } else { Some(true) },
                "{setting}"
            );
        }
    }
}

#[tokio::test]
async fn a_deleted_key_that_purge_protection_keeps_is_never_called_absent_or_destroyed() {
    let double = Azure::start().await.unwrap();
    double.switch(|switches| switches.purge_protection = true);
    let provider = quick(Setup::on(&double).build().await);
    provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
    provider.delete(&key("a"), DeleteMode::Soft).await.unwrap();
    assert!(provider.delete(&key("a"), DeleteMode::Destroy).await.unwrap().is_recoverable());
}

#[tokio::test]
async fn a_proxy_that_hides_deleted_secrets_is_no_destruction() {
    for sparse in [false, true] {
        let double = Azure::start().await.unwrap();
        double.switch(|switches| switches.sparse = sparse);
        let provider = quick(Setup::on(&double).build().await);
        provider.put(&key("a"), &kek("YWJj"), PutMode::Create).await.unwrap();
        let page = Action::Reply { status: 404, retry_after: None, body: "<html>".to_owned() };
        double.fault(RequestFault::new(Host::Keys, page).of("GET").at("/deletedsecrets/").times(100));
        double.fault(RequestFault::new(Host::Keys, Action::LoseAnswer).of("DELETE").at("/secrets/"));
        assert!(provider.delete(&key("a"), DeleteMode::Destroy).await.unwrap().is_recoverable());
        assert_eq!(double.is_deleted(&secret("a")), Some(true));
    }
}

#[tokio::test]
async fn a_key_that_is_being_recovered_is_not_taken_for_a_deleted_one() {
    let double = Azure::start().await.unwrap();
    let _time = double.pass_time();
    let provider = Setup::on(&double).build().await;
    let name = key("a");
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    provider.delete(&name, DeleteMode::Soft).await.unwrap();
    double.switch(|switches| switches.delay = Duration::from_secs(10));
    let impatient = Setup::on(&double).set("AZURE_SOFT_DELETE_WAIT", "200ms").build().await;
    impatient.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap_err();
    // The key is being recovered, so `NotFound` would be wrong.
    let error = impatient.delete(&name, DeleteMode::Soft).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    slow(&double);
    assert_eq!(provider.delete(&name, DeleteMode::Destroy).await.unwrap(), Deleted::Destroyed);
}

#[tokio::test]
async fn a_destroy_that_was_interrupted_goes_on() {
    let double = Azure::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let name = key("a");
    provider.put(&name, &kek("YWJj"), PutMode::Create).await.unwrap();
    provider.delete(&name, DeleteMode::Soft).await.unwrap();
    // A temporary failure must not be reported as an absent key.
    let reply = Action::Reply { status: 503, retry_after: None, body: "<html>".to_owned() };
    double.fault(RequestFault::new(Host::Keys, reply).at("/deletedsecrets/"));
    assert_eq!(provider.delete(&name, DeleteMode::Destroy).await.unwrap(), Deleted::Destroyed);
    assert_eq!(double.is_deleted(&secret("a")), None);
}

#[tokio::test]
async fn a_delete_by_a_fresh_client_looks_for_no_key_and_only_at_the_result() {
    let double = Azure::start().await.unwrap();
    for (mode, seen) in [
        (DeleteMode::Soft, ["DELETE", "GET"].as_slice()),
        (DeleteMode::Destroy, &["DELETE", "DELETE", "GET"]),
    ] {
        let name = if mode == DeleteMode::Soft { "a" } else { "b" };
        double.plant(&secret(name), "YWJj");
        let provider = Setup::on(&double).build().await;
        // The first request of a process gets a challenge, whatever it is.
        let _absent = provider.get(&key("other"), Freshness::Any).await;
        double.forget();
        provider.delete(&key(name), mode).await.unwrap();
        let requests = double.requests_to(Host::Keys);
        assert_eq!(requests.iter().map(|request| request.method.as_str()).collect::<Vec<_>>(), seen);
    }
}
