//! Rotations whose process is killed, and the conditions that must hold afterwards.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kms_core::{Freshness, Kek, KeyName, KmsProvider, PutMode};
use kms_luks::Cryptsetup;
use kms_rotation::{Observer, Options, Osd, Phase, Step, Timer, rotate};
use kms_testkit::luks::Image;
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::Instant;

use crate::stores::{self, Store};

/// The signal that cannot be caught.
const SIGKILL: i32 = 9;

/// Kills its own process at the announcement with a given number.
struct Killer {
    at: Option<usize>,
    count: AtomicUsize,
}

impl Observer for Killer {
    fn step(&self, _: &KeyName, _: &Step, _: Phase) {
        if Some(self.count.fetch_add(1, Ordering::Relaxed)) == self.at {
            let _dead = kill_process(getpid(), Signal::KILL);
        }
    }

    fn waiting(&self, _: &KeyName, _: Duration) {}
}

/// A timer whose pauses end at once, and which counts their time nevertheless. A process is killed between its requests,
/// so no write of its is on the way when the next run begins.
#[derive(Debug, Default)]
struct Leap(Mutex<Duration>);

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

/// Runs in the process that is killed: rotates without a grace period, and kills itself at the announcement with the
/// given number, if there is one. Arguments: `NUMBER|-`, the name, the number of devices, the devices, and the
/// arguments with which `kms` connects to the KMS.
///
/// # Errors
///
/// Those of the rotation.
pub async fn worker(arguments: &[String]) -> anyhow::Result<()> {
    let [at, name, count, rest @ ..] = arguments else { anyhow::bail!("too few arguments") };
    let (devices, rest) = rest.split_at(count.parse()?);
    let kms = stores::provider(rest).await?;
    let osd = Osd::new(name.parse()?, Cryptsetup::new().devices(devices.iter().map(PathBuf::from)))?;
    let mut options = Options::default().with_timer(Arc::new(Leap::default()));
    options.grace = Duration::ZERO;
    let killer = Killer { at: at.parse().ok(), count: AtomicUsize::new(0) };
    rotate(&*kms, &osd, &options, &killer).await?;
    Ok(())
}

/// The end of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum End {
    /// Success.
    Done,
    /// A failure, with this standard error.
    Failed(String),
    /// A kill.
    Killed,
}

impl End {
    /// Classifies the end of a process.
    ///
    /// # Panics
    ///
    /// If another signal ended it.
    pub fn of(output: &std::process::Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => Self::Done,
            (Some(_), _) => Self::Failed(String::from_utf8_lossy(&output.stderr).into_owned()),
            (None, Some(SIGKILL)) => Self::Killed,
            other => panic!("{other:?}"),
        }
    }
}

/// An OSD on images whose KEK is in a store. It can be rotated repeatedly.
#[derive(Debug)]
pub struct Subject<'a> {
    store: &'a Store,
    worker: PathBuf,
    name: KeyName,
    images: Vec<Image>,
    volume_key: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl<'a> Subject<'a> {
    /// Formats this number of images, and stores their KEK. `worker` is the program that calls [`worker`].
    pub async fn new(store: &'a Store, worker: &Path, devices: usize) -> Self {
        let kek = Kek::generate().unwrap();
        let template = Image::luks2(&kek);
        let folder = tempfile::tempdir().unwrap();
        let image = |number| {
            let place = folder.path().join(format!("{number}"));
            std::fs::create_dir(&place).unwrap();
            template.copy(place.join("image"))
        };
        let images: Vec<Image> = (0..devices).map(image).collect();
        let name: KeyName = format!("crash-{devices}-{}", kek.fingerprint()).parse().unwrap();
        store.provider.put(&name, &kek, PutMode::Create).await.unwrap();
        let volume_key = template.volume_key(&kek);
        Self { store, worker: worker.to_owned(), name, images, volume_key, _folder: folder }
    }

    /// The name of the key.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The paths of the devices.
    pub fn devices(&self) -> Vec<String> {
        self.images.iter().map(|image| image.path().display().to_string()).collect()
    }

    /// Rotates in a separate process, which is killed at the announcement with this number.
    pub fn rotate(&self, kill_at: Option<usize>) -> End {
        let at = kill_at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let output = Command::new(&self.worker)
            .arg("worker")
            .arg(at)
            .arg(self.name.as_str())
            .arg(self.images.len().to_string())
            .args(self.devices())
            .args(stores::arguments(&self.store.kms))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        End::of(&output)
    }

    /// Checks that the KEK that the KMS returns opens every device, as it must at every moment.
    ///
    /// # Panics
    ///
    /// If the condition does not hold.
    pub async fn holds(&self, when: &str) -> Kek {
        loop {
            let kek = self.current().await;
            let Some(closed) = self.images.iter().find(|image| !image.opens(&kek)) else { return kek };
            // A late write of a killed process may have arrived in between.
            if self.current().await.ct_eq(&kek) {
                panic!(
                    "{}: {when}: the KEK of the KMS does not open {} (slots {:?}): {:?}",
                    self.store.which,
                    closed.path().display(),
                    closed.slots(),
                    self.name
                );
            }
        }
    }

    async fn current(&self) -> Kek {
        self.store.provider.get(&self.name, Freshness::Fresh).await.unwrap().kek
    }

    /// Checks the state at the end: each device has one slot, which the KEK opens and which leads to the same data.
    ///
    /// # Panics
    ///
    /// If the condition does not hold.
    pub async fn converged(&self, when: &str) {
        let kek = self.holds(when).await;
        for image in &self.images {
            let slots = image.slots();
            assert_eq!(slots.len(), 1, "{}: {when}: slots {slots:?}", self.store.which);
            assert_eq!(image.volume_key(&kek), self.volume_key, "{}: {when}", self.store.which);
        }
    }

    /// Kills one run, kills the next run, and lets a third run finish. Returns the number of kills; 0 if the first run
    /// ended before the kill.
    ///
    /// # Panics
    ///
    /// If a condition does not hold.
    pub async fn round(&self, first: usize, second: usize) -> usize {
        let when = format!("{} devices, killed at {first} and {second}", self.images.len());
        let mut kills = 0;
        match self.rotate(Some(first)) {
            End::Killed => kills += 1,
            End::Done => return 0,
            End::Failed(error) => panic!("{}: {when}: {error}", self.store.which),
        }
        self.holds(&when).await;
        match self.rotate(Some(second)) {
            End::Killed => kills += 1,
            End::Done => {}
            End::Failed(error) => panic!("{}: {when}: the second run: {error}", self.store.which),
        }
        self.holds(&when).await;
        let last = self.rotate(None);
        assert_eq!(last, End::Done, "{}: {when}", self.store.which);
        self.converged(&when).await;
        kills
    }
}

/// Reproducible random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        // Xorshift, by Marsaglia (2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit.max(1)
    }
}
