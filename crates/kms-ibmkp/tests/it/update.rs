//! Tests of updates that are interrupted at any step, and of concurrent updates.

use std::{sync::Arc, time::Duration};

use crate::common::{Setup, kek, key, quick};
use kms_core::{DeleteMode, ErrorKind, Freshness, Kek, KmsProvider, PutMode};
use kms_testkit::fake::ibmkp::{Action, Destroyed, Host, IbmKp, Key, RequestFault};

const NAME: &str = "set1-data-0x7dwl";

/// Whether no update needs to be completed: one key has the alias, it is not marked, and no key has the alias of a
/// successor.
fn is_tidy(double: &IbmKp) -> bool {
    let aliases: Vec<Vec<String>> = double.keys().into_iter().map(|key| key.aliases).collect();
    let is_mark = |aliases: &Vec<String>| aliases.iter().all(|alias| alias.starts_with("superseded_"));
    let others: Vec<_> = aliases.into_iter().filter(|aliases| !is_mark(aliases)).collect();
    others == [[NAME]]
}

/// Makes every request from the `step`th on fail, as if the process had crashed. Returns whether the update succeeded
/// before.
async fn crash(double: &IbmKp, setup: &Setup<'_>, step: usize, action: Action, new: &Kek) -> bool {
    let provider = setup.build().await;
    let version = provider.get(&key(NAME), Freshness::Any).await.unwrap().version;
    let dead = RequestFault::new(Host::Keys, Action::LoseRequest).after(step + 1).times(usize::MAX);
    // The double applies the first fault that matches; both faults count all requests.
    double.fault(RequestFault::new(Host::Keys, action).after(step));
    double.fault(dead.clone().after(step));
    let done = provider.put(&key(NAME), new, PutMode::Update(version)).await.is_ok();
    double.heal();
    done
}

async fn crash_everywhere(old_age: Duration, mark: impl Fn(&IbmKp)) {
    for action in [Action::LoseRequest, Action::LoseAnswer, Action::DoneBut(502)] {
        let mut steps = 0;
        for step in 0.. {
            let double = IbmKp::start().await.unwrap();
            mark(&double);
            // Objects that the double creates from now on have this age by our clock.
            double.back(old_age);
            let setup = Setup::on(&double).cluster("rook-ceph/a");
            let [old, new, next] = [(); 3].map(|()| Kek::generate().unwrap());
            double
                .plant(Key { created: 1_700_000_000, ..Key::rook(NAME, old.expose_secret_text().unwrap()) });
            let done = crash(&double, &setup, step, action.clone(), &new).await;
            let what = format!("{action:?} at step {step}");

            // Every reader gets the same KEK, each time.
            let provider = quick(setup.build().await);
            let read = provider.get(&key(NAME), Freshness::Any).await.unwrap();
            assert!(read.kek.ct_eq(&old) || read.kek.ct_eq(&new), "{what}");
            assert!(!done || read.kek.ct_eq(&new), "{what}");
            let fresh = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
            assert!(fresh.kek.ct_eq(&read.kek) && fresh.version == read.version, "{what}");
            // A fresh read has restored the alias, so Rook finds the same key.
            let aliased = double.keys().into_iter().find(|key| key.aliases.iter().any(|alias| alias == NAME));
            assert_eq!(aliased.unwrap().id, fresh.version.as_str(), "{what}");

            // The caller may retry at once with a KEK of its own, or has to wait.
            let again = provider.put(&key(NAME), &next, PutMode::Update(fresh.version.clone())).await;
            if let Err(error) = again {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
                assert!(error.to_string().contains("less than two minutes ago"), "{what}: {error}");
                assert!(old_age.is_zero() && read.kek.ct_eq(&old), "{what}: {error}");
                let still = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
                assert!(still.kek.ct_eq(&old), "{what}");
                // With the KEK of the first attempt, an update continues where that attempt stopped.
                let version = provider.put(&key(NAME), &new, PutMode::Update(fresh.version)).await.unwrap();
                provider.put(&key(NAME), &next, PutMode::Update(version)).await.unwrap();
            }
            let last = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
            assert!(last.kek.ct_eq(&next), "{what}");
            assert!(is_tidy(&double), "{what}: {:?}", double.keys());

            provider.retire_superseded(&key(NAME), &last.version).await.unwrap();
            let alive: Vec<_> = double.keys().into_iter().filter(|key| key.state != 5).collect();
            assert_eq!(alive.len(), 1, "{what}: {alive:?}");
            assert_eq!(alive[0].id, last.version.as_str());
            provider.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
            assert!(double.keys().iter().all(|key| key.state == 5), "{what}");
            steps = step;
            if done && !matches!(action, Action::LoseAnswer | Action::DoneBut(_)) || step > 12 {
                break;
            }
        }
        assert!((5..=13).contains(&steps), "an update took {steps} steps");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_one_current_kek_and_the_next_update_goes_on() {
    crash_everywhere(Duration::from_secs(600), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_just_now_keeps_others_out_for_a_while() {
    crash_everywhere(Duration::ZERO, |double| {
        double.switch(|switches| {
            switches.alias_stays = true;
            switches.destroyed = Destroyed::Shown;
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_of_any_step_are_made_up_for_by_the_layers() {
    for action in [Action::LoseRequest, Action::LoseAnswer, Action::DoneBut(502)] {
        for step in 0..9 {
            let double = IbmKp::start().await.unwrap();
            let provider = quick(Setup::on(&double).build().await);
            let version = provider.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
            double.fault(RequestFault::new(Host::Keys, action.clone()).after(step));
            let version = provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap();
            double.heal();
            let stored = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
            assert_eq!(
                (stored.kek.expose_secret_text().unwrap(), &stored.version),
                ("REVG", &version),
                "{action:?} {step}"
            );
            // One key more, and no unknown keys.
            assert_eq!(double.keys().len(), 2, "{action:?} {step}: {:?}", double.keys());
            let aliased = double.keys().into_iter().find(|key| key.aliases.iter().any(|alias| alias == NAME));
            assert_eq!(aliased.unwrap().id, version.as_str(), "{action:?} {step}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_update_one_version_have_one_winner() {
    let double = IbmKp::start().await.unwrap();
    let setup = Setup::on(&double);
    let (one, other) = (Arc::new(setup.build().await), Arc::new(setup.build().await));
    for round in 0..20 {
        let name = key(&format!("pvc-{round}"));
        let version = one.put(&name, &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
        let tasks: Vec<_> = [&one, &other, &one, &other]
            .map(|provider| {
                let (provider, name, version) = (Arc::clone(provider), name.clone(), version.clone());
                tokio::spawn(async move {
                    let kek = Kek::generate().unwrap();
                    (provider.put(&name, &kek, PutMode::Update(version)).await, kek)
                })
            })
            .into_iter()
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                (Ok(version), kek) => winners.push((version, kek)),
                (Err(error), _) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let stored = other.get(&name, Freshness::Fresh).await.unwrap();
        assert!(stored.kek.ct_eq(&winners[0].1) && stored.version == winners[0].0, "round {round}");
    }
}

#[tokio::test]
async fn a_refused_step_leaves_the_old_kek_current() {
    for (method, path) in [("DELETE", "/aliases/"), ("POST", "/aliases/")] {
        let double = IbmKp::start().await.unwrap();
        let provider = quick(Setup::on(&double).build().await);
        let version = provider.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
        let no = r#"{"resources":[{"errorMsg":"Forbidden: The user does not have access to the specified resource"}]}"#;
        let no = Action::Reply { status: 403, retry_after: None, body: no.to_owned() };
        double.fault(RequestFault::new(Host::Keys, no).of(method).at(path));
        let error = provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let stored = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
        assert_eq!(stored.kek.expose_secret_text().unwrap(), "QUJD");
        assert!(is_tidy(&double), "{:?}", double.keys());
        let version = provider.put(&key(NAME), &kek("R0hJ"), PutMode::Update(stored.version)).await.unwrap();
        assert_eq!(provider.get(&key(NAME), Freshness::Fresh).await.unwrap().version, version);
    }
}

#[tokio::test]
async fn a_create_while_the_alias_is_missing_does_not_hide_the_key() {
    let double = IbmKp::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    double.plant(Key { aliases: Vec::new(), ..Key::rook(NAME, "QUJD") });
    let error = provider.put(&key(NAME), &kek("REVG"), PutMode::Create).await.unwrap_err();
    assert_eq!(error.existing(), Some(kms_core::Existing::Different), "{error}");
    assert_eq!(
        provider.get(&key(NAME), Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
        "QUJD"
    );
    let version = provider.get(&key(NAME), Freshness::Any).await.unwrap().version;
    provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap();
    assert!(is_tidy(&double));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_overwrite_one_key_all_succeed_and_one_of_their_keks_stays() {
    let double = IbmKp::start().await.unwrap();
    let setup = Setup::on(&double);
    let clients = [quick(setup.build().await), quick(setup.build().await)];
    for round in 0..5 {
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let provider = Arc::clone(&clients[number % 2]);
                tokio::spawn(async move {
                    let kek = Kek::generate().unwrap();
                    provider.put(&key(NAME), &kek, PutMode::Overwrite).await.map(|_| kek)
                })
            })
            .collect();
        let mut keks = Vec::new();
        for task in tasks {
            keks.push(task.await.unwrap().unwrap());
        }
        let stored = clients[0].get(&key(NAME), Freshness::Fresh).await.unwrap();
        assert!(keks.iter().any(|kek| kek.ct_eq(&stored.kek)), "round {round}");
        clients[0].put(&key(NAME), &kek("QUJD"), PutMode::Update(stored.version)).await.unwrap();
        assert!(is_tidy(&double), "round {round}: {:?}", double.keys());
    }
}

/// Starts an update whose first request of this kind is slow, and waits until that request is in flight.
async fn slow_update(
    double: &IbmKp,
    setup: &Setup<'_>,
    method: &'static str,
    path: &'static str,
) -> tokio::task::JoinHandle<kms_core::Result<kms_core::KeyVersion>> {
    let provider = setup.build().await;
    let version = provider.get(&key(NAME), Freshness::Any).await.unwrap().version;
    double
        .fault(RequestFault::new(Host::Keys, Action::Delay(Duration::from_millis(300))).of(method).at(path));
    let task =
        tokio::spawn(
            async move { provider.put(&key(NAME), &kek("U0xPVw=="), PutMode::Update(version)).await },
        );
    let begun = |line: &String| line.starts_with(method) && line.contains(path);
    while !double.lines().iter().any(begun) {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_comes_late_is_a_conflict_and_leaves_nothing() {
    let double = IbmKp::start().await.unwrap();
    let setup = Setup::on(&double);
    double.plant(Key::rook(NAME, "QUJD"));
    let slow = slow_update(&double, &setup, "POST", "/keys").await;
    let quick = setup.build().await;
    let version = quick.get(&key(NAME), Freshness::Fresh).await.unwrap().version;
    let version = quick.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap();
    let error = slow.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let stored = quick.get(&key(NAME), Freshness::Fresh).await.unwrap();
    assert_eq!((stored.kek.expose_secret_text().unwrap(), &stored.version), ("REVG", &version));
    assert!(is_tidy(&double), "{:?}", double.keys());
    // The key of the late update has been destroyed, and a search by name does not find it.
    assert_eq!(double.keys().iter().filter(|key| key.state != 5).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_during_an_update_leaves_nothing_alive() {
    for (method, path) in [("DELETE", "/aliases/"), ("POST", "/aliases/")] {
        let double = IbmKp::start().await.unwrap();
        let setup = Setup::on(&double);
        double.plant(Key::rook(NAME, "QUJD"));
        let slow = slow_update(&double, &setup, method, path).await;
        let other = setup.build().await;
        other.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
        let error = slow.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound), "{error}");
        let error = other.get(&key(NAME), Freshness::Fresh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(double.keys().iter().all(|key| key.state == 5), "{:?}", double.keys());
    }
}
