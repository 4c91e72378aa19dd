//! Tests of superseded objects: they are marked on the server, and never become the KEK again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use crate::common::{Setup, kek, key};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use kms_core::{
    DeleteMode, Error, ErrorKind, Freshness, HistoryMode, IndexEntry, Kek, KekState, KeyIndex, KeyInfo,
    KeyName, KeyState, KmsProvider as _, PutMode, Result,
};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::fake::kmip::{Batch, KmipDouble, Quirks};

/// Habits of servers that concern names, states and identifiers.
fn habits() -> Vec<Quirks> {
    let plain = Quirks { uuids: true, ..Quirks::default() };
    vec![
        Quirks::default(),
        plain.clone(),
        Quirks { versions: vec![(2, 1)], ..plain.clone() },
        Quirks { versions: vec![(1, 0)], destroyed_reason: true, ..plain.clone() },
        Quirks { locate_ignores_filter: true, locate_not_found: true, ..plain.clone() },
        Quirks { no_modify: true, ..plain.clone() },
        Quirks { no_modify: true, born_active: true, lifecycle_reason: true, ..plain.clone() },
        Quirks { no_modify: true, get_needs_active: true, locate_ignores_filter: true, ..plain.clone() },
        Quirks { no_application: true, ..plain.clone() },
        Quirks { no_application: true, one_name: true, no_group: true, ..plain },
    ]
}

struct Scene {
    server: KmipDouble,
    index: Option<Arc<MemoryIndex>>,
    setup: Setup,
}

impl Scene {
    async fn new(quirks: Quirks, with_index: bool) -> Self {
        let server = KmipDouble::start(quirks).await.unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki());
        let index = with_index.then(|| Arc::new(MemoryIndex::new()));
        let setup = match &index {
            Some(index) => setup.index(index.clone()),
            None => setup,
        };
        Self { server, index, setup }
    }

    /// A new process.
    async fn kmip(&self) -> Kmip {
        self.setup.build().await
    }

    /// Destroys the object that Rook knows, and removes the Secret, as the garbage collection of Kubernetes does.
    async fn delete_as_rook(&self, current: &str) {
        assert!(self.server.destroy_as_rook(current));
        if let Some(index) = &self.index {
            assert_eq!(*index.get(&key("a")).await.unwrap().unwrap().uid, current);
            index.remove(&key("a"));
        }
    }
}

async fn assert_absent(kmip: &Kmip, what: &str) {
    for freshness in [Freshness::Any, Freshness::Fresh] {
        let error = kmip.get(&key("a"), freshness).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
    }
    let listed: Vec<_> = kmip.list().try_collect().await.unwrap();
    assert!(listed.is_empty(), "{what}: {listed:?}");
}

#[tokio::test]
async fn a_rotated_out_kek_does_not_come_back_after_rook_has_deleted_the_key() {
    for quirks in habits() {
        for with_index in [false, true] {
            if !with_index && quirks.one_name {
                // Without an index such a server allows no updates.
                continue;
            }
            for from_rook in [false, true] {
                if from_rook && !with_index {
                    continue;
                }
                let what = format!("index: {with_index}, from Rook: {from_rook}, {quirks:?}");
                let scene = Scene::new(quirks.clone(), with_index).await;
                let kmip = scene.kmip().await;
                if from_rook {
                    let uid = scene.server.insert_rooks(&[7; 128], 256);
                    scene.index.as_ref().unwrap().set(&key("a"), &uid);
                } else {
                    kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
                }
                let mut version = kmip.get(&key("a"), Freshness::Fresh).await.unwrap().version;
                for _ in 0..3 {
                    let next = kek();
                    version = kmip.put(&key("a"), &next, PutMode::Update(version)).await.unwrap();
                    // A rollback to Rook works: the current object is readable by its identifier.
                    let stored = scene.kmip().await.get(&key("a"), Freshness::Any).await.unwrap();
                    assert!(stored.kek.ct_eq(&next) && stored.version == version, "{what}");
                }
                scene.delete_as_rook(version.as_str()).await;
                assert_absent(&kmip, &what).await;
                let other = scene.kmip().await;
                assert_absent(&other, &what).await;
                let error = other.put(&key("a"), &kek(), PutMode::Update(version)).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}");
                // A create does not bind the Secret to a superseded object.
                let new = kek();
                let created = other.put(&key("a"), &new, PutMode::Create).await.unwrap();
                let stored = scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap();
                assert!(stored.kek.ct_eq(&new) && stored.version == created, "{what}");
                let next = kek();
                let version = other.put(&key("a"), &next, PutMode::Update(created)).await.unwrap();
                assert!(kmip.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&next), "{what}");
                kmip.retire_superseded(&key("a"), &version).await.unwrap();
                assert!(other.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&next), "{what}");
                // Objects without a label may be another cluster's.
                assert!(scene.server.objects() == 1 || quirks.one_name, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_delete_destroys_superseded_objects_without_a_current_one() {
    for quirks in habits() {
        let scene = Scene::new(quirks, true).await;
        let kmip = scene.kmip().await;
        let first = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        let second = kmip.put(&key("a"), &kek(), PutMode::Update(first)).await.unwrap();
        scene.delete_as_rook(second.as_str()).await;
        kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!(scene.server.objects(), 0);
        let error = kmip.delete(&key("a"), DeleteMode::Destroy).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

#[tokio::test]
async fn superseded_keks_can_still_be_read_for_a_recovery() {
    for quirks in habits() {
        for with_index in [false, true] {
            if !with_index && quirks.one_name {
                continue;
            }
            let what = format!("index: {with_index}, {quirks:?}");
            let has_labels = !quirks.one_name;
            let scene = Scene::new(quirks.clone(), with_index).await;
            let kmip = scene.kmip().await;
            let keks = [kek(), kek(), kek()];
            let mut version = kmip.put(&key("a"), &keks[0], PutMode::Create).await.unwrap();
            for kek in &keks[1..] {
                version = kmip.put(&key("a"), kek, PutMode::Update(version)).await.unwrap();
            }
            let found = async |state: KekState| {
                let past = scene.kmip().await.history(&key("a"), HistoryMode::ReadOnly).await.unwrap();
                let of_state = past.into_iter().filter(|one| one.state == state);
                of_state.map(|one| one.kek.unwrap()).collect::<Vec<_>>()
            };
            let current = found(KekState::Current).await;
            assert!(current.len() == 1 && current[0].ct_eq(&keks[2]), "{what}");
            if has_labels {
                let superseded = found(KekState::Superseded).await;
                assert!(superseded.len() == 2, "{what}: {superseded:?}");
                assert!(superseded.iter().any(|kek| kek.ct_eq(&keks[0])), "{what}");
                scene.delete_as_rook(version.as_str()).await;
                assert!(found(KekState::Current).await.is_empty(), "{what}");
                assert_eq!(found(KekState::Superseded).await.len(), 2, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_kek_that_is_stored_again_after_it_was_superseded_is_the_key() {
    for with_index in [false, true] {
        let scene = Scene::new(Quirks::default(), with_index).await;
        let kmip = scene.kmip().await;
        let (first, second) = (kek(), kek());
        let mut version = kmip.put(&key("a"), &first, PutMode::Create).await.unwrap();
        // The undo of a rotation and its fence store the first KEK again.
        for kek in [&second, &first, &first] {
            version = kmip.put(&key("a"), kek, PutMode::Update(version)).await.unwrap();
            assert!(scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(kek));
        }
        assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 3);
        scene.delete_as_rook(version.as_str()).await;
        assert_absent(&scene.kmip().await, "stored again").await;
    }
}

/// A rotation with an index stores the KEK once more before it stores the new one.
#[tokio::test]
async fn each_rotation_leaves_one_superseded_object_although_it_stores_the_kek_once_more() {
    for quirks in habits() {
        for (with_index, from_rook) in [(false, false), (true, false), (true, true)] {
            if !with_index && quirks.one_name {
                continue;
            }
            let what = format!("index: {with_index}, from Rook: {from_rook}, {quirks:?}");
            let scene = Scene::new(quirks.clone(), with_index).await;
            if from_rook {
                let uid = scene.server.insert_rooks(&[7; 128], 256);
                scene.index.as_ref().unwrap().set(&key("a"), &uid);
            } else {
                scene.kmip().await.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
            }
            for rotation in 1..=4 {
                let kmip = scene.kmip().await;
                let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
                let mut version = stored.version.clone();
                if with_index {
                    version = kmip.put(&key("a"), &stored.kek, PutMode::Update(version)).await.unwrap();
                }
                let next = kek();
                version = kmip.put(&key("a"), &next, PutMode::Update(version)).await.unwrap();
                assert_eq!(scene.server.objects(), rotation + 1, "{what}");
                // The KEK before stays for a recovery.
                let history = || async { kmip.history(&key("a"), HistoryMode::ReadOnly).await.unwrap() };
                let is_there = |past: &kms_core::PastKek| past.kek.as_ref().unwrap().ct_eq(&stored.kek);
                assert!(history().await.iter().any(is_there), "{what}");
                let read = scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap();
                assert!(read.kek.ct_eq(&next) && read.version == version, "{what}");
            }
        }
    }
}

/// An index whose first answer is an entry from before the last update.
#[derive(Debug)]
struct Outdated {
    current: Arc<MemoryIndex>,
    first: Mutex<Option<IndexEntry>>,
}

#[async_trait]
impl KeyIndex for Outdated {
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>> {
        let first = self.first.lock().unwrap().take();
        if first.is_some() { Ok(first) } else { self.current.get(name).await }
    }

    async fn create(&self, name: &KeyName, uid: &str) -> Result<String> {
        self.current.create(name, uid).await
    }

    async fn swap(&self, name: &KeyName, version: &str, uid: &str) -> Result<String> {
        self.current.swap(name, version, uid).await
    }

    async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        self.current.delete(name, version).await
    }

    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>> {
        self.current.list().await
    }
}

#[tokio::test]
async fn a_read_whose_object_was_replaced_and_destroyed_after_its_look_at_the_index_looks_again() {
    let scene = Scene::new(Quirks::default(), true).await;
    let (kmip, index) = (scene.kmip().await, scene.index.clone().unwrap());
    let old = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
    let first = Mutex::new(index.get(&key("a")).await.unwrap());
    let next = kek();
    let version = kmip.put(&key("a"), &next, PutMode::Update(old)).await.unwrap();
    assert_eq!(kmip.retire_superseded(&key("a"), &version).await.unwrap(), 1);
    let outdated = Outdated { current: index, first };
    let reader = scene.setup.clone().index(Arc::new(outdated)).build().await;
    let stored = reader.get(&key("a"), Freshness::Any).await.unwrap();
    assert!(stored.kek.ct_eq(&next) && stored.version == version);
}

#[tokio::test]
async fn an_object_that_the_server_has_deactivated_by_itself_is_not_superseded() {
    for with_index in [false, true] {
        let scene = Scene::new(Quirks { born_active: true, ..Quirks::default() }, with_index).await;
        let kek: Kek = kek();
        let version = scene.kmip().await.put(&key("a"), &kek, PutMode::Create).await.unwrap();
        scene.server.deactivate(version.as_str());
        if let Some(index) = &scene.index {
            index.remove(&key("a"));
        }
        let stored = scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap();
        assert!(stored.kek.ct_eq(&kek));
    }
}

#[tokio::test]
async fn a_list_marks_what_is_deactivated_or_destroyed_where_that_costs_few_requests() {
    let in_batches = Quirks { born_active: true, ..Quirks::default() };
    let one_by_one = Quirks { batch: Batch::Unsupported, ..in_batches.clone() };
    // The requests: versions, Locate, and the attributes of what the server still has; of the index's objects as well.
    for (quirks, with_index, marks, requests) in [
        (in_batches.clone(), true, [Some(KeyState::Expired), Some(KeyState::Destroyed), None].as_slice(), 4),
        // Without an index, the name goes with the object.
        (in_batches, false, &[Some(KeyState::Expired), None], 3),
        (one_by_one.clone(), true, &[None, None, None], 7),
        (one_by_one, false, &[Some(KeyState::Expired), None], 6),
    ] {
        let scene = Scene::new(quirks, with_index).await;
        let kmip = scene.kmip().await;
        for name in ["a", "b", "c"] {
            let version = kmip.put(&key(name), &kek(), PutMode::Create).await.unwrap();
            match name {
                "a" => scene.server.deactivate(version.as_str()),
                "b" => assert!(scene.server.destroy_as_rook(version.as_str())),
                _ => {}
            }
        }
        let before = scene.server.requests();
        let mut found: Vec<KeyInfo> = scene.kmip().await.list().try_collect().await.unwrap();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(found.iter().map(|key| key.state).collect::<Vec<_>>(), marks, "{with_index} {found:?}");
        assert_eq!(scene.server.requests() - before, requests, "{with_index}");
    }
}

/// An index whose entries cannot be changed.
#[derive(Debug)]
struct Immutable(Arc<MemoryIndex>);

#[async_trait]
impl KeyIndex for Immutable {
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>> {
        self.0.get(name).await
    }

    async fn create(&self, name: &KeyName, uid: &str) -> Result<String> {
        self.0.create(name, uid).await
    }

    async fn swap(&self, _: &KeyName, _: &str, _: &str) -> Result<String> {
        Err(Error::new(ErrorKind::PermissionDenied, "the Secret is immutable"))
    }

    async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        self.0.delete(name, version).await
    }

    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>> {
        self.0.list().await
    }
}

#[tokio::test]
async fn a_refused_swap_of_the_entry_takes_the_mark_back() {
    let scene = Scene::new(Quirks::default(), true).await;
    let index = scene.index.clone().unwrap();
    let old = kek();
    let version = scene.kmip().await.put(&key("a"), &old, PutMode::Create).await.unwrap();
    let refused = scene.setup.clone().index(Arc::new(Immutable(index.clone()))).build().await;
    let error = refused.put(&key("a"), &kek(), PutMode::Update(version.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let stored = scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap();
    assert!(stored.kek.ct_eq(&old) && stored.version == version);
    assert_eq!(scene.server.names(version.as_str()), ["rook-ceph-osd-encryption-key-a"]);
}

#[tokio::test]
async fn an_object_with_a_mark_is_current_while_the_index_names_it() {
    // An update was interrupted after it had renamed the object.
    let scene = Scene::new(Quirks::default(), true).await;
    let material = [9; 128];
    let uid = scene.server.insert(
        &material,
        &["rook-ceph-osd-encryption-key-a superseded"],
        &[("rook-kms", "rook-ceph/rook-ceph")],
    );
    let index = scene.index.as_ref().unwrap();
    index.set(&key("a"), &uid);
    let kmip = scene.kmip().await;
    // The index decides: the object is current.
    let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
    assert_eq!(stored.kek.expose_secret_text().unwrap(), STANDARD.encode(material));
    let next = kek();
    let version = kmip.put(&key("a"), &next, PutMode::Update(stored.version)).await.unwrap();
    assert!(kmip.get(&key("a"), Freshness::Fresh).await.unwrap().kek.ct_eq(&next));
    index.remove(&key("a"));
    assert!(kmip.get(&key("a"), Freshness::Fresh).await.unwrap().version == version);
}
