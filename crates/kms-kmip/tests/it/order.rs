//! Tests of the order of objects without an index: a writer reports "stored" only once no other object can come first.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::common::{CLUSTER, Setup, kek, key};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{DeleteMode, ErrorKind, Freshness, Kek, KmsProvider as _, KmsProviderExt as _, PutMode};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::fake::kmip::{KmipDouble, Pace, Quirks, Trick};
use tokio::{sync::Notify, task::JoinHandle};

use crate::wire::REGISTER;

const NAME: &str = "rook-ceph-osd-encryption-key-a";
/// Rivals of an object in its second. It comes before all of them in one of so many rounds only.
const RIVALS: u8 = 20;

fn stopped() -> Quirks {
    Quirks { clock: Pace::Stopped, uuids: true, ..Quirks::default() }
}

async fn start(quirks: Quirks) -> (KmipDouble, Arc<Kmip>) {
    let server = KmipDouble::start(quirks).await.unwrap();
    let kmip = Setup::on(&server.endpoint(), server.pki()).build().await;
    (server, Arc::new(kmip))
}

/// Waits until the server has served so many more requests, or the task has ended.
async fn served<T>(server: &KmipDouble, more: usize, task: &JoinHandle<T>) {
    let end = server.requests() + more;
    while server.requests() < end && !task.is_finished() {
        tokio::task::yield_now().await;
    }
}

/// Waits until the server has so many objects.
async fn registered(server: &KmipDouble, objects: usize) {
    while server.objects() < objects {
        tokio::task::yield_now().await;
    }
}

/// Registers objects of writers that have looked before the first object was there.
fn rivals(server: &KmipDouble, application: &[(&str, &str)]) {
    for byte in 0..RIVALS {
        server.insert(&[byte; 128], &[NAME], application);
    }
}

async fn read(kmip: &Kmip) -> Kek {
    kmip.get(&key("a"), Freshness::Fresh).await.unwrap().kek
}

#[tokio::test]
async fn a_create_is_not_stored_while_an_object_of_the_same_second_can_come_first() {
    for _ in 0..3 {
        let (server, kmip) = start(stopped()).await;
        let ours = kek();
        let (of, by) = (ours.duplicate(), kmip.clone());
        let task = tokio::spawn(async move { by.put(&key("a"), &of, PutMode::Create).await });
        registered(&server, 1).await;
        served(&server, 12, &task).await;
        assert!(!task.is_finished(), "the second of the object is not over");
        rivals(&server, &[("rook-kms", CLUSTER)]);
        server.advance(Duration::from_secs(2));
        let result = task.await.unwrap();
        let stored = read(&kmip).await;
        assert_eq!(stored.ct_eq(&ours), result.is_ok(), "{result:?}");
        let error = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(read(&kmip).await.ct_eq(&stored));
    }
}

#[tokio::test]
async fn an_update_is_not_stored_while_an_object_of_the_same_second_can_come_first() {
    for _ in 0..3 {
        let (server, kmip) = start(Quirks { clock: Pace::Times(100), ..stopped() }).await;
        let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        server.change(|quirks| quirks.clock = Pace::Stopped);
        let ours = kek();
        let (of, by, expected) = (ours.duplicate(), kmip.clone(), version.clone());
        let task = tokio::spawn(async move { by.put(&key("a"), &of, PutMode::Update(expected)).await });
        registered(&server, 2).await;
        served(&server, 12, &task).await;
        assert!(!task.is_finished(), "the second of the object is not over");
        rivals(&server, &[("rook-kms", &format!("{CLUSTER} 1 {version}"))]);
        server.advance(Duration::from_secs(2));
        let result = task.await.unwrap();
        assert_eq!(read(&kmip).await.ct_eq(&ours), result.is_ok(), "{result:?}");
    }
}

#[tokio::test]
async fn a_read_waits_too_so_that_it_returns_what_every_later_read_returns() {
    let (server, kmip) = start(stopped()).await;
    server.insert(&[99; 128], &[NAME], &[("rook-kms", CLUSTER)]);
    let by = kmip.clone();
    let task = tokio::spawn(async move { read(&by).await });
    served(&server, 12, &task).await;
    rivals(&server, &[("rook-kms", CLUSTER)]);
    server.advance(Duration::from_secs(2));
    let first = task.await.unwrap();
    assert!(read(&kmip).await.ct_eq(&first));
    let before = server.requests();
    assert!(read(&kmip).await.ct_eq(&first));
    assert!(server.requests() - before <= usize::from(RIVALS) + 3, "an old object is read at once");
}

#[tokio::test]
async fn a_clock_that_is_behind_the_date_of_an_object_does_not_block_a_read_for_ever() {
    let (server, kmip) = start(stopped()).await;
    server.insert(&[7; 128], &[NAME], &[("rook-kms", CLUSTER)]);
    let begin = Instant::now();
    assert_eq!(read(&kmip).await.expose_secret_text().unwrap(), STANDARD.encode([7; 128]));
    assert!(begin.elapsed() >= Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn without_time_stamps_our_own_clock_measures_the_second() {
    let quirks = Quirks { no_time_stamp: true, clock: Pace::Real, ..stopped() };
    let (server, kmip) = start(quirks).await;
    let (ours, begin) = (kek(), Instant::now());
    let version = kmip.put(&key("a"), &ours, PutMode::Create).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
    assert!(stored.kek.ct_eq(&ours) && stored.version == version);
    assert_eq!(server.objects(), 1);
}

#[tokio::test]
async fn without_initial_dates_writes_need_an_index() {
    let (server, kmip) = start(Quirks { no_initial_date: true, ..stopped() }).await;
    let error = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("Initial Date") && error.to_string().contains("index"), "{error}");
    assert_eq!(server.objects(), 0);
    // What is there can be read.
    server.insert(&[7; 128], &[NAME], &[("rook-kms", CLUSTER)]);
    assert_eq!(read(&kmip).await.expose_secret_text().unwrap(), STANDARD.encode([7; 128]));
}

#[tokio::test]
async fn with_an_index_no_operation_waits_for_the_clock() {
    for no_initial_date in [false, true] {
        let server = KmipDouble::start(Quirks { no_initial_date, ..stopped() }).await.unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki()).index(Arc::new(MemoryIndex::new()));
        let kmip = setup.build().await;
        let work = async {
            let version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
            let next = kek();
            let version = kmip.put(&key("a"), &next, PutMode::Update(version)).await.unwrap();
            assert!(read(&kmip).await.ct_eq(&next));
            assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 1);
            kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(8), work).await.unwrap();
    }
}

/// A writer has looked before the object of a crashed writer was there, and registers its own object after a read has
/// returned that one's KEK.
#[tokio::test]
async fn with_an_index_what_a_fresh_read_has_found_by_name_is_the_key_for_every_later_reader() {
    let server = KmipDouble::start(Quirks { uuids: true, ..Quirks::default() }).await.unwrap();
    let index = Arc::new(MemoryIndex::new());
    let setup = Setup::on(&server.endpoint(), server.pki()).index(index.clone());
    let (writer, reader, released) = (setup.build().await, setup.build().await, Arc::new(Notify::new()));
    server.trick_on(REGISTER, Trick::Hold(released.clone()));
    let task = tokio::spawn(async move { writer.put(&key("a"), &kek(), PutMode::Create).await });
    server.tricked().await;
    server.insert(&[7; 128], &[NAME], &[("rook-kms", CLUSTER)]);
    let found = reader.ensure(&key("a"), kek()).await.unwrap();
    assert!(!found.created && found.stored.kek.expose_secret_text().unwrap() == STANDARD.encode([7; 128]));
    released.notify_one();
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(read(&setup.build().await).await.ct_eq(&found.stored.kek));
    assert_eq!(server.objects(), 1);
}
