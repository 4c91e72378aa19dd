//! Copies: kills at every call, other writers, conflicts, and rotations of the source.

use std::time::Duration;

use kms_core::{DeleteMode, ErrorKind, Kek, KmsProvider as _, PutMode};
use kms_migrate::{Bytes, OnConflict, Options, Phase, Silent, copy, verify};
use kms_testkit::fake::{InjectedFault, Operation};

use crate::{Scene, key};

const KEYS: usize = 20;

#[tokio::test]
async fn a_copy_takes_two_calls_a_key_and_a_fixed_number_of_others() {
    let scene = Scene::with_keys(KEYS).await;
    scene.copied(&mut scene.journal()).await;
    // The canary is read once at the source, and stored once at the target.
    assert_eq!(scene.from.count(Operation::Get), KEYS + 1);
    assert_eq!((scene.to.count(Operation::Put), scene.to.count(Operation::Get)), (KEYS + 1, 0));
    scene.assert_copied_once(KEYS).await;
}

#[tokio::test]
async fn a_run_that_ends_at_any_call_is_resumed_and_no_key_is_written_twice() {
    for call in 0..KEYS + 2 {
        for (operation, applied) in [(Operation::Put, false), (Operation::Put, true), (Operation::Get, false)]
        {
            let scene = Scene::with_keys(KEYS).await;
            let side = if operation == Operation::Get { &scene.from } else { &scene.to };
            side.push_times(call, operation, InjectedFault::pass);
            // Afterwards every call fails: the process is gone.
            side.push_times(3 * KEYS, operation, || {
                let fault = InjectedFault::error(ErrorKind::Unavailable);
                if applied { fault.applied() } else { fault }
            });
            let mut journal = scene.journal();
            let ended = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await;
            assert_eq!(ended.is_err(), call < KEYS + 1, "{operation:?} {call}");
            drop(journal);
            scene.reset();
            let mut journal = scene.journal();
            scene.copied(&mut journal).await;
            scene.assert_copied_once(KEYS).await;
            // Every key counts as a copy of this migration, so that it can be taken back.
            assert!(journal.entries().all(|(_, entry)| entry.is_own_copy()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_in_the_middle_of_calls_is_resumed() {
    for call in [0, 1, 7, KEYS] {
        let scene = Scene::with_keys(KEYS).await;
        scene.to.push_times(call, Operation::Put, InjectedFault::pass);
        scene.to.push_times(KEYS, Operation::Put, || InjectedFault::hang().applied());
        let mut journal = scene.journal();
        let options = Options::default();
        let run = copy(scene.pair(), &mut journal, &options, &Silent);
        assert!(tokio::time::timeout(Duration::from_secs(1), run).await.is_err(), "{call}: it hangs");
        drop(journal);
        scene.reset();
        scene.copied(&mut scene.journal()).await;
        scene.assert_copied_once(KEYS).await;
    }
}

#[tokio::test]
async fn an_equal_kek_is_done_and_another_one_stops_unless_it_may_be_replaced() {
    let scene = Scene::with_keys(3).await;
    let kek = scene.kek(&scene.from, &key(0)).await.unwrap();
    scene.to.put(&key(0), &kek, PutMode::Create).await.unwrap();
    scene.to.put(&key(1), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
    let before = scene.kek(&scene.to, &key(1)).await.unwrap();
    let mut journal = scene.journal();
    let copied = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
    assert_eq!((copied.outcomes["equal"], copied.outcomes["created"], copied.failed.len()), (1, 1, 1));
    let failed = &copied.failed[0];
    assert!(failed.name == key(1) && failed.error.kind() == ErrorKind::AlreadyExists, "{failed:?}");
    assert!(scene.kek(&scene.to, &key(1)).await.unwrap().ct_eq(&before));

    let mut options = Options::default();
    options.on_conflict = OnConflict::Replace;
    let copied = copy(scene.pair(), &mut journal, &options, &Silent).await.unwrap();
    assert_eq!((copied.outcomes["replaced"], copied.outcomes["done-before"]), (1, 2), "{copied:?}");
    let verified = verify(scene.pair(), &mut journal, &options, &Bytes, &Silent).await.unwrap();
    assert!(verified.is_proven() && verified.equal == 3);
}

#[tokio::test]
async fn a_replacement_that_another_writer_overtakes_changes_nothing() {
    let scene = Scene::with_keys(1).await;
    scene.to.put(&key(0), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
    scene.reset();
    let theirs = Kek::generate().unwrap();
    let mut options = Options::default();
    options.on_conflict = OnConflict::Replace;
    // The canary is stored first; then another writer is faster than the replacement.
    scene.to.push(Operation::Put, InjectedFault::pass());
    scene.to.inner().put(&key(0), &theirs, PutMode::Overwrite).await.unwrap();
    scene.to.push(Operation::Put, InjectedFault::error(ErrorKind::Conflict).overtaken_by(theirs.duplicate()));
    let copied = copy(scene.pair(), &mut scene.journal(), &options, &Silent).await.unwrap();
    assert_eq!(copied.failed[0].error.kind(), ErrorKind::Conflict);
    assert!(scene.kek(&scene.to, &key(0)).await.unwrap().ct_eq(&theirs));
}

#[tokio::test]
async fn a_rotation_of_the_source_is_seen_and_the_next_copy_renews_its_own_copy_alone() {
    let scene = Scene::with_keys(3).await;
    let mut journal = scene.journal();
    scene.copied(&mut journal).await;
    scene.overwrite(&scene.from, &key(1)).await;
    let verified = verify(scene.pair(), &mut journal, &Options::default(), &Bytes, &Silent).await.unwrap();
    assert_eq!((verified.equal, verified.failed.len(), journal.phase()), (2, 1, Phase::Copying));
    assert_eq!(verified.failed[0].name, key(1));

    let copied = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
    assert_eq!((copied.outcomes["renewed"], copied.outcomes["done-before"]), (1, 2), "{copied:?}");
    let verified = verify(scene.pair(), &mut journal, &Options::default(), &Bytes, &Silent).await.unwrap();
    assert!(verified.is_proven() && journal.phase() == Phase::Verified);

    // What another writer has put there is not a copy of this migration.
    scene.overwrite(&scene.from, &key(2)).await;
    scene.overwrite(&scene.to, &key(2)).await;
    let copied = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
    assert_eq!(copied.failed[0].error.kind(), ErrorKind::AlreadyExists, "{copied:?}");
    assert_eq!(journal.phase(), Phase::Copying, "a new copy takes the verification back");
}

#[tokio::test]
async fn a_renewal_that_a_kill_interrupts_is_finished() {
    for applied in [false, true] {
        let scene = Scene::with_keys(1).await;
        scene.copied(&mut scene.journal()).await;
        scene.overwrite(&scene.from, &key(0)).await;
        scene.reset();
        scene.to.push(Operation::Put, InjectedFault::pass());
        let fault = InjectedFault::error(ErrorKind::Unavailable);
        scene.to.push(Operation::Put, if applied { fault.applied() } else { fault });
        let _killed =
            copy(scene.pair(), &mut scene.journal(), &Options::default(), &Silent).await.unwrap_err();
        let mut journal = scene.journal();
        let copied = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap();
        assert!(copied.failed.is_empty(), "{applied}: {copied:?}");
        let kek = scene.kek(&scene.to, &key(0)).await.unwrap();
        assert!(scene.kek(&scene.from, &key(0)).await.unwrap().ct_eq(&kek));
        assert!(journal.entry(&key(0)).unwrap().is_own_copy());
    }
}

#[tokio::test]
async fn one_place_under_two_names_is_found_before_anything_is_written() {
    let scene = Scene::of_one_place(3).await;
    let mut journal = scene.journal();
    let error = copy(scene.pair(), &mut journal, &Options::default(), &Silent).await.unwrap_err();
    assert!(error.kind() == ErrorKind::ConfigInvalid && error.to_string().contains("same place"), "{error}");
    assert_eq!(crate::names(&scene.from).await.len(), 3, "the canary is gone");
    assert_eq!(journal.entries().count(), 0);
}

#[tokio::test]
async fn an_incomplete_list_of_either_side_stops_the_run() {
    for from in [true, false] {
        let scene = Scene::with_keys(3).await;
        let side = if from { &scene.from } else { &scene.to };
        side.push(Operation::List, InjectedFault::error(ErrorKind::Incomplete));
        let error = copy(scene.pair(), &mut scene.journal(), &Options::default(), &Silent).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incomplete);
        assert_eq!(scene.to.count(Operation::Put), 0);
    }
}

#[tokio::test]
async fn named_keys_alone_are_copied() {
    let scene = Scene::with_keys(3).await;
    let mut options = Options::default();
    options.only = [key(1)].into();
    let copied = copy(scene.pair(), &mut scene.journal(), &options, &Silent).await.unwrap();
    assert_eq!((copied.keys, crate::names(&scene.to).await), (1, vec![key(1)]));
    options.only = [key(7)].into();
    let error = copy(scene.pair(), &mut scene.journal(), &options, &Silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_key_that_is_deleted_at_the_target_is_created_again() {
    let scene = Scene::with_keys(2).await;
    scene.copied(&mut scene.journal()).await;
    scene.to.inner().delete(&key(0), DeleteMode::Destroy).await.unwrap();
    scene.copied(&mut scene.journal()).await;
    scene.assert_copied_once(2).await;
}
