//! Kills create, update, retire and delete at every step, on the double, with an index and without.
//!
//! A kill drops the future and its whole provider at one request to the server or one call to the index, before or
//! after the server or the index has executed it.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and shows what it has measured"
)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::common::{Setup, kek, key};
use async_trait::async_trait;
use kms_core::{
    DeleteMode, ErrorKind, Freshness, HistoryMode, IndexEntry, Kek, KeyIndex, KeyName, KmsProvider,
    KmsProviderExt as _, PutMode, Result,
};
use kms_kmip::{Kmip, MemoryIndex};
use kms_testkit::fake::kmip::{KmipDouble, Quirks, Trick};
use tokio::sync::Notify;

/// An index that stops for ever at one of its calls.
#[derive(Debug)]
struct Stopping {
    inner: Arc<MemoryIndex>,
    at: usize,
    done: bool,
    calls: AtomicUsize,
    stopped: Notify,
}

impl Stopping {
    async fn around<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.at {
            return call.await;
        }
        if self.done {
            call.await?;
        }
        self.stopped.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl KeyIndex for Stopping {
    async fn get(&self, name: &KeyName) -> Result<Option<IndexEntry>> {
        self.around(self.inner.get(name)).await
    }

    async fn create(&self, name: &KeyName, uid: &str) -> Result<String> {
        self.around(self.inner.create(name, uid)).await
    }

    async fn swap(&self, name: &KeyName, version: &str, uid: &str) -> Result<String> {
        self.around(self.inner.swap(name, version, uid)).await
    }

    async fn delete(&self, name: &KeyName, version: &str) -> Result<()> {
        self.around(self.inner.delete(name, version)).await
    }

    async fn list(&self) -> Result<Vec<(KeyName, IndexEntry)>> {
        self.around(self.inner.list()).await
    }
}

/// The step at which a run is killed.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Request { at: usize, done: bool },
    Index { at: usize, done: bool },
}

struct Scene {
    server: KmipDouble,
    setup: Setup,
    index: Option<Arc<MemoryIndex>>,
}

impl Scene {
    async fn new(with_index: bool) -> Self {
        let server = KmipDouble::start(Quirks::default()).await.unwrap();
        let setup = Setup::on(&server.endpoint(), server.pki());
        Self { server, setup, index: with_index.then(|| Arc::new(MemoryIndex::new())) }
    }

    async fn kmip(&self) -> Kmip {
        match &self.index {
            Some(index) => self.setup.clone().index(index.clone()).build().await,
            None => self.setup.build().await,
        }
    }

    /// Runs `work` until it is killed. Returns `false` if `work` ended before.
    async fn killed<T>(&self, kill: Kill, work: impl AsyncFnOnce(Kmip) -> Result<T>) -> bool {
        match kill {
            Kill::Request { at, done } => {
                self.server.trick(at, if done { Trick::DoAndSilence } else { Trick::Silence });
                let kmip = self.kmip().await;
                let killed = tokio::select! {
                    biased;
                    () = self.server.tricked() => true,
                    result = work(kmip) => {
                        result.unwrap();
                        false
                    }
                };
                if killed && done {
                    // The double reports a trick when it begins, and completes the request in the same turn of its task.
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                self.server.no_tricks();
                killed
            }
            Kill::Index { at, done } => {
                let Some(inner) = self.index.clone() else { return false };
                let calls = AtomicUsize::new(0);
                let index = Arc::new(Stopping { inner, at, done, calls, stopped: Notify::new() });
                let kmip = self.setup.clone().index(index.clone()).build().await;
                tokio::select! {
                    () = index.stopped.notified() => true,
                    result = work(kmip) => {
                        result.unwrap();
                        false
                    }
                }
            }
        }
    }

    async fn read(&self) -> Option<Kek> {
        match self.kmip().await.get(&key("a"), Freshness::Fresh).await {
            Ok(stored) => Some(stored.kek),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Calls `test` with every kill, until a run ends before it is killed.
async fn at_every_step(test: impl AsyncFn(Scene, Kill) -> bool) {
    let mut kills = 0;
    for with_index in [false, true] {
        for done in [false, true] {
            for at in 0.. {
                if !test(Scene::new(with_index).await, Kill::Request { at, done }).await {
                    break;
                }
                kills += 1;
            }
            for at in 0.. {
                if !test(Scene::new(with_index).await, Kill::Index { at, done }).await {
                    break;
                }
                kills += 1;
            }
        }
    }
    println!("{kills} kills");
    assert!(kills > 12, "only {kills} kills");
}

#[tokio::test]
async fn a_create_that_is_killed_is_done_or_not_done_and_the_next_one_ends_with_one_object() {
    at_every_step(async |scene, kill| {
        let (first, second) = (kek(), kek());
        let killed =
            scene.killed(kill, async |kmip| kmip.put(&key("a"), &first, PutMode::Create).await).await;
        let objects = scene.server.objects();
        assert!(objects <= 1, "{kill:?}: {objects} objects");
        let before = scene.read().await;
        assert!(before.as_ref().is_none_or(|kek| kek.ct_eq(&first)), "{kill:?}");
        // The next run uses the stored KEK, or stores its own.
        let ensured = scene.kmip().await.ensure(&key("a"), second.duplicate()).await.unwrap();
        let expected = before.unwrap_or(second);
        assert!(ensured.stored.kek.ct_eq(&expected), "{kill:?}");
        assert!(scene.read().await.unwrap().ct_eq(&expected), "{kill:?}");
        assert_eq!(scene.server.objects(), 1, "{kill:?}");
        killed
    })
    .await;
}

#[tokio::test]
async fn an_update_that_is_killed_leaves_the_old_or_the_new_kek_and_at_most_one_object_more() {
    at_every_step(async |scene, kill| {
        let (old, new, third) = (kek(), kek(), kek());
        let version = scene.kmip().await.put(&key("a"), &old, PutMode::Create).await.unwrap();
        let killed =
            scene.killed(kill, async |kmip| kmip.put(&key("a"), &new, PutMode::Update(version)).await).await;
        let objects = scene.server.objects();
        assert!((1..=2).contains(&objects), "{kill:?}: {objects} objects");
        let read = scene.read().await.unwrap();
        assert!(read.ct_eq(&old) || read.ct_eq(&new), "{kill:?}");
        // The next run of a rotation: read, update, retire.
        let kmip = scene.kmip().await;
        let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
        let version = kmip.put(&key("a"), &third, PutMode::Update(stored.version)).await.unwrap();
        kmip.retire_superseded(&key("a"), &version).await.unwrap();
        assert!(scene.read().await.unwrap().ct_eq(&third), "{kill:?}");
        assert_eq!(scene.server.objects(), 1, "{kill:?}");
        killed
    })
    .await;
}

#[tokio::test]
async fn an_update_that_is_killed_leaves_one_current_object_and_after_rooks_delete_the_old_kek_is_gone() {
    at_every_step(async |scene, kill| {
        let (oldest, old, new) = (kek(), kek(), kek());
        let kmip = scene.kmip().await;
        let version = kmip.put(&key("a"), &oldest, PutMode::Create).await.unwrap();
        let version = kmip.put(&key("a"), &old, PutMode::Update(version)).await.unwrap();
        let killed =
            scene.killed(kill, async |kmip| kmip.put(&key("a"), &new, PutMode::Update(version)).await).await;
        let read = scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap();
        let of_rook = match &scene.index {
            Some(index) => {
                let entry = index.get(&key("a")).await.unwrap().unwrap();
                assert_eq!(*entry.uid, read.version.as_str(), "{kill:?}: Rook and we read the same object");
                index.remove(&key("a"));
                entry.uid.as_str().to_owned()
            }
            None => read.version.as_str().to_owned(),
        };
        assert!(scene.server.destroy_as_rook(&of_rook), "{kill:?}");
        // An update that was killed before the index named its object has left that object.
        let left = scene.read().await;
        assert!(left.is_none_or(|kek| read.kek.ct_eq(&old) && kek.ct_eq(&new)), "{kill:?}");
        scene.kmip().await.delete(&key("a"), DeleteMode::Destroy).await.unwrap();
        assert_eq!(scene.server.objects(), 0, "{kill:?}");
        killed
    })
    .await;
}

/// A rotation stores the KEK once more, then the new one. Of the two objects with the old KEK one stays, at every step.
#[tokio::test]
async fn a_rotation_that_is_killed_keeps_the_kek_before_for_a_recovery_and_the_index_names_an_object_that_is_there()
 {
    at_every_step(async |scene, kill| {
        let (old, new) = (kek(), kek());
        let version = scene.kmip().await.put(&key("a"), &old, PutMode::Create).await.unwrap();
        let rotation = async |kmip: Kmip| {
            let again = kmip.put(&key("a"), &old, PutMode::Update(version)).await?;
            kmip.put(&key("a"), &new, PutMode::Update(again)).await
        };
        let killed = scene.killed(kill, rotation).await;
        let read = scene.read().await.unwrap();
        assert!(read.ct_eq(&old) || read.ct_eq(&new), "{kill:?}");
        let kmip = scene.kmip().await;
        let history = kmip.history(&key("a"), HistoryMode::ReadOnly).await.unwrap();
        assert!(history.iter().any(|past| past.kek.as_ref().unwrap().ct_eq(&old)), "{kill:?}");
        // Without its entry, the key is found too.
        if let Some(index) = &scene.index {
            index.remove(&key("a"));
        }
        let found = scene.read().await.unwrap();
        assert!(found.ct_eq(&old) || found.ct_eq(&new), "{kill:?}");
        let stored = kmip.get(&key("a"), Freshness::Fresh).await.unwrap();
        let last = kek();
        let version = kmip.put(&key("a"), &last, PutMode::Update(stored.version)).await.unwrap();
        kmip.retire_superseded(&key("a"), &version).await.unwrap();
        assert!(scene.read().await.unwrap().ct_eq(&last), "{kill:?}");
        assert_eq!(scene.server.objects(), 1, "{kill:?}");
        killed
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_is_lost_after_a_killed_update_costs_no_key() {
    at_every_step(async |scene, kill| {
        let (old, new) = (kek(), kek());
        let version = scene.kmip().await.put(&key("a"), &old, PutMode::Create).await.unwrap();
        let killed =
            scene.killed(kill, async |kmip| kmip.put(&key("a"), &new, PutMode::Update(version)).await).await;
        // A second update is killed at the same step, which destroys the object of the first one.
        let again = kek();
        let version = scene.kmip().await.get(&key("a"), Freshness::Fresh).await.unwrap().version;
        scene.killed(kill, async |kmip| kmip.put(&key("a"), &again, PutMode::Update(version)).await).await;
        if let Some(index) = &scene.index {
            index.remove(&key("a"));
        }
        let read = scene.read().await.unwrap();
        assert!([&old, &new, &again].iter().any(|kek| read.ct_eq(kek)), "{kill:?}");
        killed
    })
    .await;
}

#[tokio::test]
async fn a_retirement_that_is_killed_never_touches_the_kek() {
    at_every_step(async |scene, kill| {
        let kmip = scene.kmip().await;
        let mut version = kmip.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        let mut last = kek();
        for _ in 0..2 {
            last = kek();
            version = kmip.put(&key("a"), &last, PutMode::Update(version)).await.unwrap();
        }
        let of = version.clone();
        let killed = scene.killed(kill, async |kmip| kmip.retire_superseded(&key("a"), &of).await).await;
        assert!(scene.read().await.unwrap().ct_eq(&last), "{kill:?}");
        scene.kmip().await.retire_superseded(&key("a"), &version).await.unwrap();
        assert!(scene.read().await.unwrap().ct_eq(&last), "{kill:?}");
        assert_eq!(scene.server.objects(), 1, "{kill:?}");
        killed
    })
    .await;
}

#[tokio::test]
async fn a_delete_that_is_killed_leaves_the_kek_or_nothing_and_the_next_one_ends_it() {
    at_every_step(async |scene, kill| {
        let kmip = scene.kmip().await;
        let (old, new) = (kek(), kek());
        let version = kmip.put(&key("a"), &old, PutMode::Create).await.unwrap();
        kmip.put(&key("a"), &new, PutMode::Update(version)).await.unwrap();
        let killed = scene.killed(kill, async |kmip| kmip.delete(&key("a"), DeleteMode::Destroy).await).await;
        // A read never returns the superseded KEK.
        assert!(scene.read().await.is_none_or(|kek| kek.ct_eq(&new)), "{kill:?}");
        match scene.kmip().await.delete(&key("a"), DeleteMode::Destroy).await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{kill:?}: {error}"),
        }
        assert_eq!(scene.server.objects(), 0, "{kill:?}");
        assert!(scene.read().await.is_none(), "{kill:?}");
        // The name is free again.
        scene.kmip().await.put(&key("a"), &kek(), PutMode::Create).await.unwrap();
        killed
    })
    .await;
}
