//! Tests of superseded keys: they are marked on the service, and never become the key again.

use crate::common::{Setup, kek, key, names, quick};
use kms_core::{DeleteMode, ErrorKind, Freshness, HistoryMode, Kek, KekState, KmsProvider, PastKek, PutMode};
use kms_testkit::fake::ibmkp::{Action, Destroyed, Host, IbmKp, Key, RequestFault, Switches};

const NAME: &str = "set1-data-0x7dwl";

/// The habits of the service that IBM does not document, by the bits of a number.
fn habits(numbers: impl IntoIterator<Item = u8>) -> impl Iterator<Item = impl Fn(&mut Switches)> {
    numbers.into_iter().map(|bits| {
        move |switches: &mut Switches| {
            switches.destroyed = if bits & 1 == 0 { Destroyed::Gone } else { Destroyed::Shown };
            switches.alias_stays = bits & 2 != 0;
            switches.hides_aliases = bits & 4 != 0;
            switches.late_lists = bits & 8 != 0;
        }
    })
}

/// Asserts that the key is absent for every read, and for lists unless the lists of the service lag.
async fn assert_absent(double: &IbmKp, provider: &dyn KmsProvider, what: &str) {
    for freshness in [Freshness::Any, Freshness::Fresh] {
        let error = provider.get(&key(NAME), freshness).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
    }
    let mut late = false;
    double.switch(|switches| late = switches.late_lists);
    assert!(late || names(provider).await.is_empty(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_out_kek_does_not_come_back_after_rook_has_deleted_the_key() {
    for habit in habits(0..16) {
        for rounds in 1..=2 {
            let double = IbmKp::start().await.unwrap();
            double.switch(&habit);
            let provider = quick(Setup::on(&double).cluster("rook-ceph/a").build().await);
            double.plant(Key::rook(NAME, "QUJD"));
            let mut version = provider.get(&key(NAME), Freshness::Fresh).await.unwrap().version;
            for round in 0..rounds {
                let text = ["REVG", "R0hJ"][round];
                version = provider.put(&key(NAME), &kek(text), PutMode::Update(version)).await.unwrap();
            }
            assert!(double.delete_as_rook(NAME));
            let mut switches = None;
            double.switch(|now| switches = Some(now.clone()));
            let what = format!("{rounds} updates, {switches:?}");
            assert_absent(&double, provider.as_ref(), &what).await;
            let error = provider.put(&key(NAME), &kek("SktM"), PutMode::Update(version)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
            if !switches.unwrap().alias_stays {
                // A new key under the name is the caller's, not the superseded one.
                provider.put(&key(NAME), &kek("TU5P"), PutMode::Create).await.unwrap();
                let stored = provider.get(&key(NAME), Freshness::Any).await.unwrap();
                assert_eq!(stored.kek.expose_secret_text().unwrap(), "TU5P", "{what}");
                provider.put(&key(NAME), &kek("SktM"), PutMode::Update(stored.version)).await.unwrap();
                provider.delete(&key(NAME), DeleteMode::Destroy).await.unwrap();
                assert!(double.keys().iter().all(|key| key.state == 5), "{what}: {:?}", double.keys());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_key_does_not_come_back_when_its_successor_has_been_purged() {
    let double = IbmKp::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    double.plant(Key::rook(NAME, "QUJD"));
    let version = provider.get(&key(NAME), Freshness::Fresh).await.unwrap().version;
    provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap();
    assert!(double.delete_as_rook(NAME));
    double.forget_deleted();
    // Only the mark on the superseded key is left to tell.
    assert_eq!(double.keys().len(), 1);
    assert_absent(&double, provider.as_ref(), "purged").await;
    provider.put(&key(NAME), &kek("TU5P"), PutMode::Create).await.unwrap();
    assert_eq!(
        provider.get(&key(NAME), Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
        "TU5P"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_rooks_delete_the_current_key_can_be_undeleted_and_every_kek_be_read() {
    for habit in habits(0..16) {
        let double = IbmKp::start().await.unwrap();
        double.switch(&habit);
        let provider = quick(Setup::on(&double).cluster("rook-ceph/a").build().await);
        double.plant(Key { created: 1_700_000_000, ..Key::rook(NAME, "QUJD") });
        let version = provider.get(&key(NAME), Freshness::Fresh).await.unwrap().version;
        let version = provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap();
        assert!(double.delete_as_rook(NAME));
        let texts = async |mode| {
            let past = provider.history(&key(NAME), mode).await.unwrap();
            let text = |one: PastKek| {
                (
                    one.state,
                    one.kek.map(|kek| kek.expose_secret_text().unwrap().to_owned()).unwrap_or_default(),
                )
            };
            past.into_iter().map(text).collect::<Vec<_>>()
        };
        let old = (KekState::Superseded, "QUJD".to_owned());
        assert_eq!(texts(HistoryMode::ReadOnly).await, [(KekState::Deleted, String::new()), old.clone()]);
        assert_eq!(texts(HistoryMode::Restore).await, [(KekState::Deleted, "REVG".to_owned()), old.clone()]);
        assert_absent(&double, provider.as_ref(), "after the history").await;
        // The key of the last update comes back, not the superseded one, and Rook finds it.
        assert_eq!(provider.undelete(&key(NAME)).await.unwrap(), version);
        assert_eq!(texts(HistoryMode::ReadOnly).await, [(KekState::Current, "REVG".to_owned()), old]);
        assert!(double.delete_as_rook(NAME));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kek_that_is_stored_again_after_it_was_superseded_is_the_key() {
    let double = IbmKp::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let mut version = provider.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    // The undo of a rotation and its fence store the first KEK again.
    for text in ["REVG", "QUJD", "QUJD"] {
        version = provider.put(&key(NAME), &kek(text), PutMode::Update(version)).await.unwrap();
        let stored = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
        assert_eq!((stored.kek.expose_secret_text().unwrap(), &stored.version), (text, &version));
    }
    assert_eq!(provider.retire_superseded(&key(NAME), &version).await.unwrap(), 3);
    assert_eq!(
        provider.get(&key(NAME), Freshness::Fresh).await.unwrap().kek.expose_secret_text().unwrap(),
        "QUJD"
    );
    assert!(double.delete_as_rook(NAME));
    assert_absent(&double, provider.as_ref(), "stored again").await;
}

/// Kills an update before or after its request number `step`. Returns whether the update had succeeded before.
async fn killed(double: &IbmKp, step: usize, action: Action) -> bool {
    let provider = Setup::on(double).build().await;
    let version = provider.get(&key(NAME), Freshness::Any).await.unwrap().version;
    double.fault(RequestFault::new(Host::Keys, action).after(step));
    double.fault(RequestFault::new(Host::Keys, Action::LoseRequest).after(step).times(usize::MAX));
    let done = provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.is_ok();
    double.heal();
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_step_of_an_update_one_key_counts_for_rook_and_for_us_and_rooks_delete_ends_it() {
    for action in [Action::LoseRequest, Action::LoseAnswer] {
        for fresh_read in [false, true] {
            for habit in habits([0, 3, 7, 8, 15]) {
                for step in 0.. {
                    let double = IbmKp::start().await.unwrap();
                    double.switch(&habit);
                    double.plant(Key::rook(NAME, "QUJD"));
                    let done = killed(&double, step, action.clone()).await;
                    let what = format!("{action:?} at step {step}, fresh read: {fresh_read}");
                    let provider = quick(Setup::on(&double).build().await);
                    let freshness = if fresh_read { Freshness::Fresh } else { Freshness::Any };
                    let ours = provider.get(&key(NAME), freshness).await.unwrap();
                    let of_rook = double
                        .keys()
                        .into_iter()
                        .find(|key| key.state != 5 && key.aliases.iter().any(|alias| alias == NAME));
                    assert!(of_rook.is_some() || !fresh_read, "{what}: a fresh read completes the update");
                    if let Some(of_rook) = of_rook {
                        assert_eq!(ours.version.as_str(), of_rook.id, "{what}");
                        assert!(double.delete_as_rook(NAME));
                        assert_absent(&double, provider.as_ref(), &what).await;
                    } else {
                        // Rook's delete finds no key while the alias is on its way.
                        assert_eq!(ours.kek.expose_secret_text().unwrap(), "REVG", "{what}");
                        let retired = provider.retire_superseded(&key(NAME), &ours.version).await.unwrap();
                        assert_eq!(retired, 1, "{what}");
                        let still = provider.get(&key(NAME), Freshness::Any).await.unwrap();
                        assert_eq!(still.version, ours.version, "{what}");
                    }
                    if done {
                        break;
                    }
                    assert!(step < 15, "an update has fewer steps");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_update_that_cannot_mark_or_move_leaves_the_old_key_current_and_unmarked() {
    for after in 0..2 {
        let double = IbmKp::start().await.unwrap();
        let provider = quick(Setup::on(&double).build().await);
        let version = provider.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
        let no = r#"{"resources":[{"errorMsg":"Forbidden: The user does not have access to the specified resource"}]}"#;
        let no = Action::Reply { status: 403, retry_after: None, body: no.to_owned() };
        double.fault(RequestFault::new(Host::Keys, no).of("POST").at("/aliases/").after(after));
        let error = provider.put(&key(NAME), &kek("REVG"), PutMode::Update(version)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let alive: Vec<Key> = double.keys().into_iter().filter(|key| key.state != 5).collect();
        assert_eq!(alive.len(), 1, "{alive:?}");
        assert_eq!(alive[0].aliases, [NAME]);
        assert_eq!(
            provider.get(&key(NAME), Freshness::Any).await.unwrap().kek.expose_secret_text().unwrap(),
            "QUJD"
        );
    }
}

#[tokio::test]
async fn a_superseded_key_that_gets_the_alias_back_by_hand_counts_and_can_be_updated() {
    let double = IbmKp::start().await.unwrap();
    let provider = quick(Setup::on(&double).build().await);
    let first = provider.put(&key(NAME), &kek("QUJD"), PutMode::Create).await.unwrap();
    let second = provider.put(&key(NAME), &kek("REVG"), PutMode::Update(first.clone())).await.unwrap();
    double.move_alias(NAME, second.as_str(), first.as_str());
    let stored = provider.get(&key(NAME), Freshness::Fresh).await.unwrap();
    assert_eq!((stored.kek.expose_secret_text().unwrap(), &stored.version), ("QUJD", &first));
    let third = provider.put(&key(NAME), &Kek::generate().unwrap(), PutMode::Update(first)).await.unwrap();
    assert_eq!(provider.get(&key(NAME), Freshness::Fresh).await.unwrap().version, third);
    assert_eq!(provider.retire_superseded(&key(NAME), &third).await.unwrap(), 2);
}
