//! Migrations between two stores in memory, one of which fails on demand.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod copy;
mod ends;
mod journal;
mod plan;
mod switch;
mod versionless;

use std::{path::PathBuf, sync::Arc};

use kms_core::{Freshness, Kek, KeyName, KmsProvider, PutMode};
use kms_migrate::{Journal, Options, Pair, Place, Silent};
use kms_testkit::fake::Scripted;

use crate::versionless::Versionless;

/// Two stores, and the place of a journal.
struct Scene {
    from: Scripted,
    to: Scripted,
    folder: tempfile::TempDir,
}

impl Scene {
    /// A source with this number of keys, and an empty target.
    async fn with_keys(count: usize) -> Self {
        let scene = Self { from: Scripted::new(), to: Scripted::new(), folder: tempfile::tempdir().unwrap() };
        for number in 0..count {
            scene.from.put(&key(number), &Kek::generate().unwrap(), PutMode::Create).await.unwrap();
        }
        scene.reset();
        scene
    }

    /// A source with keys and an empty target, both without versions.
    async fn without_versions(count: usize) -> Self {
        let mut scene = Self::with_keys(count).await;
        for side in [&mut scene.from, &mut scene.to] {
            *side = Scripted::around(Arc::new(Versionless(side.inner().clone())));
        }
        scene
    }

    /// A source and a target that are one store.
    async fn of_one_place(count: usize) -> Self {
        let mut scene = Self::with_keys(count).await;
        scene.to = Scripted::around(scene.from.inner().clone());
        scene
    }

    fn reset(&self) {
        self.from.reset();
        self.to.reset();
    }

    fn pair(&self) -> Pair<'_> {
        Pair { from: &self.from, to: &self.to }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    fn journal(&self) -> Journal {
        let [from, to] = places();
        Journal::open_or_create(&self.path(), &from, &to).unwrap()
    }

    /// Copies all keys, which has to succeed.
    async fn copied(&self, journal: &mut Journal) {
        let copied = kms_migrate::copy(self.pair(), journal, &Options::default(), &Silent).await.unwrap();
        assert!(copied.failed.is_empty(), "{copied:?}");
    }

    async fn kek(&self, side: &Scripted, name: &KeyName) -> Option<Kek> {
        side.inner().get(name, Freshness::Fresh).await.ok().map(|stored| stored.kek)
    }

    /// Stores a new KEK at a side, as another program does.
    async fn overwrite(&self, side: &Scripted, name: &KeyName) {
        side.inner().put(name, &Kek::generate().unwrap(), PutMode::Overwrite).await.unwrap();
    }

    /// Fails unless the target has the KEKs of all these keys, each in its first version, and nothing else.
    async fn assert_copied_once(&self, count: usize) {
        for name in (0..count).map(key) {
            let there = self.to.inner().get(&name, Freshness::Fresh).await.unwrap();
            assert!(self.kek(&self.from, &name).await.unwrap().ct_eq(&there.kek), "{name}");
            assert_eq!(there.version.as_str(), "1", "{name} was written twice");
        }
        assert_eq!(names(&**self.to.inner()).await.len(), count);
    }
}

fn places() -> [Place; 2] {
    ["memory-a", "memory-b"].map(|provider| Place::new(provider, None))
}

fn key(number: usize) -> KeyName {
    format!("set1-data-{number}").parse().unwrap()
}

async fn names(kms: &dyn KmsProvider) -> Vec<KeyName> {
    use futures_util::TryStreamExt as _;
    kms.list().map_ok(|info| info.name).try_collect().await.unwrap()
}
