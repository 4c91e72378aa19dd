//! The ends of a migration: taken back, or finished by deleting the keys of the source.

use std::collections::BTreeSet;

use kms_core::{DeleteMode, ErrorKind, Freshness, Kek, KeyName, KmsProvider as _, PutMode};
use kms_migrate::{
    Bytes, Journal, OnConflict, Options, Phase, Silent, clear, copy, undo, verify, verify_unchanged,
};
use kms_testkit::fake::{InjectedFault, Operation};

use crate::{Scene, key};

const KEYS: usize = 6;

async fn verified(scene: &Scene) -> Journal {
    let mut journal = scene.journal();
    scene.copied(&mut journal).await;
    let verified = verify(scene.pair(), &mut journal, &Options::default(), &Bytes, &Silent).await.unwrap();
    assert!(verified.is_proven(), "{verified:?}");
    journal
}

async fn switched(scene: &Scene) -> Journal {
    let mut journal = verified(scene).await;
    journal.enter(Phase::Switched).unwrap();
    journal
}

fn all() -> BTreeSet<KeyName> {
    (0..KEYS).map(key).collect()
}

#[tokio::test]
async fn undo_deletes_what_was_created_and_leaves_everything_else() {
    let scene = Scene::with_keys(KEYS).await;
    let kek = scene.kek(&scene.from, &key(0)).await.unwrap();
    scene.to.put(&key(0), &kek, PutMode::Create).await.unwrap();
    scene.to.put(&"of-others".parse().unwrap(), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
    let mut journal = verified(&scene).await;
    // Another writer has changed one copy, and one key is gone at the source.
    scene.overwrite(&scene.to, &key(1)).await;
    scene.from.inner().delete(&key(2), DeleteMode::Destroy).await.unwrap();
    scene.to.inner().delete(&key(3), DeleteMode::Destroy).await.unwrap();
    let undone = undo(scene.pair(), &mut journal, &Options::default(), false, &Silent).await.unwrap();
    assert_eq!(undone.outcomes, [("absent", 1), ("left", 1), ("removed", 2)].into(), "{undone:?}");
    let failed: BTreeSet<_> = undone.failed.iter().map(|failed| failed.name.clone()).collect();
    assert_eq!((failed, journal.phase()), ([key(1), key(2)].into(), Phase::Aborting));
    let left: BTreeSet<_> = crate::names(&scene.to).await.into_iter().collect();
    assert_eq!(left, ["of-others".parse().unwrap(), key(0), key(1), key(2)].into());
    assert_eq!(crate::names(&scene.from).await.len(), KEYS - 1, "the source is untouched");
}

#[tokio::test]
async fn undo_after_a_kill_at_any_call_of_the_copy_leaves_the_target_empty() {
    for call in 0..KEYS + 2 {
        for applied in [false, true] {
            let scene = Scene::with_keys(KEYS).await;
            scene.to.push_times(call, Operation::Put, InjectedFault::pass);
            scene.to.push_times(KEYS, Operation::Put, || {
                let fault = InjectedFault::error(ErrorKind::Unavailable);
                if applied { fault.applied() } else { fault }
            });
            let _killed = copy(scene.pair(), &mut scene.journal(), &Options::default(), &Silent).await;
            scene.reset();
            let mut journal = scene.journal();
            let undone = undo(scene.pair(), &mut journal, &Options::default(), false, &Silent).await.unwrap();
            assert!(undone.failed.is_empty() && journal.phase() == Phase::Aborted, "{undone:?}");
            assert!(crate::names(&scene.to).await.is_empty(), "{call} {applied}");
            // The same journal can begin again.
            scene.copied(&mut journal).await;
            scene.assert_copied_once(KEYS).await;
        }
    }
}

#[tokio::test]
async fn undo_is_refused_while_the_cluster_may_use_the_target_and_once_the_source_is_being_deleted() {
    let scene = Scene::with_keys(KEYS).await;
    let mut journal = switched(&scene).await;
    for (phase, in_use, refused) in [
        (Phase::Switching, false, true),
        (Phase::Switched, false, true),
        (Phase::Clearing, true, true),
        (Phase::Finished, true, true),
        (Phase::Switched, true, false),
    ] {
        journal.enter(phase).unwrap();
        let undone = undo(scene.pair(), &mut journal, &Options::default(), in_use, &Silent).await;
        assert_eq!(undone.is_err(), refused, "{phase:?} {in_use}");
    }
}

#[tokio::test]
async fn the_last_look_before_the_switch_sees_every_change_of_the_source() {
    for change in ["none", "rotated", "same-kek-again", "new", "target-rotated"] {
        let scene = Scene::with_keys(KEYS).await;
        let mut journal = verified(&scene).await;
        match change {
            "rotated" => scene.overwrite(&scene.from, &key(0)).await,
            "target-rotated" => scene.overwrite(&scene.to, &key(0)).await,
            "same-kek-again" => {
                let kek = scene.kek(&scene.from, &key(0)).await.unwrap();
                scene.from.inner().put(&key(0), &kek, PutMode::Overwrite).await.unwrap();
            }
            "new" => scene.overwrite(&scene.from, &key(KEYS)).await,
            _ => {}
        }
        let seen = verify_unchanged(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
        assert_eq!(seen.is_proven(), change == "none", "{change}: {seen:?}");
    }
    let scene = Scene::with_keys(1).await;
    let mut journal = scene.journal();
    scene.copied(&mut journal).await;
    let error = verify_unchanged(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap_err();
    assert!(error.to_string().contains("kms migrate verify"), "{error}");
}

#[tokio::test]
async fn without_versions_only_an_equal_kek_counts_as_unchanged() {
    let scene = Scene::without_versions(KEYS).await;
    let mut journal = verified(&scene).await;
    assert!(journal.entries().all(|(_, entry)| entry.verified.as_ref().unwrap().source.is_none()));
    let unchanged = verify_unchanged(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
    assert!(unchanged.is_proven());
    scene.overwrite(&scene.from, &key(0)).await;
    let changed = verify_unchanged(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
    assert_eq!(changed.failed[0].name, key(0));
    // Without a version the copy may be of another writer.
    let copied = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
    assert_eq!(
        (copied.failed[0].name.clone(), copied.failed[0].error.kind()),
        (key(0), ErrorKind::AlreadyExists)
    );
    let mut options = Options::default();
    options.on_conflict = OnConflict::Replace;
    let _copied = copy(scene.pair(), &mut journal, &options, &Silent).await.unwrap();
    drop(journal);
    let mut journal = verified(&scene).await;
    journal.enter(Phase::Switched).unwrap();
    scene.overwrite(&scene.from, &key(1)).await;
    scene.overwrite(&scene.to, &key(2)).await;
    let cleared =
        clear(scene.pair(), &mut journal, &all(), &|_, _| true, DeleteMode::Soft, &options, &Silent)
            .await
            .unwrap();
    let failed: BTreeSet<_> = cleared.failed.iter().map(|failed| failed.name.clone()).collect();
    assert_eq!((failed, cleared.outcomes["deleted"]), ([key(1), key(2)].into(), KEYS - 2));
}

#[tokio::test]
async fn a_verification_that_is_killed_takes_the_one_before_back() {
    let scene = Scene::with_keys(KEYS).await;
    let mut journal = verified(&scene).await;
    scene.to.push(Operation::Get, InjectedFault::error(ErrorKind::Unavailable));
    let run = verify(scene.pair(), &mut journal, &Options::default(), &Bytes, &Silent).await;
    assert!(run.is_err());
    drop(journal);
    assert_eq!(scene.journal().phase(), Phase::Copying);
}

#[tokio::test]
async fn a_key_that_the_escrow_does_not_have_stays_at_the_source() {
    let scene = Scene::with_keys(KEYS).await;
    let mut journal = switched(&scene).await;
    // Rotated at the target since the escrow was made.
    let mut saved = Vec::new();
    for name in all() {
        saved.push((name.clone(), scene.to.get(&name, Freshness::Fresh).await.unwrap().kek));
    }
    scene.overwrite(&scene.to, &key(0)).await;
    let is_saved = |name: &KeyName, kek: &Kek| {
        *name != key(1) && saved.iter().any(|(saved, then)| saved == name && then.ct_eq(kek))
    };
    let options = Options::default();
    let used = all();
    let run = clear(scene.pair(), &mut journal, &used, &is_saved, DeleteMode::Destroy, &options, &Silent);
    let cleared = run.await.unwrap();
    let failed: BTreeSet<_> = cleared.failed.iter().map(|failed| failed.name.clone()).collect();
    assert_eq!((failed, cleared.outcomes["deleted"]), ([key(0), key(1)].into(), KEYS - 2));
    let left: BTreeSet<_> = crate::names(&scene.from).await.into_iter().collect();
    assert_eq!(left, [key(0), key(1)].into());
}

#[tokio::test]
async fn clear_deletes_verified_keys_of_this_cluster_that_are_unchanged() {
    let scene = Scene::with_keys(KEYS).await;
    let mut journal = switched(&scene).await;
    // Rotated at the target after the switch, as OSDs do; rotated at the source; absent at the target; new at the source.
    scene.overwrite(&scene.to, &key(0)).await;
    scene.overwrite(&scene.from, &key(1)).await;
    scene.to.inner().delete(&key(2), DeleteMode::Destroy).await.unwrap();
    scene.overwrite(&scene.from, &key(KEYS)).await;
    let mut used = all();
    used.remove(&key(3));
    let options = Options::default();
    let cleared =
        clear(scene.pair(), &mut journal, &used, &|_, _| true, DeleteMode::Destroy, &options, &Silent)
            .await
            .unwrap();
    assert_eq!(cleared.outcomes, [("deleted", 3), ("left", 1)].into(), "{cleared:?}");
    let failed: BTreeSet<_> = cleared.failed.iter().map(|failed| failed.name.clone()).collect();
    assert_eq!((failed, journal.phase()), ([key(1), key(2)].into(), Phase::Clearing));
    let left: BTreeSet<_> = crate::names(&scene.from).await.into_iter().collect();
    assert_eq!(left, [key(1), key(2), key(3), key(KEYS)].into());
}

#[tokio::test]
async fn clear_is_resumed_after_a_kill_at_any_call() {
    let all = all();
    for call in 0..KEYS {
        for applied in [false, true] {
            let scene = Scene::with_keys(KEYS).await;
            let mut journal = switched(&scene).await;
            scene.reset();
            scene.from.push_times(call, Operation::Delete, InjectedFault::pass);
            scene.from.push_times(KEYS, Operation::Delete, || {
                let fault = InjectedFault::error(ErrorKind::Unavailable);
                if applied { fault.applied() } else { fault }
            });
            let options = Options::default();
            let run =
                clear(scene.pair(), &mut journal, &all, &|_, _| true, DeleteMode::Destroy, &options, &Silent);
            let _killed = run.await.unwrap_err();
            drop(journal);
            scene.reset();
            let mut journal = scene.journal();
            let run =
                clear(scene.pair(), &mut journal, &all, &|_, _| true, DeleteMode::Destroy, &options, &Silent);
            let cleared = run.await.unwrap();
            assert!(cleared.failed.is_empty() && journal.phase() == Phase::Finished, "{cleared:?}");
            assert!(crate::names(&scene.from).await.is_empty());
            assert_eq!(crate::names(&scene.to).await.len(), KEYS);
        }
    }
}

#[tokio::test]
async fn clear_is_refused_before_the_switch_and_if_both_sides_are_one_place() {
    let all = all();
    let scene = Scene::with_keys(KEYS).await;
    let mut journal = verified(&scene).await;
    let options = Options::default();
    let run = clear(scene.pair(), &mut journal, &all, &|_, _| true, DeleteMode::Destroy, &options, &Silent);
    assert_eq!(run.await.unwrap_err().kind(), ErrorKind::Conflict);

    let scene = Scene::of_one_place(KEYS).await;
    let mut journal = scene.journal();
    verify(scene.pair(), &mut journal, &options, &Bytes, &Silent).await.unwrap();
    journal.enter(Phase::Switched).unwrap();
    let run = clear(scene.pair(), &mut journal, &all, &|_, _| true, DeleteMode::Destroy, &options, &Silent);
    let error = run.await.unwrap_err();
    assert!(error.to_string().contains("same place"), "{error}");
    assert_eq!(crate::names(&scene.from).await.len(), KEYS);
}
