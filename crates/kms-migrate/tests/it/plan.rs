//! Plans: what stands in the way, and that a look changes nothing.

use kms_core::{ErrorKind, Kek, KmsProvider as _, PutMode};
use kms_migrate::{OnConflict, Options, Silent, plan};
use kms_testkit::fake::{InjectedFault, Operation};

use crate::{Scene, key};

#[tokio::test]
async fn a_plan_counts_what_there_is_to_do_and_writes_nothing() {
    let scene = Scene::with_keys(4).await;
    let kek = scene.kek(&scene.from, &key(0)).await.unwrap();
    scene.to.put(&key(0), &kek, PutMode::Create).await.unwrap();
    scene.to.put(&key(1), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
    scene.to.put(&"of-others".parse().unwrap(), &kek, PutMode::Create).await.unwrap();
    scene.reset();
    let found = plan(scene.pair(), &Options::default(), &Silent).await.unwrap();
    assert_eq!((found.keys, found.to_create, found.equal, found.only_at_target), (4, 2, 1, 1), "{found:?}");
    assert!(!found.is_clear() && found.failed[0].name == key(1), "{found:?}");
    let mut options = Options::default();
    options.on_conflict = OnConflict::Replace;
    let found = plan(scene.pair(), &options, &Silent).await.unwrap();
    assert!(found.is_clear() && found.to_replace == 1, "{found:?}");
    // Keys of the source that are not named are not keys of the target alone.
    options.only = [key(3)].into();
    let found = plan(scene.pair(), &options, &Silent).await.unwrap();
    assert_eq!((found.keys, found.to_create, found.only_at_target), (1, 1, 1), "{found:?}");
    for side in [&scene.from, &scene.to] {
        assert_eq!((side.count(Operation::Put), side.count(Operation::Delete)), (0, 0));
    }
}

#[tokio::test]
async fn keks_that_the_target_changes_stop_and_are_named_without_being_shown() {
    let scene = Scene::with_keys(1).await;
    scene.from.put(&key(1), &Kek::parse("canary text").unwrap(), PutMode::Create).await.unwrap();
    let mut options = Options::default();
    options.decodes_base64 = true;
    let found = plan(scene.pair(), &options, &Silent).await.unwrap();
    let failed = &found.failed[0];
    assert!(failed.name == key(1) && failed.error.to_string().contains("canonical base64"), "{found:?}");
    assert!(!format!("{found:?}").contains("canary text"));
}

#[tokio::test]
async fn one_place_under_two_names_is_suspected() {
    let scene = Scene::of_one_place(2).await;
    let found = plan(scene.pair(), &Options::default(), &Silent).await.unwrap();
    assert!(!found.is_clear() && found.stops[0].contains("one place"), "{found:?}");
}

#[tokio::test]
async fn an_incomplete_list_and_a_failed_login_end_the_plan() {
    let scene = Scene::with_keys(3).await;
    for (operation, kind) in
        [(Operation::List, ErrorKind::Incomplete), (Operation::Rights, ErrorKind::Unavailable)]
    {
        scene.to.push(operation, InjectedFault::error(kind));
        let error = plan(scene.pair(), &Options::default(), &Silent).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}
