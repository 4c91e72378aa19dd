//! An OSD on images, its KEK in a KMS in memory, and what must hold at every moment.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use kms_core::{
    Capability, DeleteMode, Error, ErrorKind, Freshness, Guarantee, HistoryMode, Kek, KeyName, KeyStream,
    KeyVersion, KmsProvider, PastKek, Probe, PutMode, Result, Stored, UpdateRight, memory::Memory,
    provider::Deleted,
};
use kms_luks::Cryptsetup;
use kms_rotation::{
    Observer, Options, Osd, Phase, Report, SightStore, Silent, Step, Timer, Unchanged, rotate,
};
use kms_testkit::{fake::Scripted, luks::Image};
use tokio::time::Instant;

pub(crate) fn kek() -> Kek {
    Kek::generate().unwrap()
}

pub(crate) fn name() -> KeyName {
    "set1-data-0x7dwl".parse().unwrap()
}

/// Options without a grace period. The run passes all other waits at once.
pub(crate) fn at_once() -> Options {
    let mut options = Options::default().with_timer(Arc::new(Leap::default()));
    options.grace = Duration::ZERO;
    options
}

/// A timer whose pauses end at once, and which counts their time nevertheless.
#[derive(Default)]
pub(crate) struct Leap(Mutex<Duration>);

#[async_trait]
impl Timer for Leap {
    fn now(&self) -> Instant {
        Instant::now() + *self.0.lock().unwrap()
    }

    async fn sleep_until(&self, end: Instant) {
        let left = end.saturating_duration_since(self.now());
        *self.0.lock().unwrap() += left;
    }
}

/// A host that keeps what its runs have seen. Time passes only when a test says so.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<(Duration, Option<FirstLook>)>);

/// What was seen, when, and the grace period of that run.
type FirstLook = (String, Duration, Duration);

impl Kept {
    pub(crate) fn pass(&self, seconds: u64) {
        self.0.lock().unwrap().0 += Duration::from_secs(seconds);
    }
}

impl SightStore for Kept {
    fn unchanged_for(&self, _: &str, sight: &str, grace: Duration) -> Option<Unchanged> {
        let (now, kept) = &mut *self.0.lock().unwrap();
        let known = kept.take().filter(|(kept, ..)| kept == sight);
        let (_, since, grace) = kept.insert(known.unwrap_or_else(|| (sight.to_owned(), *now, grace)));
        Some(Unchanged { time: *now - *since, grace: *grace })
    }
}

/// A clock that is ahead by a day, for which every KEK is old.
pub(crate) fn tomorrow() -> SystemTime {
    SystemTime::now() + Duration::from_secs(24 * 3600)
}

/// An OSD and its KMS.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) kms: Arc<Scripted>,
    pub(crate) images: Vec<Image>,
    pub(crate) cryptsetup: Cryptsetup,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    /// A bench with these images, which this KEK opens.
    pub(crate) async fn with(kek: &Kek, images: Vec<Image>) -> Self {
        let memory = Memory::new();
        memory.put(&name(), kek, PutMode::Create).await.unwrap();
        let kms = Arc::new(Scripted::around(Arc::new(memory)));
        Self { kms, images, cryptsetup: Cryptsetup::new(), _folder: None }
    }

    /// A bench with this many cheap images.
    pub(crate) async fn cheap(devices: usize) -> Self {
        let kek = kek();
        let template = Image::luks2(&kek);
        Self::copies(&kek, &template, devices).await
    }

    /// A bench with this many copies of an image.
    pub(crate) async fn copies(kek: &Kek, template: &Image, devices: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = |number| {
            let place = folder.path().join(format!("{number}"));
            std::fs::create_dir(&place).unwrap();
            template.copy(place.join("image"))
        };
        let images = (0..devices).map(image).collect();
        Self { _folder: Some(folder), ..Self::with(kek, images).await }
    }

    pub(crate) fn osd(&self) -> Osd {
        let paths: Vec<PathBuf> = self.images.iter().map(|image| image.path().to_owned()).collect();
        Osd::new(name(), self.cryptsetup.devices(paths)).unwrap().confirmed()
    }

    pub(crate) async fn rotate(&self, options: &Options) -> Result<Report> {
        self.observed(options, &Silent).await
    }

    pub(crate) async fn observed(&self, options: &Options, observer: &dyn Observer) -> Result<Report> {
        rotate(&*self.kms, &self.osd(), options, observer).await
    }

    /// Rotates until the observer stops it. False if it came to its end.
    pub(crate) async fn stopped(&self, options: &Options, stop: &Stop) -> bool {
        let result = AssertUnwindSafe(self.observed(options, stop)).catch_unwind().await;
        match result {
            Err(_) => true,
            Ok(result) => {
                result.unwrap();
                false
            }
        }
    }

    /// The KEK that the KMS returns, read without the scripted faults.
    pub(crate) async fn current(&self) -> Kek {
        self.kms.inner().get(&name(), Freshness::Fresh).await.unwrap().kek
    }

    pub(crate) async fn version(&self) -> String {
        self.kms.inner().get(&name(), Freshness::Fresh).await.unwrap().version.to_string()
    }

    /// Checks what must hold at every moment: the KEK that the KMS returns opens every device.
    pub(crate) async fn holds(&self, when: &str) -> Kek {
        let current = self.current().await;
        for image in &self.images {
            assert!(
                image.opens(&current),
                "{when}: the KEK of the KMS does not open {}",
                image.path().display()
            );
        }
        current
    }

    /// Checks what must hold at the end: one slot is in use, and the KEK opens it.
    pub(crate) async fn converged(&self, when: &str) -> Kek {
        let current = self.holds(when).await;
        for image in &self.images {
            let slots = image.slots();
            assert_eq!(slots.len(), 1, "{when}: {slots:?}");
        }
        current
    }

    /// The bytes of all images.
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        self.images.iter().map(Image::bytes).collect()
    }
}

/// A provider with another capability to update, another answer about rights, or values that are no KEKs.
#[derive(Debug)]
pub(crate) struct Other {
    inner: Arc<dyn KmsProvider>,
    update: Guarantee,
    right: UpdateRight,
    malformed: Option<Kek>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl KmsProvider for Other {
    fn provider(&self) -> &'static str {
        "other"
    }

    fn capability(&self) -> Capability {
        self.inner.capability().with_update(self.update)
    }

    async fn put(&self, name: &KeyName, kek: &Kek, mode: PutMode) -> Result<KeyVersion> {
        self.inner.put(name, kek, mode).await
    }

    async fn get(&self, name: &KeyName, freshness: Freshness) -> Result<Stored> {
        let stored = self.inner.get(name, freshness).await?;
        if self.is_malformed(&stored.kek) {
            return Err(Error::new(ErrorKind::Protocol, "the stored value is not a KEK"));
        }
        Ok(stored)
    }

    async fn delete(&self, name: &KeyName, mode: DeleteMode) -> Result<Deleted> {
        self.inner.delete(name, mode).await
    }

    fn list(&self) -> KeyStream<'_> {
        self.inner.list()
    }

    async fn undelete(&self, name: &KeyName) -> Result<KeyVersion> {
        self.inner.undelete(name).await
    }

    async fn history(&self, name: &KeyName, mode: HistoryMode) -> Result<Vec<PastKek>> {
        let mut past = self.inner.history(name, mode).await?;
        for one in &mut past {
            one.kek.take_if(|kek| self.is_malformed(kek));
        }
        Ok(past)
    }

    async fn retire_superseded(&self, name: &KeyName, current: &KeyVersion) -> Result<usize> {
        self.inner.retire_superseded(name, current).await
    }

    async fn may_update(&self, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
        Ok(vec![self.right; names.len()])
    }

    async fn probe(&self, probe: &mut Probe) {
        self.inner.probe(probe).await;
    }
}

impl Other {
    pub(crate) fn around(inner: Arc<dyn KmsProvider>, update: Guarantee, right: UpdateRight) -> Self {
        Self { inner, update, right, malformed: None }
    }

    /// A provider that stores this value, and reads it as one that is no KEK.
    pub(crate) fn with_malformed(inner: Arc<dyn KmsProvider>, malformed: Kek) -> Self {
        let malformed = Some(malformed);
        Self { malformed, ..Self::around(inner, Guarantee::Atomic, UpdateRight::Granted) }
    }

    fn is_malformed(&self, kek: &Kek) -> bool {
        self.malformed.as_ref().is_some_and(|malformed| malformed.ct_eq(kek))
    }
}

/// Records the announcements.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Vec<(Step, Phase)>>);

impl Notes {
    pub(crate) fn all(&self) -> Vec<(Step, Phase)> {
        self.0.lock().unwrap().clone()
    }

    /// The steps that were done, by their text without the paths.
    pub(crate) fn done(&self) -> Vec<String> {
        let done = self.all().into_iter().filter(|(_, phase)| *phase != Phase::Before);
        done.map(|(step, _)| {
            let path = step.device().map(|path| path.display().to_string());
            match path {
                Some(path) => step.to_string().replace(&path, "DEVICE"),
                None => step.to_string(),
            }
        })
        .collect()
    }
}

impl Observer for Notes {
    fn step(&self, _: &KeyName, step: &Step, phase: Phase) {
        self.0.lock().unwrap().push((step.clone(), phase));
    }

    fn waiting(&self, _: &KeyName, _: Duration) {}
}

/// Stops the rotation at an announcement, by unwinding.
#[derive(Debug)]
pub(crate) struct Stop {
    left: Mutex<usize>,
    writes_only: bool,
}

impl Stop {
    /// Stops at the announcement of this number, counted from 0.
    pub(crate) fn at(number: usize) -> Self {
        Self { left: Mutex::new(number), writes_only: false }
    }

    /// Stops like `at`, but counts only announcements of steps that write.
    pub(crate) fn at_write(number: usize) -> Self {
        Self { writes_only: true, ..Self::at(number) }
    }
}

impl Observer for Stop {
    fn step(&self, _: &KeyName, step: &Step, _: Phase) {
        if self.writes_only && !step.writes_device() && !step.writes_kms() {
            return;
        }
        let mut left = self.left.lock().unwrap();
        if *left == 0 {
            drop(left);
            resume_unwind(Box::new("stopped by the test"));
        }
        *left -= 1;
    }

    fn waiting(&self, _: &KeyName, _: Duration) {}
}
