//! Rook's rotation, as `docs/rook-behaviour.md` describes it (rook-behaviour §12.2), with Rook's calls of cryptsetup (rook-behaviour §8.8).

use std::fmt;

use async_trait::async_trait;
use kms_core::{Freshness, Kek, KeyName, KmsProvider, PutMode};

use super::{Image, image::CHEAP_ARGON2};

/// Rook's rotation of the KEK of one OSD, which can be stopped after each step.
#[derive(Debug)]
pub struct Rook<'a> {
    kms: &'a dyn KmsProvider,
    name: &'a KeyName,
    images: &'a [Image],
    watcher: Option<&'a dyn RookWatcher>,
    steps: usize,
    limit: usize,
}

/// A step of Rook's rotation. The numbers are those of key slots.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RookStep {
    /// Read the KEK.
    Get,
    /// Add a key in this slot.
    Add(u8),
    /// Change the key of this slot to itself.
    Change(u8),
    /// Remove this slot.
    Kill(u8),
    /// Store the new KEK.
    Update,
    /// Read the new KEK back.
    ReadBack,
}

impl RookStep {
    /// Whether the step changes a device or the KMS, if it succeeds.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::ReadBack)
    }
}

/// A test that follows the steps of a rotation, and lets time pass between them.
#[async_trait]
pub trait RookWatcher: fmt::Debug + Send + Sync {
    /// A step is about to begin. Rook waits until this returns.
    async fn before(&self, step: RookStep);

    /// A step has ended. `done` is false if cryptsetup refused it, which Rook expects of some steps.
    async fn after(&self, step: RookStep, done: bool);
}

/// Why a rotation has ended early.
#[derive(Debug)]
enum Early {
    /// The test stopped it.
    Stopped,
    /// Rook's process would exit with 1, for this reason.
    GaveUp(String),
}

impl<'a> Rook<'a> {
    /// Returns a rotation that has not begun.
    #[must_use]
    pub fn new(kms: &'a dyn KmsProvider, name: &'a KeyName, images: &'a [Image]) -> Self {
        Self { kms, name, images, watcher: None, steps: 0, limit: usize::MAX }
    }

    /// Announces each step.
    #[must_use]
    pub fn watched(mut self, watcher: &'a dyn RookWatcher) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// Runs to the end, and returns the number of steps: runs of cryptsetup that write, and the update of the KMS.
    pub async fn run(self) -> usize {
        self.run_beside().await.expect("another program is at work")
    }

    /// Runs as [`run`](Self::run) beside another program.
    ///
    /// # Errors
    ///
    /// Why Rook's process would exit with 1, which happens if the other program has changed the slots or the KEK.
    pub async fn run_beside(mut self) -> Result<usize, String> {
        match self.rotate().await {
            Ok(()) => Ok(self.steps),
            Err(Early::GaveUp(why)) => Err(why),
            Err(Early::Stopped) => unreachable!("the rotation has no stop"),
        }
    }

    /// Stops after this number of steps. False if the rotation ended before.
    pub async fn run_steps(mut self, steps: usize) -> bool {
        self.limit = steps;
        match self.rotate().await {
            Ok(()) => false,
            Err(Early::Stopped) => true,
            Err(Early::GaveUp(why)) => panic!("{why}"),
        }
    }

    async fn rotate(&mut self) -> Result<(), Early> {
        let images = self.images;
        self.begin(RookStep::Get).await?;
        let current = self.kms.get(self.name, Freshness::Fresh).await.expect("get the KEK").kek;
        self.end(RookStep::Get, true).await;
        for image in images {
            self.add(image, &current, &current, 1).await?;
        }
        let new = Kek::generate().expect("a KEK");
        for image in images {
            self.kill(image, &current, 0).await?;
            self.add(image, &current, &new, 0).await?;
        }
        self.update(&new).await?;
        self.begin(RookStep::ReadBack).await?;
        let back = self.kms.get(self.name, Freshness::Fresh).await.expect("get the KEK");
        self.end(RookStep::ReadBack, true).await;
        if !back.kek.ct_eq(&new) {
            return Err(Early::GaveUp("the fetched key is not the same as the new key".to_owned()));
        }
        for image in images {
            self.kill(image, &new, 1).await?;
        }
        Ok(())
    }

    /// Stores the new KEK, whatever the KMS holds by now: Vault is asked for no condition, and of a Secret Rook reads
    /// the version just before.
    async fn update(&mut self, new: &Kek) -> Result<(), Early> {
        self.begin(RookStep::Update).await?;
        let version = self.kms.get(self.name, Freshness::Fresh).await.expect("get the version").version;
        let put = self.kms.put(self.name, new, PutMode::Update(version)).await;
        self.end(RookStep::Update, put.is_ok()).await;
        put.map(drop).map_err(|error| Early::GaveUp(format!("update: {error}")))
    }

    /// Announces the next step, and counts it if it writes.
    async fn begin(&mut self, step: RookStep) -> Result<(), Early> {
        if step.writes() {
            if self.steps == self.limit {
                return Err(Early::Stopped);
            }
            self.steps += 1;
        }
        if let Some(watcher) = self.watcher {
            watcher.before(step).await;
        }
        Ok(())
    }

    async fn end(&self, step: RookStep, done: bool) {
        if let Some(watcher) = self.watcher {
            watcher.after(step, done).await;
        }
    }

    /// Runs cryptsetup with a key file. False if it fails with `expected` in its words.
    async fn run_cryptsetup(
        &mut self,
        step: RookStep,
        image: &Image,
        key_file: &str,
        options: &[&str],
        after: &str,
        expected: &str,
    ) -> Result<bool, Early> {
        self.begin(step).await?;
        let key = format!("--key-file={key_file}");
        let (code, said) = image.run(&[&["--verbose", &key][..], options].concat(), &[after]);
        self.end(step, code == 0).await;
        match code {
            0 => Ok(true),
            _ if said.contains(expected) => Ok(false),
            _ => Err(Early::GaveUp(format!("{step:?}: {code}: {said}"))),
        }
    }

    async fn kill(&mut self, image: &Image, kek: &Kek, slot: u8) -> Result<(), Early> {
        let (file, gone) = (image.key_file(kek), format!("Keyslot {slot} is not active"));
        let options = ["luksKillSlot"];
        self.run_cryptsetup(RookStep::Kill(slot), image, &file, &options, &slot.to_string(), &gone)
            .await
            .map(drop)
    }

    async fn add(&mut self, image: &Image, kek: &Kek, new: &Kek, slot: u8) -> Result<(), Early> {
        let (file, new_file) = (image.key_file(kek), image.key_file(new));
        let (to, full) = (format!("--key-slot={slot}"), format!("Key slot {slot} is full"));
        let options = [&[to.as_str()][..], &CHEAP_ARGON2, &["luksAddKey"]].concat();
        loop {
            if self.run_cryptsetup(RookStep::Add(slot), image, &file, &options, &new_file, &full).await? {
                return Ok(());
            }
            if self.ensure(image, new, slot).await? {
                return Ok(());
            }
            self.kill(image, kek, slot).await?;
        }
    }

    /// Changes the key of a slot to itself. False if the slot has another key.
    async fn ensure(&mut self, image: &Image, kek: &Kek, slot: u8) -> Result<bool, Early> {
        let (file, to) = (image.key_file(kek), format!("--key-slot={slot}"));
        let options = [&[to.as_str()][..], &CHEAP_ARGON2, &["luksChangeKey"]].concat();
        let other = "No key available with this passphrase";
        self.run_cryptsetup(RookStep::Change(slot), image, &file, &options, &file, other).await
    }
}
